"""Both pivots: what they change, their losses in closed form, prompts and steps, adapters on disk, resuming after Ctrl-C."""

import copy
import errno
import itertools
import json
import math
import os
import re
import shutil
import signal

import numpy as np
import pytest
import tiny_system
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lib.errors import NoSpaceError, PersonalWeightsError, RangeError
from lib.models import personal_weights, system
from lib.training import pivots
from lib.training.pivots import model_pivot, prepare, published_tensors, textual_pivot
from lib.training.trainer import Tuning, tune

P = pivots.pivot_prompt("person")
QUICK = Tuning(steps=2, batch=2, lr=1e-2, quiet=True)
FACTS = dict(token="sks", class_noun="person", prompt=P, gamma=0.5, steps=2, seed=0, references="0123456789abcdef")
ABAR = torch.tensor(np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2), dtype=torch.float32)


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def shots(B):
    return prepare(B, tiny_system.pictures(3), degradations=2)


@pytest.fixture
def loss_of(monkeypatch):
    """Runs a pivot without tuning and gives the loss it would have minimised: a function of a generator."""
    kept = {}

    def run(step, *args, **options):
        monkeypatch.setattr(
            pivots, "tune", lambda network, loss, tuning, name, around=(): kept.update(loss=loss, network=network)
        )
        kept["system"] = step(*args, **options)
        return lambda seed: kept["loss"](torch.Generator().manual_seed(seed))

    run.kept = kept
    return run


@pytest.fixture
def spy(B, monkeypatch):
    """What every call of add_noise, G and E was given."""
    seen = {"noise": [], "G": [], "E": []}
    add_noise = B.scheduler.add_noise
    monkeypatch.setattr(
        B.scheduler, "add_noise", lambda x0, eps, t: seen["noise"].append((x0, eps, t)) or add_noise(x0, eps, t)
    )
    for name, cls in (("G", UNet2DConditionModel), ("E", system.LatentControlNet)):

        def forward(self, x, t, prompt, *args, forward=cls.forward, calls=seen[name], **kwargs):
            calls.append((x, t, prompt, kwargs))
            return forward(self, x, t, prompt, *args, **kwargs)

        monkeypatch.setattr(cls, "forward", forward)
    return seen


def cheap(monkeypatch):
    monkeypatch.setattr(system.System, "predict", lambda self, x_t, *_: torch.zeros_like(x_t))


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


def states(B):
    return {name: tiny_system.state(module) for name, module in B.modules().items()}


def sources(x0, hints, shots):
    """(picture, degradation) of every drawn latent and hint."""
    i = [next(i for i, z in enumerate(shots.latents) if torch.equal(z, one)) for one in x0]
    return [(n, next(k for k, h in enumerate(shots.hints[n]) if torch.equal(h, one))) for n, one in zip(i, hints)]


# ---- what is made ready ----


def test_shots_hold_clean_latents_and_hints_of_degraded_pictures(B, shots):
    pictures = tiny_system.pictures(3)
    assert torch.equal(shots.latents, B.encode(pictures)) and shots.hints.shape == (3, 2, *tiny_system.LATENT)
    assert (shots.hints[:, 0] - shots.hints[:, 1]).abs().amax((1, 2, 3)).min() > 1e-3  # two degradations
    assert not any(torch.allclose(shots.hints[:, k], B.encode(B.clean(pictures)), atol=1e-4) for k in range(2))
    again, other = (prepare(B, pictures, degradations=2, seed=seed) for seed in (0, 1))
    assert torch.equal(again.hints, shots.hints) and not torch.allclose(other.hints, shots.hints)


def test_draws_pair_a_picture_with_its_own_hints_and_reach_them_all(shots):
    x0, hints = shots.draw(200, torch.Generator().manual_seed(0))
    assert set(sources(x0, hints, shots)) == set(itertools.product(range(3), range(2)))


def test_the_text_pivot():
    assert P == "a photo of a sks person" and pivots.pivot_prompt("man", "zwx") == "a photo of a zwx man"


# ---- step 1 ----


@pytest.mark.parametrize("in_context", [True, False])
def test_the_textual_pivot_changes_G_alone(B, shots, in_context):
    before = states(B)
    B_p = textual_pivot(B, shots, P, QUICK, in_context=in_context)
    after, untouched = states(B_p), states(B)
    assert all(tiny_system.same(before[part], untouched[part]) for part in before)
    assert [part for part in before if not tiny_system.same(before[part], after[part])] == ["unet"]
    assert B_p.E is B.E
    everything = [p for s in (B, B_p) for m in s.modules().values() for p in m.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in everything)
    assert not any(m.training for s in (B, B_p) for m in s.modules().values())


def test_eq_6_by_hand(B, shots, spy, loss_of):
    loss = float(loss_of(textual_pivot, B, shots, P, Tuning(batch=3, gamma=0.5))(1).detach())
    (noise,), ((_, _, prompt, _),), ((_, _, null, given),) = spy["noise"], spy["G"], spy["E"]
    hint = given["controlnet_cond"]
    assert len(sources(noise[0], hint, shots)) == 3
    assert torch.equal(prompt, B.embed([P] * 3)) and torch.equal(null, B.embed([""] * 3))
    assert loss == pytest.approx(eps_loss(B, noise, B.embed([P] * 3), hint), rel=1e-4)
    assert loss != pytest.approx(eps_loss(B, noise, B.embed([""] * 3), hint), rel=1e-4)
    assert loss_of.kept["network"] is loss_of.kept["system"].G


def test_eq_5_by_hand_and_without_E(B, shots, spy, loss_of):
    loss = float(loss_of(textual_pivot, B, shots, P, Tuning(batch=3), in_context=False)(2).detach())
    assert spy["E"] == [] and len(spy["G"]) == 1
    assert loss == pytest.approx(eps_loss(B, spy["noise"][0], B.embed([P] * 3)), rel=1e-4)


@pytest.mark.parametrize("in_context", [True, False])
def test_eq_2_adds_the_weighted_prior(B, shots, spy, loss_of, in_context):
    others = prepare(B, tiny_system.pictures(2, seed=9), degradations=2)
    step = loss_of(textual_pivot, B, shots, P, Tuning(batch=2), in_context=in_context, prior=others, prior_weight=0.3)
    loss = float(step(3).detach())
    hints = [given["controlnet_cond"] for *_, given in spy["E"]] or [None, None]
    own, prior = spy["noise"]
    assert all(any(torch.equal(z, x) for z in others.latents) for x in prior[0])
    prompts = [prompt for _, _, prompt, _ in spy["G"]]
    assert torch.allclose(prompts[1], B.embed(["a photo of a person"] * 2), atol=1e-5)
    want = eps_loss(B, own, B.embed([P] * 2), hints[0]) + 0.3 * eps_loss(
        B, prior, B.embed(["a photo of a person"] * 2), hints[1]
    )
    assert loss == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("gamma, end", [(0.0, 1000), (0.5, 500), (0.75, 250), (1.0, 1)])
def test_gamma_bounds_the_steps_of_the_textual_pivot(B, shots, spy, loss_of, monkeypatch, gamma, end):
    cheap(monkeypatch)
    step = loss_of(textual_pivot, B, shots, P, Tuning(batch=8, gamma=gamma))
    for seed in range(60):
        step(seed)
    t = torch.cat([t for *_, t in spy["noise"]])
    assert t.min() >= 0 and end * 0.95 - 1 < t.max() < end
    assert abs(float(t.float().mean()) - (end - 1) / 2) < 0.1 * end  # even


# ---- step 2 ----


@pytest.mark.parametrize("trained", ["all", "repo150"])
def test_the_model_pivot_changes_E_alone(B, shots, trained):
    before = states(B)
    B_pr = model_pivot(B, shots, P, QUICK, trained=trained)
    after, untouched = states(B_pr), states(B)
    assert all(tiny_system.same(before[part], untouched[part]) for part in before)
    assert [part for part in before if not tiny_system.same(before[part], after[part])] == ["control"]
    assert B_pr.G is B.G
    everything = [p for s in (B, B_pr) for m in s.modules().values() for p in m.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in everything)
    changed = {k for k in before["control"] if not torch.equal(before["control"][k], after["control"][k])}
    wanted = {name for name, _ in B.E.named_parameters()} if trained == "all" else published_tensors(B.E)
    assert changed == wanted


def test_eq_7_by_hand_with_the_prompt_where_eq_8_gives_it(B, shots, spy, loss_of):
    step = loss_of(model_pivot, B, shots, P, Tuning(batch=8, gamma=0.6))
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


def test_the_whole_schedule_is_tuned_and_gamma_zero_always_gives_the_prompt(B, shots, spy, loss_of, monkeypatch):
    prompts = []
    monkeypatch.setattr(
        system.System, "predict", lambda self, x, t, prompt, *_: prompts.append(prompt) or torch.zeros_like(x)
    )
    step = loss_of(model_pivot, B, shots, P, Tuning(batch=8, gamma=0.0))
    for seed in range(60):
        step(seed)
    t = torch.cat([t for *_, t in spy["noise"]])
    assert t.max() > 970 and t.min() < 30
    assert torch.allclose(torch.cat(prompts), B.embed([P]).expand(480, -1, -1), atol=1e-5)


def test_gradients_reach_E_through_a_G_that_stays_fixed(B, shots, loss_of):
    loss_of(model_pivot, B, shots, P, Tuning(batch=2))(0).backward()
    tuned = loss_of.kept["system"]
    assert all(p.grad is not None for p in tuned.E.parameters()) and all(p.grad is None for p in tuned.G.parameters())


def test_an_unknown_part_of_E_is_named(B, shots):
    with pytest.raises(PersonalWeightsError, match="'decoder'.*Remedy"):
        model_pivot(B, shots, P, QUICK, trained="decoder")
    with pytest.raises(PersonalWeightsError, match="repo150.*lora.*Remedy"):
        model_pivot(B, shots, P, Tuning(steps=1, lora=2), trained="repo150")


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
    """reference/systems.md section 1a, "Which 150 tensors", in diffusers' names."""
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
    assert {
        n for n in every if n.startswith(("time_embedding", "conv_in", "controlnet_cond", "down_blocks.0"))
    } <= names
    assert not [n for n in names if n.startswith(("mid_block", "controlnet_down", "controlnet_mid"))]


# ---- LoRA through peft ----


@pytest.fixture(scope="module")
def lora(B, shots):
    B_p = textual_pivot(B, shots, P, Tuning(steps=3, batch=2, lr=1e-2, lora=2, quiet=True))
    return model_pivot(B_p, shots, P, Tuning(steps=3, batch=2, lr=1e-2, lora=2, quiet=True))


@torch.no_grad()
def predictions(B):
    x, hint = torch.randn(2, 2, *tiny_system.LATENT, generator=torch.Generator().manual_seed(4))
    t = torch.tensor([100, 800])
    return B.predict(x, t, B.embed([P] * 2), hint, B.embed([""] * 2))


def test_only_adapters_train(B, shots, loss_of, lora):
    for step in (textual_pivot, model_pivot):
        loss_of(step, B, shots, P, Tuning(lora=2))
        trained = {n for n, p in loss_of.kept["network"].named_parameters() if p.requires_grad}
        assert trained == {n for n, _ in loss_of.kept["network"].named_parameters() if "lora_" in n} != set()
        assert {n.split(".")[-4] for n in trained} >= {
            "to_q",
            "to_k",
            "to_v",
            "0",
            "conv1",
            "conv2",
            "time_emb_proj",
            "proj",
            "proj_in",
            "proj_out",
        }
        assert not {
            n
            for n in trained
            if "controlnet_" in n or n.startswith(("base_model.model.conv_", "base_model.model.time_"))
        }
    for tuned, base in ((lora.G, B.G), (lora.E, B.E)):
        assert isinstance(tuned, PeftModel)
        kept = {
            k.replace("base_model.model.", "").replace("base_layer.", ""): v
            for k, v in tuned.state_dict().items()
            if "lora_" not in k
        }
        assert tiny_system.same(kept, base.state_dict())
        assert all(v.any() for k, v in tuned.state_dict().items() if "lora_B" in k)  # zero before training


def test_without_its_adapters_a_pivot_is_the_base(B, lora):
    assert not torch.allclose(predictions(lora), predictions(B), atol=1e-3)
    with lora.G.disable_adapter(), lora.E.disable_adapter():
        assert torch.allclose(predictions(lora), predictions(B), atol=1e-6)


def test_adapters_are_drawn_from_the_seed(B, shots):
    tuning = Tuning(steps=1, batch=1, lora=2, quiet=True)
    first = textual_pivot(B, shots, P, tuning).G.state_dict()
    torch.manual_seed(1234)
    was = torch.get_rng_state()
    assert tiny_system.same(first, textual_pivot(B, shots, P, tuning).G.state_dict())
    assert torch.equal(torch.get_rng_state(), was)  # nobody else's draws are moved


def test_a_saved_adapter_opens_with_plain_peft(B, lora, tmp_path):
    personal_weights.save(tmp_path / "pivot", lora, B, FACTS)
    G = PeftModel.from_pretrained(copy.deepcopy(B.G), str(tmp_path / "pivot" / "unet")).eval()
    E = PeftModel.from_pretrained(copy.deepcopy(B.E), str(tmp_path / "pivot" / "control")).eval()
    assert torch.equal(predictions(B.with_(G=G, E=E)), predictions(lora))
    kept = [tensor for f in (tmp_path / "pivot").rglob("*.safetensors") for tensor in load_file(f).values()]
    assert kept and {tensor.dtype for tensor in kept} == {torch.float16}  # two bytes each, and nothing lost by it


# ---- tuning does something, stops and goes on ----


def test_a_few_steps_on_one_picture_reduce_its_loss(B):
    one = prepare(B, tiny_system.pictures(1), degradations=1)

    def loss(tuned, end):
        g = torch.Generator().manual_seed(77)
        t, eps = torch.randint(end, (48,), generator=g), torch.randn(48, *tiny_system.LATENT, generator=g)
        noise = one.latents.expand(48, -1, -1, -1), eps, t
        with torch.no_grad():
            return eps_loss(tuned, noise, B.embed([P] * 48), one.hints[:, 0].expand(48, -1, -1, -1))

    tuning = Tuning(steps=25, batch=4, lr=1e-3, gamma=0.5, quiet=True)
    B_p = textual_pivot(B, one, P, tuning)
    assert loss(B_p, 500) < 0.9 * loss(B, 500)
    assert loss(model_pivot(B, one, P, tuning), 500) < 0.97 * loss(B, 500)


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("step", [textual_pivot, model_pivot])
def test_a_tuning_goes_on_from_its_checkpoint_to_the_same_end(B, shots, tmp_path, step, lora):
    whole = Tuning(steps=5, batch=2, lr=1e-3, lora=lora, seed=3, quiet=True)
    longer = Tuning(**{**vars(whole), "folder": str(tmp_path), "every": 2})
    step(B, shots, P, Tuning(**{**vars(longer), "steps": 4}))
    torch.manual_seed(5)
    resumed, want = step(B, shots, P, longer), step(B, shots, P, whole)
    for name, module in want.modules().items():
        assert tiny_system.same(module.state_dict(), resumed.modules()[name].state_dict())
    assert not any(p.requires_grad for m in resumed.modules().values() for p in m.parameters())


def test_ctrl_c_keeps_the_step_and_a_rerun_ends_the_same(B, shots, tmp_path, monkeypatch):
    tuning = Tuning(steps=5, batch=2, lr=1e-3, folder=str(tmp_path), every=100, quiet=True)
    calls, real = [], pivots._eps_loss

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(pivots, "_eps_loss", interrupted)
        with pytest.raises(KeyboardInterrupt, match="after step 3 of 5"):
            textual_pivot(B, shots, P, tuning)
    assert len(calls) == 3 and signal.getsignal(signal.SIGINT) is handler
    assert [f.name for f in tmp_path.iterdir()] == ["G in context.pt"]
    counted = []
    monkeypatch.setattr(pivots, "_eps_loss", lambda *args: counted.append(1) or real(*args))
    resumed = textual_pivot(B, shots, P, tuning)
    assert len(counted) == 2  # steps 4 and 5 alone
    again = textual_pivot(B, shots, P, tuning)
    assert len(counted) == 2 and tiny_system.same(
        again.G.state_dict(), resumed.G.state_dict()
    )  # a finished one is kept, too
    want = textual_pivot(B, shots, P, Tuning(steps=5, batch=2, lr=1e-3, quiet=True))
    assert tiny_system.same(resumed.G.state_dict(), want.G.state_dict())


@pytest.mark.parametrize("step", [textual_pivot, model_pivot])
def test_a_checkpoint_knows_its_pictures_not_the_bytes_of_their_latents(B, shots, tmp_path, step):
    """A GPU may encode the same pictures to other last digits: an interrupted tuning goes on all the same."""
    tuning = Tuning(steps=2, batch=2, lr=1e-3, quiet=True, folder=str(tmp_path), every=2)
    tuned = step(B, shots, P, tuning)
    again = step(B, pivots.Prepared(shots.latents + 1e-6, shots.hints + 1e-6, shots.source), P, tuning)
    assert tiny_system.same(tuned.G.state_dict(), again.G.state_dict()) and tiny_system.same(
        tuned.E.state_dict(), again.E.state_dict()
    )
    with pytest.raises(PersonalWeightsError, match="another tuning"):  # without a source, the bytes are what there is
        step(B, pivots.Prepared(shots.latents + 1e-6, shots.hints), P, tuning)


def test_a_checkpoint_of_anything_else_is_refused(B, shots, tmp_path):
    tuning = dict(steps=2, batch=2, lr=1e-3, quiet=True, folder=str(tmp_path), every=2)
    tuned = model_pivot(B, shots, P, Tuning(**tuning))
    assert tiny_system.same(
        model_pivot(B, shots, P, Tuning(**tuning)).E.state_dict(), tuned.E.state_dict()
    )  # finished: found again
    for other in (dict(lr=2e-3), dict(batch=3), dict(gamma=0.1), dict(seed=1), dict(lora=2), dict(steps=1)):
        with pytest.raises(PersonalWeightsError, match="checkpoint of another tuning.*Remedy"):
            model_pivot(B, shots, P, Tuning(**{**tuning, **other}))
    strangers = prepare(B, tiny_system.pictures(3, seed=8), degradations=2)
    other_G = copy.deepcopy(B.G)
    other_G.conv_out.bias.data += 1e-3
    other_vae = copy.deepcopy(B.vae)
    other_vae.quant_conv.bias.data += 1e-3
    elsewhere = prepare(B.with_(vae=other_vae), tiny_system.pictures(3), degradations=2)
    for args in (
        (B, strangers, P),
        (B, elsewhere, P),
        (B, shots, ""),
        (B.with_(G=other_G), shots, P),
    ):  # person, autoencoder, prompt, pivot
        with pytest.raises(PersonalWeightsError, match="checkpoint of another tuning.*Remedy"):
            model_pivot(*args, Tuning(**tuning))
    with pytest.raises(PersonalWeightsError, match="checkpoint of another tuning"):
        model_pivot(B, shots, P, Tuning(**tuning), trained="repo150")


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("step", [textual_pivot, model_pivot])
def test_a_checkpoint_of_another_base_is_refused(B, shots, tmp_path, step, lora):
    """An adapter's own first weights are the same on every base."""
    tuning = Tuning(steps=2, batch=2, lr=1e-3, lora=lora, quiet=True, folder=str(tmp_path), every=2)
    step(B, shots, P, tuning)
    for part in ("G", "E", "text_encoder"):
        other = copy.deepcopy(getattr(B, part))
        next(iter(other.parameters())).data += 1e-3
        with pytest.raises(PersonalWeightsError, match="checkpoint of another tuning.*Remedy"):
            step(B.with_(**{part: other}), shots, P, tuning)


def test_a_truncated_checkpoint_is_named_and_a_failed_one_leaves_the_last(B, shots, tmp_path, monkeypatch):
    tuning = Tuning(steps=2, batch=1, quiet=True, folder=str(tmp_path), every=1)
    saved, real = [], torch.save

    def full(thing, path):
        saved.append(1)
        real(thing, path)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(NoSpaceError):
            model_pivot(B, shots, P, tuning)
    assert [f.name for f in tmp_path.iterdir()] == ["E.pt"] and torch.load(tmp_path / "E.pt")["step"] == 1
    (tmp_path / "E.pt").write_bytes((tmp_path / "E.pt").read_bytes()[:5000])
    with pytest.raises(PersonalWeightsError, match="unreadable checkpoint.*Remedy"):
        model_pivot(B, shots, P, tuning)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=0),
        dict(steps=-3),
        dict(batch=0),
        dict(every=0),
        dict(gamma=1.5),
        dict(gamma=-0.1),
        dict(lr=math.nan),
        dict(lr="1e-4"),
        dict(lr=-1e-4),
        dict(lora=-1),
        dict(lora=1.5),
        dict(seed=-1),
    ],
)
def test_wrong_numbers_are_named(wrong):
    with pytest.raises(RangeError, match=f"{next(iter(wrong))}.*Remedy"):
        Tuning(**wrong)


def test_the_loop_is_adamw(tmp_path):
    """Against torch's own optimiser on a quadratic, one generator a step."""
    net = torch.nn.Linear(3, 1)
    twin, frozen = copy.deepcopy(net), net.bias.requires_grad_(False)
    twin.bias.requires_grad_(False)

    def loss_of(network):
        return lambda g: (network(torch.randn(4, 3, generator=g)) - 1).square().mean()

    tune(net, loss_of(net), Tuning(steps=4, lr=0.1, seed=2, quiet=True), "line")
    optimiser = torch.optim.AdamW([twin.weight], lr=0.1)
    for step in range(4):
        optimiser.zero_grad()
        loss_of(twin)(torch.Generator().manual_seed(2 * 1_000_003 + step)).backward()
        optimiser.step()
    assert torch.equal(net.weight, twin.weight) and torch.equal(frozen, twin.bias) and not net.training


# ---- pivots on disk ----


@pytest.fixture(scope="module")
def dual(B, shots):
    return model_pivot(textual_pivot(B, shots, P, QUICK), shots, P, QUICK)


@pytest.fixture
def folder(B, dual, tmp_path):
    personal_weights.save(tmp_path / "pivot", dual, B, FACTS)
    return tmp_path / "pivot"


def test_a_pivot_comes_back_exactly_with_its_facts(B, dual, folder):
    back, facts = personal_weights.load(folder, B)
    assert tiny_system.same(back.G.state_dict(), dual.G.state_dict()) and tiny_system.same(
        back.E.state_dict(), dual.E.state_dict()
    )
    assert back.vae is B.vae and back.fingerprint() == dual.fingerprint()
    assert {k: facts[k] for k in FACTS} == FACTS and facts["base"] == B.fingerprint()
    assert not any(p.requires_grad for m in back.modules().values() for p in m.parameters()) and not back.G.training


def test_adapters_come_back_exactly(B, lora, tmp_path):
    personal_weights.save(tmp_path / "pivot", lora, B, FACTS)
    assert torch.equal(predictions(personal_weights.load(tmp_path / "pivot", B)[0]), predictions(lora))


def test_only_what_changed_is_written(B, shots, tmp_path):
    B_p = textual_pivot(B, shots, P, QUICK)
    personal_weights.save(tmp_path / "pivot", B_p, B, FACTS)
    assert sorted(f.name for f in (tmp_path / "pivot").iterdir()) == ["pivot.json", "unet.safetensors"]
    back, _ = personal_weights.load(tmp_path / "pivot", B)
    assert back.E is B.E and tiny_system.same(back.G.state_dict(), B_p.G.state_dict())
    with pytest.raises(PersonalWeightsError, match="changes \\[\\].*Remedy"):
        personal_weights.save(tmp_path / "blind", B, B, FACTS)


def test_another_base_is_refused(folder):
    with pytest.raises(PersonalWeightsError, match="another base.*Remedy"):
        personal_weights.load(folder, tiny_system.build(1))


@pytest.mark.parametrize("fact", list(FACTS))
def test_a_missing_fact_is_named_at_both_ends(B, dual, folder, tmp_path, fact):
    with pytest.raises(PersonalWeightsError, match=f"lacks {fact}.*Remedy"):
        personal_weights.save(tmp_path / "other", dual, B, {k: v for k, v in FACTS.items() if k != fact})
    assert not (tmp_path / "other").exists()
    facts = json.loads((folder / "pivot.json").read_text())
    (folder / "pivot.json").write_text(json.dumps({k: v for k, v in facts.items() if k != fact}))
    with pytest.raises(PersonalWeightsError, match=f"lacks {fact}.*Remedy"):
        personal_weights.load(folder, B)


def test_a_missing_or_damaged_pivot_is_named_and_never_the_base_in_silence(B, folder, tmp_path):
    with pytest.raises(PersonalWeightsError, match="no pivot.*Remedy"):
        personal_weights.load(tmp_path / "nowhere", B)
    weights = (folder / "unet.safetensors").read_bytes()
    for content in (weights[:-500], b"", (folder / "control.safetensors").read_bytes()):
        (folder / "unet.safetensors").write_bytes(content)
        with pytest.raises(PersonalWeightsError, match="damaged pivot.*unet.*Remedy"):
            personal_weights.load(folder, B)
    (folder / "unet.safetensors").unlink()
    with pytest.raises(PersonalWeightsError, match="damaged pivot.*unet.*Remedy"):
        personal_weights.load(folder, B)
    (folder / "pivot.json").write_text("{")
    with pytest.raises(PersonalWeightsError, match="damaged pivot.*Remedy"):
        personal_weights.load(folder, B)


def test_lost_tensors_and_odd_facts_are_named(B, folder):
    weights, facts = load_file(folder / "unet.safetensors"), json.loads((folder / "pivot.json").read_text())
    save_file(dict(list(weights.items())[::2]), folder / "unet.safetensors")
    with pytest.raises(PersonalWeightsError, match="not as it was saved: unet.safetensors.*Remedy"):
        personal_weights.load(folder, B)
    save_file(weights, folder / "unet.safetensors")
    for odd in (
        None,
        [],
        {**facts, "changed": []},
        {**facts, "changed": 5},
        {**facts, "changed": ["Q"]},
        {**facts, "files": 3},
    ):
        (folder / "pivot.json").write_text(json.dumps(odd))
        with pytest.raises(PersonalWeightsError, match="Remedy"):
            personal_weights.load(folder, B)


def test_a_truncated_adapter_is_named(B, lora, tmp_path):
    personal_weights.save(tmp_path / "pivot", lora, B, FACTS)
    file = tmp_path / "pivot" / "unet" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PersonalWeightsError, match="damaged pivot.*unet.*Remedy"):
        personal_weights.load(tmp_path / "pivot", B)
    shutil.rmtree(tmp_path / "pivot" / "unet")
    with pytest.raises(PersonalWeightsError, match="damaged pivot.*unet.*Remedy"):
        personal_weights.load(tmp_path / "pivot", B)


@pytest.mark.parametrize(
    "failure, seen",
    [
        (OSError(errno.ENOSPC, "No space left on device"), NoSpaceError),
        (RuntimeError("broken"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_save_leaves_nothing_or_the_older_pivot(B, dual, folder, tmp_path, monkeypatch, failure, seen):
    def half(tensors, path):
        path.write_bytes(b"half")
        raise failure

    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    monkeypatch.setattr(personal_weights, "save_file", half)
    for target in (tmp_path / "fresh", folder):
        with pytest.raises(seen):
            personal_weights.save(target, dual, B, {**FACTS, "seed": 9})
    assert [f.name for f in tmp_path.iterdir()] == ["pivot"] and {
        f.name: f.read_bytes() for f in folder.iterdir()
    } == before


def test_the_hash_of_references_is_of_every_pixel():
    pictures = tiny_system.pictures(2)
    other = pictures.clone()
    other[1, 2, 3, 4] += 1 / 127.5
    assert (
        personal_weights.hash_of(pictures)
        == personal_weights.hash_of(pictures.clone())
        != personal_weights.hash_of(other)
        and len(personal_weights.hash_of(other)) == 16
    )
