"""Both pivots: what they change, their losses in closed form, prompts, gamma, and what they leave alone."""

import copy
import dataclasses
import itertools
import math
import re
from contextlib import contextmanager

import numpy as np
import pytest
import tiny_system
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel

from lib.errors import CheckpointError, PersonalWeightsError, PictureError, RangeError, TrainingError
from lib.models import system
from lib.models.personal_weights import Personal, load_personal, picture_hash
from lib.models.precision import Precision
from lib.training import pivots
from lib.training.pivots import Prepared, dual_pivot, model_pivot, prepare, textual_pivot
from lib.training.trainer import Training
from lib.training.tunable import published_tensors, tunable

P = "a photo of a sks person"
STEPS = [textual_pivot, model_pivot]
ABAR = torch.tensor(np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2), dtype=torch.float32)


def training(**changes):
    return Training(**{**dict(steps=2, batch=2, lr=1e-3, quiet=True), **changes})


@pytest.fixture(scope="module")
def others(B):
    """Prepared pictures of other people."""
    return prepare(B, tiny_system.pictures(2, seed=9), degradations=2)


@pytest.fixture
def loss_of(monkeypatch):
    """Runs a pivot without training and gives the loss it would have minimised, a function of a seed."""
    kept = {}

    def train(name, modules, loss, options, known_by=()):
        kept.update(name=name, network=modules[0], loss=loss, known_by=known_by)

    def run(step, *args, **options):
        monkeypatch.setattr(pivots, "train", train)
        kept["system"] = step(*args, **options)

        def total(seed):
            terms = kept["loss"](torch.Generator().manual_seed(seed))
            return terms if torch.is_tensor(terms) else sum(terms)

        return total

    run.kept = kept
    return run


@pytest.fixture
def spy(B, monkeypatch):
    """What each call of add_noise, G and E was given."""
    seen = {"noise": [], "G": [], "E": []}
    add_noise = type(B.scheduler).add_noise

    def noisy(self, x0, eps, t):
        seen["noise"].append((x0, eps, t))
        return add_noise(self, x0, eps, t)

    monkeypatch.setattr(type(B.scheduler), "add_noise", noisy)
    for name, cls in (("G", UNet2DConditionModel), ("E", system.LatentControlNet)):

        def forward(self, x, t, prompt, *args, forward=cls.forward, calls=seen[name], **kwargs):
            calls.append((x, t, prompt, kwargs))
            return forward(self, x, t, prompt, *args, **kwargs)

        monkeypatch.setattr(cls, "forward", forward)
    return seen


@pytest.fixture
def cheap(monkeypatch):
    """Predictions that cost nothing; the prompts of G are collected."""
    prompts = []

    def predict(self, x_t, t, prompt, *_):
        prompts.append(prompt)
        return torch.zeros_like(x_t)

    monkeypatch.setattr(system.System, "predict", predict)
    return prompts


def eps_loss(B, noise, prompt, hint=None):
    """The mean squared error of eps from first principles: x_t by the closed form, G and E called by hand."""
    x0, eps, t = noise
    a = ABAR[t][:, None, None, None]
    x_t, extra = a.sqrt() * x0 + (1 - a).sqrt() * eps, {}
    if hint is not None:
        null = B.embed([""] * len(x0))
        down, mid = B.E(x_t, t, null, controlnet_cond=hint, return_dict=False)
        extra = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
    return float((B.G(x_t, t, prompt, **extra).sample - eps).square().mean().detach())


def sources(x0, hints, data):
    """(picture, degradation) of each latent and hint that was drawn."""
    i = [next(i for i, z in enumerate(data.latents) if torch.equal(z, one)) for one in x0]
    return [(n, next(k for k, h in enumerate(data.hints[n]) if torch.equal(h, one))) for n, one in zip(i, hints)]


def parameters(*systems):
    return [p for B in systems for module in B.modules().values() for p in module.parameters()]


def is_frozen(*systems):
    still = not any(module.training for B in systems for module in B.modules().values())
    return still and all(p.grad is None and not p.requires_grad for p in parameters(*systems))


# ---- what is prepared ----


def test_prepared_are_clean_latents_and_hints_of_degraded_pictures(B, data):
    pictures = tiny_system.pictures(3)
    assert torch.equal(data.latents, B.encode(pictures)) and data.hints.shape == (3, 2, *tiny_system.LATENT)
    assert (data.hints[:, 0] - data.hints[:, 1]).abs().amax((1, 2, 3)).min() > 1e-3  # two degradations
    assert not any(torch.allclose(data.hints[:, k], B.encode(B.clean(pictures)), atol=1e-4) for k in range(2))
    again, other = (prepare(B, pictures, degradations=2, seed=seed) for seed in (0, 1))
    assert torch.equal(again.hints, data.hints) and not torch.allclose(other.hints, data.hints)
    assert data.references == picture_hash(pictures)


def test_all_settings_of_prepare_are_in_its_source(B, data):
    pictures = tiny_system.pictures(3)
    different = [
        prepare(B, pictures, degradations=2, seed=1),
        prepare(B, pictures, degradations=1),
        prepare(B, pictures, "tiny", degradations=2),
        prepare(B, pictures.flip(0), degradations=2),
    ]
    assert len({one.source for one in [data, *different]}) == 5
    assert prepare(B, pictures, B.recipe, degradations=2).source == data.source  # without one, the system's own


def test_samples_pair_a_picture_with_its_own_hints_and_reach_them_all(data):
    x0, hints = data.sample(200, torch.Generator().manual_seed(0))
    assert set(sources(x0, hints, data)) == set(itertools.product(range(3), range(2)))


@pytest.mark.parametrize("step", STEPS)
def test_pictures_that_are_not_prepared_are_named(B, dual, data, step):
    for start in (B, dual):
        with pytest.raises(PictureError, match="Tensor where prepared pictures are wanted.*Remedy.*prepare"):
            step(start, tiny_system.pictures(3))
    with pytest.raises(PictureError, match="Tensor where prepared pictures are wanted.*Remedy"):
        textual_pivot(B, data, prior=tiny_system.pictures(3))


# ---- step 1 ----


@pytest.mark.parametrize("in_context", [True, False])
def test_the_textual_pivot_changes_G_alone(B, data, in_context):
    before = tiny_system.everything(B)
    B_p = textual_pivot(B, data, training=training(), in_context=in_context)
    assert tiny_system.changed(B, B_p) == ["unet"] and B_p.E is B.E and B_p.base is B
    assert tiny_system.everything(B) == before and is_frozen(B, B_p)


def test_eq_6_by_hand(B, data, spy, loss_of):
    loss = float(loss_of(textual_pivot, B, data, training=Training(batch=3))(1).detach())
    (noise,), ((_, _, prompt, _),), ((_, _, null, given),) = spy["noise"], spy["G"], spy["E"]
    hint = given["controlnet_cond"]
    assert len(sources(noise[0], hint, data)) == 3
    assert torch.allclose(prompt, B.embed([P] * 3), atol=1e-5) and torch.allclose(null, B.embed([""] * 3), atol=1e-5)
    assert loss == pytest.approx(eps_loss(B, noise, B.embed([P] * 3), hint), rel=1e-4)
    assert loss != pytest.approx(eps_loss(B, noise, B.embed([""] * 3), hint), rel=1e-4)
    assert loss_of.kept["network"] is loss_of.kept["system"].G


def test_eq_5_by_hand_and_without_E(B, data, spy, loss_of):
    loss = float(loss_of(textual_pivot, B, data, training=Training(batch=3), in_context=False)(2).detach())
    assert spy["E"] == [] and len(spy["G"]) == 1
    assert loss == pytest.approx(eps_loss(B, spy["noise"][0], B.embed([P] * 3)), rel=1e-4)


@pytest.mark.parametrize("in_context", [True, False])
@pytest.mark.parametrize("token, noun", [("sks", "person"), ("zwx", "man"), ("o", "person")])
def test_eq_2_adds_the_weighted_prior_with_the_prompt_of_the_class(
    B, data, others, spy, loss_of, in_context, token, noun
):
    """The class prompt is the prompt without the token, whatever the token is."""
    options = dict(token=token, in_context=in_context, prior=others, weight=0.3)
    step = loss_of(textual_pivot, B, data, noun, Training(batch=2), **options)
    loss = float(step(3).detach())
    hints = [given["controlnet_cond"] for *_, given in spy["E"]] or [None, None]
    own, prior = spy["noise"]
    assert all(any(torch.equal(z, x) for z in others.latents) for x in prior[0])
    assert all(any(torch.equal(z, x) for z in data.latents) for x in own[0])
    prompts = [prompt for _, _, prompt, _ in spy["G"]]
    mine, classes = (B.embed([f"a photo of a {words}"] * 2) for words in (f"{token} {noun}", noun))
    assert torch.allclose(prompts[0], mine, atol=1e-5) and torch.allclose(prompts[1], classes, atol=1e-5)
    expected = eps_loss(B, own, mine, hints[0]) + 0.3 * eps_loss(B, prior, classes, hints[1])
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_terms_of_eq_2_have_one_backward_pass_each(B, data, others, loss_of):
    """At full size both graphs at once are 4 GB more."""
    step = loss_of(textual_pivot, B, data, training=Training(batch=2), prior=others)
    own, prior = loss_of.kept["loss"](torch.Generator().manual_seed(0))
    assert float((own + prior).detach()) == pytest.approx(float(step(0).detach()))
    only = loss_of(textual_pivot, B, data, training=Training(batch=2))
    assert torch.equal(only(0), own)  # the prior leaves the person's draws as they are


@pytest.mark.parametrize("weight", [math.nan, math.inf, "1"])
def test_a_weight_that_is_no_finite_number_is_named(B, data, others, weight):
    with pytest.raises(RangeError, match="weight.*Remedy"):
        textual_pivot(B, data, prior=others, weight=weight)


@pytest.mark.parametrize("token", ["", " "])
def test_a_prompt_without_a_token_is_refused(B, data, token):
    with pytest.raises(RangeError, match="token.*Remedy.*'sks'"):
        textual_pivot(B, data, token=token)


# ---- step 2 ----


@pytest.mark.parametrize("trained", ["all", "repo150"])
def test_the_model_pivot_changes_E_alone(B, data, trained):
    before = tiny_system.everything(B)
    B_pr = model_pivot(B, data, training(lr=1e-2), trained=trained)
    assert tiny_system.changed(B, B_pr) == ["control"] and B_pr.G is B.G
    assert tiny_system.everything(B) == before and is_frozen(B, B_pr)
    old, new = B.E.state_dict(), B_pr.E.state_dict()
    expected = {name for name, _ in B.E.named_parameters()} if trained == "all" else published_tensors(B.E)
    assert {name for name in old if not torch.equal(old[name], new[name])} == expected


def test_eq_7_by_hand_with_the_prompt_where_eq_8_gives_it(B, data, spy, loss_of):
    B_p = B.personalised(Personal(gamma=0.6))
    step = loss_of(model_pivot, B_p, data, Training(batch=8))
    for seed in range(3):
        loss = float(step(seed).detach())
        noise, (_, _, prompt, _), (_, _, null, given) = spy["noise"][0], spy["G"][0], spy["E"][0]
        t = noise[2]
        assert (t < 400).any() and (t >= 400).any()
        for one, at in zip(prompt, t):
            assert torch.allclose(one, B.embed([P if at < 400 else ""])[0], atol=1e-5)
        assert torch.allclose(null, B.embed([""] * 8), atol=1e-5)
        assert loss == pytest.approx(eps_loss(B, noise, prompt, given["controlnet_cond"]), rel=1e-4)
        for calls in spy.values():
            calls.clear()
    assert loss_of.kept["network"] is loss_of.kept["system"].E


def test_the_whole_schedule_is_tuned_and_gamma_zero_always_gives_the_prompt(B, data, spy, loss_of, cheap):
    step = loss_of(model_pivot, B.personalised(Personal(gamma=0.0)), data, Training(batch=8))
    for seed in range(60):
        step(seed)
    t = torch.cat([t for *_, t in spy["noise"]])
    assert t.max() > 970 and t.min() < 30
    assert torch.allclose(torch.cat(cheap), B.embed([P]).expand(480, -1, -1), atol=1e-5)


def test_a_blind_system_s_E_is_tuned_with_the_empty_prompt(B, data, loss_of, cheap):
    step = loss_of(model_pivot, B, data, Training(batch=8, seed=5))
    step(0)
    assert torch.allclose(torch.cat(cheap), B.embed([""]).expand(8, -1, -1), atol=1e-5)
    personal = loss_of.kept["system"].personal
    assert (personal.prompt, personal.token, personal.seed) == ("", "", 5) and personal.references == data.references


def test_an_unknown_part_of_E_is_named(B, data):
    with pytest.raises(RangeError, match="TRAINED.*'decoder'.*Remedy"):
        model_pivot(B, data, training(), trained="decoder")
    with pytest.raises(RangeError, match="'repo150' with lora 2.*Remedy"):
        model_pivot(B, data, training(lora=2), trained="repo150")


# ---- one gamma ----


@pytest.mark.parametrize("gamma, end", [(0.0, 1000), (0.5, 500), (0.75, 250), (1.0, 1)])
def test_gamma_bounds_the_steps_of_the_textual_pivot(B, data, spy, loss_of, cheap, gamma, end):
    step = loss_of(textual_pivot, B, data, training=Training(batch=8), gamma=gamma)
    for seed in range(60):
        step(seed)
    t = torch.cat([t for *_, t in spy["noise"]])
    assert t.min() >= 0 and end * 0.95 - 1 < t.max() < end
    assert abs(float(t.float().mean()) - (end - 1) / 2) < 0.1 * end  # even


@pytest.mark.parametrize("gamma, boundary", [(0.3, 700), (0.8, 200)])
def test_both_losses_the_system_and_its_card_have_one_gamma(B, data, loss_of, tmp_path, gamma, boundary):
    loss_of(textual_pivot, B, data, gamma=gamma)
    B_p = loss_of.kept["system"]
    assert B_p.personal.gamma == gamma and loss_of.kept["loss"].t_end == boundary
    loss_of(model_pivot, B_p, data)
    B_pr = loss_of.kept["system"]
    assert B_pr.personal.gamma == gamma and loss_of.kept["loss"].t_prompt == boundary
    assert loss_of.kept["loss"].t_end == 1000
    B_pr.save_personal(tmp_path / "ada")
    assert load_personal(tmp_path / "ada", B).personal == B_pr.personal
    both = loss_of(dual_pivot, B, tiny_system.pictures(2), gamma=gamma, degradations=1)
    assert both and loss_of.kept["system"].personal.gamma == gamma and loss_of.kept["loss"].t_prompt == boundary


def test_gamma_has_no_second_place():
    assert not [field.name for field in dataclasses.fields(Training) if "gamma" in field.name]
    assert [field.name for field in dataclasses.fields(Personal) if "gamma" in field.name] == ["gamma"]


@pytest.mark.parametrize("gamma", [-0.1, 1.5, math.nan, "0.5", None])
def test_a_gamma_outside_its_range_is_named(B, data, gamma):
    with pytest.raises(RangeError, match="gamma.*Remedy"):
        textual_pivot(B, data, gamma=gamma)


# ---- what a tuned system says of itself ----


def test_a_tuned_system_carries_what_belongs_to_it(B, data, loss_of):
    loss_of(textual_pivot, B, data, "man", Training(steps=7, seed=3), token="zwx", gamma=0.25)
    first = loss_of.kept["system"].personal
    assert first == Personal("zwx", "man", 0.25, (7, 0), 3, data.references)
    assert (first.prompt, first.class_prompt) == ("a photo of a zwx man", "a photo of a man")
    loss_of(model_pivot, loss_of.kept["system"], data, Training(steps=4))
    assert loss_of.kept["system"].personal == Personal("zwx", "man", 0.25, (7, 4), 3, data.references)


def test_steps_of_a_further_tuning_are_added(B, data, loss_of):
    for step in (textual_pivot, model_pivot, textual_pivot, model_pivot):
        start = loss_of.kept.get("system", B)
        loss_of(step, start, data, training=Training(steps=10 if step is textual_pivot else 3))
    assert loss_of.kept["system"].personal.steps == (20, 6) and loss_of.kept["system"].base is B


def test_dual_pivot_is_both_steps(B):
    pictures = tiny_system.pictures(2, seed=4)
    quick, quicker = training(seed=3), training(steps=1)
    both = dual_pivot(B, pictures, "man", recipe="tiny-heavy", textual=quick, model=quicker, degradations=3, gamma=0.4)
    data = prepare(B, pictures, "tiny-heavy", 3, seed=3)
    B_p = model_pivot(textual_pivot(B, data, "man", quick, gamma=0.4), data, quicker)
    assert tiny_system.changed(B_p, both) == [] and tiny_system.changed(B, both) == ["unet", "control"]
    assert both.personal == B_p.personal == Personal("sks", "man", 0.4, (2, 1), 3, picture_hash(pictures))


def test_the_settings_left_out_are_those_of_the_scale(B, data, monkeypatch):
    used = []
    monkeypatch.setattr(pivots, "train", lambda name, modules, loss, options, known_by: used.append(options))
    dual_pivot(B, tiny_system.pictures(1), degradations=1)
    monkeypatch.setattr(system.System, "size", 512)
    model_pivot(textual_pivot(B, data), data)
    assert used == [
        Training(steps=120, lr=2e-4),
        Training(steps=50, lr=1e-4),
        Training(steps=2500, lr=8e-6, batch=1),  # appendix C
        Training(steps=800, lr=5e-5, batch=1),
    ]


def test_the_largest_seed_works(B):
    quick = training(steps=1, batch=1, lora=1, seed=2**63 - 1)
    tuned = dual_pivot(B, tiny_system.pictures(2), textual=quick, model=quick, degradations=2)
    assert tuned.personal.seed == 2**63 - 1 and tiny_system.changed(B, tuned) == ["unet", "control"]


# ---- what tuning leaves alone ----


@pytest.mark.parametrize("options", [Precision(), Precision("bfloat16"), Precision(gradient_checkpointing=True)])
@pytest.mark.parametrize("step, other", [(textual_pivot, "E"), (model_pivot, "G")])
def test_a_system_that_was_built_gets_no_gradients_in_its_fixed_network(data, monkeypatch, step, other, options):
    B, losses, real = tiny_system.build(), [], pivots.train
    for module in B.modules().values():
        module.requires_grad_(True).train()

    def train(name, modules, loss, *rest):
        losses.append(loss)
        return real(name, modules, loss, *rest)

    monkeypatch.setattr(pivots, "train", train)
    tuned = step(B, data, training=training(steps=1, precision=options))
    fixed = getattr(losses[0].B, other)
    assert not fixed.training and all(p.grad is None and not p.requires_grad for p in fixed.parameters())
    assert is_frozen(B, tuned)


def test_gradients_reach_E_through_a_G_that_stays_fixed(B, data, loss_of):
    loss_of(model_pivot, B, data, Training(batch=2))(0).backward()
    tuned = loss_of.kept["system"]
    assert all(p.grad is not None for p in tuned.E.parameters()) and all(p.grad is None for p in tuned.G.parameters())


def test_the_scheduler_is_left_as_it_is(B, data):
    B = B.with_(scheduler=copy.copy(B.scheduler))
    B.scheduler.set_timesteps(7)  # somebody is sampling
    before = tiny_system.everything(B)
    tuned = model_pivot(textual_pivot(B, data, training=training()), data, training())
    assert tiny_system.everything(B) == before and tuned.scheduler is B.scheduler
    assert len(B.scheduler.timesteps) == 7


def test_the_two_pivots_draw_different_examples(B, data, spy):
    """With one generator for both, step 2 sees the noise, steps and hints of step 1 again."""
    one = training(steps=4, batch=4)
    model_pivot(textual_pivot(B, data, training=one, gamma=0.0), data, one)
    first, second = spy["noise"][:4], spy["noise"][4:]
    assert len(second) == 4
    for (x0, eps, t), (other_x0, other_eps, other_t) in zip(first, second):
        assert not torch.equal(t, other_t)
        assert not any(torch.equal(a, b) for a in eps for b in other_eps)


PARTS = {"vae", "cleaner", "text_encoder"}


@pytest.mark.parametrize(
    "step, options, in_context, waiting",
    [
        (textual_pivot, Precision(), True, PARTS | {"G"}),
        (textual_pivot, Precision(), False, PARTS | {"G", "E"}),
        (textual_pivot, Precision("bfloat16"), True, PARTS | {"G", "E"}),
        (textual_pivot, Precision(gradient_checkpointing=True), True, PARTS | {"G"}),  # its copy of E shares weights
        (textual_pivot, Precision(channels_last=True), True, PARTS | {"G", "E"}),
        (model_pivot, Precision(), True, PARTS | {"E"}),
        (model_pivot, Precision("bfloat16"), True, PARTS | {"G", "E"}),
        (model_pivot, Precision(gradient_checkpointing=True), True, PARTS | {"E"}),
    ],
)
def test_what_tuning_does_not_use_waits_on_the_cpu(B, data, monkeypatch, step, options, in_context, waiting):
    now, seen = set(), []

    @contextmanager
    def offloaded(system, *names):
        assert system is B
        now.update(names)
        yield
        now.clear()

    monkeypatch.setattr(pivots, "offloaded", offloaded)
    monkeypatch.setattr(pivots, "train", lambda name, modules, loss, *_: seen.append((set(now), loss.B)))
    step(B, data, training=training(precision=options), **({} if in_context else {"in_context": False}))
    assert seen[0][0] == waiting and now == set()
    used = {id(p) for name in ("GE" if in_context else "G") for p in getattr(seen[0][1], name).parameters()}
    assert not any(id(p) in used for name in waiting for p in getattr(B, name).parameters())


# ---- adapters ----


@torch.no_grad()
def predictions(B):
    x, hint = torch.randn(2, 2, *tiny_system.LATENT, generator=torch.Generator().manual_seed(4))
    return B.predict(x, torch.tensor([100, 800]), B.embed([P] * 2), hint, B.embed([""] * 2))


@pytest.mark.parametrize("step", STEPS)
def test_only_adapters_are_trained(B, data, loss_of, step):
    loss_of(step, B, data, training=Training(lora=2))
    names = {name for name, p in loss_of.kept["network"].named_parameters() if p.requires_grad}
    assert names == {name for name, _ in loss_of.kept["network"].named_parameters() if "lora_" in name} != set()
    layers = "to_q to_k to_v 0 conv1 conv2 time_emb_proj proj proj_in proj_out".split()
    assert {name.split(".")[-4] for name in names} >= set(layers)
    outside = ("base_model.model.conv_", "base_model.model.time_")
    assert not [name for name in names if "controlnet_" in name or name.startswith(outside)]


def test_weights_below_adapters_are_the_base_s(B, adapted):
    for tuned, base in ((adapted.G, B.G), (adapted.E, B.E)):
        assert isinstance(tuned, PeftModel)
        below = {k.replace("base_layer.", ""): v for k, v in tuned.get_base_model().state_dict().items()}
        below = {name: weight for name, weight in below.items() if "lora_" not in name}
        assert tiny_system.same(below, base.state_dict())
        assert all(v.any() for k, v in tuned.state_dict().items() if "lora_B" in k)  # zero before training
    assert is_frozen(adapted) and not torch.allclose(predictions(adapted), predictions(B), atol=1e-3)
    with adapted.G.disable_adapter(), adapted.E.disable_adapter():
        assert torch.allclose(predictions(adapted), predictions(B), atol=1e-6)


def test_adapters_are_drawn_from_the_seed(B):
    first = tunable(B.G, Training(lora=2)).state_dict()
    torch.manual_seed(1234)
    state = torch.get_rng_state()
    assert tiny_system.same(first, tunable(B.G, Training(lora=2)).state_dict())
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws are moved
    assert not tiny_system.same(first, tunable(B.G, Training(lora=2, seed=1)).state_dict())


@pytest.fixture(scope="module")
def further(B, adapted, data):
    """Adapters tuned further, with the same rank."""
    more = training(lora=2, lr=1e-2)
    return model_pivot(textual_pivot(adapted, data, training=more), data, more)


def test_adapters_of_the_same_rank_are_tuned_further(B, adapted, further, tmp_path):
    for part in ("G", "E"):
        old, new = getattr(adapted, part), getattr(further, part)
        assert isinstance(new, PeftModel) and not isinstance(new.get_base_model(), PeftModel)
        weights, changed = old.state_dict(), new.state_dict()
        assert weights.keys() == changed.keys()
        assert {k for k in weights if not torch.equal(weights[k], changed[k])} == {k for k in weights if "lora_" in k}
    assert is_frozen(adapted, further) and further.base is B
    assert (predictions(further) - predictions(adapted)).abs().max() > 1e-2
    further.save_personal(tmp_path / "ada")
    assert torch.equal(predictions(load_personal(tmp_path / "ada", B)), predictions(further))


@pytest.mark.parametrize("step", STEPS)
def test_adapters_of_another_rank_are_refused(adapted, data, step):
    message = "adapters of rank 2 under adapters of rank 4.*Remedy.*lora 2.*lora 0"
    with pytest.raises(PersonalWeightsError, match=message):
        step(adapted, data, training=training(lora=4))


def test_full_weights_tuned_on_adapters_merge_them(B, adapted, data, loss_of, tmp_path):
    loss_of(textual_pivot, adapted, data, training=Training())
    merged = loss_of.kept["system"]
    assert type(merged.G) is UNet2DConditionModel and merged.G.state_dict().keys() == B.G.state_dict().keys()
    assert torch.allclose(predictions(merged), predictions(adapted), atol=1e-4)  # the start of the training
    loss_of(model_pivot, merged, data, Training())
    merged = loss_of.kept["system"]
    assert all(p.requires_grad for p in loss_of.kept["network"].parameters())
    assert isinstance(adapted.G, PeftModel) and merged.base is B
    merged.save_personal(tmp_path / "ada")
    assert torch.equal(predictions(load_personal(tmp_path / "ada", B)), predictions(merged))


def test_adapters_beyond_half_precision_are_named(B, data):
    with pytest.raises(TrainingError, match="adapters diverged.*lora_.*Remedy"):
        textual_pivot(B, data, training=training(steps=1, lora=1, lr=1e6))


# ---- tuning does something, diverges, stops and goes on ----


def test_a_few_steps_on_one_picture_reduce_its_loss(B):
    one = prepare(B, tiny_system.pictures(1), degradations=1)

    def loss(tuned):
        g = torch.Generator().manual_seed(77)
        t, eps = torch.randint(500, (48,), generator=g), torch.randn(48, *tiny_system.LATENT, generator=g)
        noise = one.latents.expand(48, -1, -1, -1), eps, t
        with torch.no_grad():
            return eps_loss(tuned, noise, B.embed([P] * 48), one.hints[:, 0].expand(48, -1, -1, -1))

    longer = training(steps=20, batch=4)
    assert loss(textual_pivot(B, one, training=longer)) < 0.9 * loss(B)
    assert loss(model_pivot(B.personalised(Personal()), one, longer)) < 0.97 * loss(B)


@pytest.mark.parametrize("step", STEPS)
def test_a_rate_that_is_far_too_high_ends_at_the_first_loss_that_is_not_finite(B, data, tmp_path, step):
    with pytest.raises(TrainingError, match="diverged: its loss is (nan|inf) at step 2.*lower learning rate"):
        step(B, data, training=training(steps=60, lr=1e30, folder=str(tmp_path)))
    assert list(tmp_path.iterdir()) == [] and is_frozen(B)


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_tuning_goes_on_from_its_checkpoint_to_the_same_end(B, data, tmp_path, step, lora):
    expected = step(B, data, training=training(steps=3, lora=lora, seed=3))
    longer = dict(lora=lora, seed=3, folder=str(tmp_path))
    step(B, data, training=training(steps=2, **longer))
    torch.manual_seed(5)
    resumed = step(B, data, training=training(steps=3, **longer))
    assert tiny_system.changed(expected, resumed) == [] and is_frozen(resumed)


def test_files_of_checkpoints(B, data, tmp_path):
    quick = training(steps=1, batch=1, folder=str(tmp_path))
    textual_pivot(B, data, training=quick)
    textual_pivot(B, data, training=quick, in_context=False)
    model_pivot(B, data, quick)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["E.pt", "G alone.pt", "G in context.pt"]


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_knows_its_pictures_not_the_bytes_of_their_latents(B, data, tmp_path, step):
    """A GPU may encode the same pictures to other last digits: an interrupted tuning goes on all the same."""
    kept = training(folder=str(tmp_path))
    tuned = step(B, data, training=kept)
    latents, hints = data.latents + 1e-6, data.hints + 1e-6
    again = step(B, Prepared(latents, hints, data.references, data.source), training=kept)
    assert tiny_system.changed(tuned, again) == []
    with pytest.raises(CheckpointError, match="another training"):  # without a source, the bytes are what there is
        step(B, Prepared(latents, hints), training=kept)


def nudged(network):
    other = copy.deepcopy(network)
    next(iter(other.parameters())).data += 1e-3
    return other


@pytest.fixture
def known_by(loss_of):
    """What the checkpoint of a pivot is recognised by, with the network's first weights, as comparable values."""

    def of(step, *args, **options):
        loss_of(step, *args, **options)
        kept = [*loss_of.kept["network"].state_dict().values(), *loss_of.kept["known_by"]]
        return [item if isinstance(item, str) else item.double().sum().item() for item in kept]

    return of


def test_everything_that_decides_the_textual_pivot_is_in_its_checkpoint(B, data, others, known_by):
    base = known_by(textual_pivot, B, data)
    assert base == known_by(textual_pivot, B, data, gamma=np.float64(0.5))
    elsewhere = prepare(B.with_(vae=nudged(B.vae)), tiny_system.pictures(3), degradations=2)
    different = [
        known_by(textual_pivot, B, data, "man"),
        known_by(textual_pivot, B, data, token="zwx"),
        known_by(textual_pivot, B, data, gamma=0.4),
        known_by(textual_pivot, B, data, prior=others),
        known_by(textual_pivot, B, data, prior=others, weight=0.3),
        known_by(textual_pivot, B, others),
        known_by(textual_pivot, B, elsewhere),
        known_by(textual_pivot, B.with_(text_encoder=nudged(B.text_encoder)), data),
        known_by(textual_pivot, B.with_(E=nudged(B.E)), data),
        known_by(textual_pivot, B.with_(G=nudged(B.G)), data),
    ]
    assert len({str(one) for one in [base, *different]}) == 11
    assert known_by(textual_pivot, B, data, in_context=False) == known_by(
        textual_pivot, B.with_(E=nudged(B.E)), data, in_context=False
    )


def test_everything_that_decides_the_model_pivot_is_in_its_checkpoint(B, data, others, known_by):
    B_p = B.personalised(Personal())
    base = known_by(model_pivot, B_p, data)
    different = [
        known_by(model_pivot, B, data),
        known_by(model_pivot, B.personalised(Personal(gamma=0.1)), data),
        known_by(model_pivot, B.personalised(Personal(token="zwx")), data),
        known_by(model_pivot, B_p, data, trained="repo150"),
        known_by(model_pivot, B_p, others),
        known_by(model_pivot, B_p.with_(text_encoder=nudged(B.text_encoder)), data),
        known_by(model_pivot, B_p.with_(E=nudged(B.E)), data),
        known_by(model_pivot, B_p.with_(G=nudged(B.G)), data),
    ]
    assert len({str(one) for one in [base, *different]}) == 9


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_of_adapters_on_another_base_is_refused(B, data, tmp_path, step):
    """An adapter's own first weights are the same on every base."""
    kept = training(steps=1, batch=1, lora=2, folder=str(tmp_path))
    step(B, data, training=kept)
    for part in ("G", "E", "text_encoder"):
        with pytest.raises(CheckpointError, match="checkpoint of another training.*Remedy"):
            step(B.with_(**{part: nudged(getattr(B, part))}), data, training=kept)


# ---- the published code's 150 tensors ----


@pytest.fixture(scope="module")
def full_E():
    with torch.device("meta"):
        return system.LatentControlNet(
            in_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=1024,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )


def test_repo150_at_full_size(full_E):
    """The first 150 tensors of the published code's order, in diffusers' names."""
    sizes = {name: p.numel() for name, p in full_E.named_parameters()}
    whole = (
        "time_embedding.",
        "conv_in.",
        "controlnet_cond_embedding.",
        "down_blocks.0.",
        "down_blocks.1.resnets.0.",
        "down_blocks.1.attentions.0.",
        "down_blocks.1.resnets.1.",
    )
    last = re.compile(r"down_blocks\.1\.attentions\.1\.(?!proj_out|transformer_blocks\.0\.norm3)")
    names = published_tensors(full_E)
    assert names == {name for name in sizes if name.startswith(whole) or last.match(name)}
    assert len(sizes) == 325 and len(names) == 151  # 324 and 150 where the first convolution is one
    assert round(sum(sizes[n] for n in names) / 1e6, 2) == 46.30 and round(sum(sizes.values()) / 1e6, 2) == 363.15


def test_repo150_at_another_size_is_the_same_share_from_the_same_end(B):
    names, every = published_tensors(B.E), [name for name, _ in B.E.named_parameters()]
    assert len(names) / len(every) == pytest.approx(150 / 324, abs=0.01)
    first = ("time_embedding", "conv_in", "controlnet_cond", "down_blocks.0")
    assert {name for name in every if name.startswith(first)} <= names
    assert not [name for name in names if name.startswith(("mid_block", "controlnet_down", "controlnet_mid"))]
