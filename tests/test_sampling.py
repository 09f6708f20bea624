"""Restoration: eq. 8 against a loop without a scheduler, passes of G and E, seeds, batches, precision, named errors."""

import copy
import math
import threading

import numpy as np
import pytest
import tiny_system
import torch

from lib.errors import PictureError, PictureSizeError, RangeError, SeedError
from lib.images import to_uint8
from lib.models import precision
from lib.models.personal_weights import Personal
from lib.models.precision import Precision
from lib.restoration import sampling
from lib.restoration.sampling import generate, low_pass, restore, wavelet_colour_fix

STEPS, PROMPT = 6, "a photo of a sks person"
BFLOAT16 = Precision("bfloat16")


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def degraded():
    return tiny_system.pictures(4, seed=5)


@pytest.fixture
def calls(B, monkeypatch):
    """(network, prompt embedding) of every pass."""
    seen = []

    def spy(name, forward):
        def run(x, t, prompt, *args, **kwargs):
            seen.append((name, prompt.clone()))
            return forward(x, t, prompt, *args, **kwargs)

        return run

    for name in ("G", "E"):
        monkeypatch.setattr(getattr(B, name), "forward", spy(name, getattr(B, name).forward))
    return seen


def prompts_of(B, calls, name):
    """A letter for each pass of a network: "p" with the text, "0" with the empty prompt."""
    null, text = B.embed(["", PROMPT])
    found = [e for n, e in calls if n == name]
    assert all(torch.equal(e[0], null) or torch.equal(e[0], text) for e in found)
    return "".join("0" if torch.equal(e[0], null) else "p" for e in found)


@torch.no_grad()
def by_hand(B, picture, prompt, seed, steps, gamma, w):
    """Eq. 8 with ancestral steps (Ho et al. 2020, eqs 6, 7, 15), respaced as by Nichol and Dhariwal 2021."""
    beta = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=np.float64) ** 2
    abar = np.cumprod(1 - beta)
    times = np.linspace(0, 999, steps).round().astype(int)[::-1]
    cleaned = B.clean(picture[None])
    hint, null, text = B.encode(cleaned), B.embed([""]), B.embed([prompt])
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(hint.shape, generator=g)
    for k, t in enumerate(times):
        at = abar[t]
        before = abar[times[k + 1]] if k + 1 < steps else 1.0
        tt = torch.tensor([int(t)])
        eps = B.predict(x, tt, null, hint, null)
        if k >= gamma * steps:
            eps = w * B.predict(x, tt, text, hint, null) + (1 - w) * eps
        x0 = (x - math.sqrt(1 - at) * eps) / math.sqrt(at)
        step = 1 - at / before
        mean = math.sqrt(before) * step / (1 - at) * x0 + math.sqrt(at / before) * (1 - before) / (1 - at) * x
        variance = (1 - before) / (1 - at) * step
        x = mean + math.sqrt(variance) * torch.randn(x.shape, generator=g) if t > 0 else mean
    return B.decode(x)


# ---- eq. 8 ----


@pytest.mark.parametrize("gamma, w", [(0.0, 1.0), (0.5, 1.0), (0.5, 2.0), (0.0, 0.5), (0.25, 3.0)])
def test_eq_8_equals_a_loop_without_a_scheduler(B, degraded, gamma, w):
    steps = 8
    got = restore(B, degraded[:2], PROMPT, seeds=[11, 12], steps=steps, gamma=gamma, w=w, colour_fix=False)
    want = torch.cat([by_hand(B, d, PROMPT, s, steps, gamma, w) for d, s in zip(degraded, (11, 12))])
    assert torch.allclose(got, want, atol=2e-4)
    blind = restore(B, degraded[:2], "", seeds=[11, 12], steps=steps, colour_fix=False)
    assert (got - blind).abs().max() > 4e-3  # the prompt matters


def test_the_steps_are_those_of_the_published_sampler(B, degraded):
    seen = []
    restore(B, degraded[:1], seeds=[0], steps=50, callback=lambda state: seen.append(state["t"]))
    assert seen[:3] == [999, 979, 958] and seen[-3:] == [41, 20, 0] and len(seen) == 50  # SpacedSampler's


# ---- which passes are made ----


@pytest.mark.parametrize(
    "gamma, w, passes",
    [(0.0, 1.0, "p" * 6), (0.5, 1.0, "000ppp"), (0.5, 2.0, "000" + "p0" * 3), (1.0, 2.0, "0" * 6), (0.0, 0.0, "0" * 6)],
)
def test_no_pass_is_made_in_vain_and_E_always_has_the_empty_prompt(B, degraded, calls, gamma, w, passes):
    restore(B, degraded[:2], PROMPT, seeds=[1, 2], steps=STEPS, gamma=gamma, w=w)
    assert prompts_of(B, calls, "G") == passes
    assert prompts_of(B, calls, "E") == "0" * STEPS


def test_without_a_prompt_guidance_costs_nothing(B, degraded, calls):
    guided = restore(B, degraded[:2], "", seeds=[1, 2], steps=STEPS, w=3.0)
    assert prompts_of(B, calls, "G") == prompts_of(B, calls, "E") == "0" * STEPS
    assert torch.equal(guided, restore(B, degraded[:2], "", seeds=[1, 2], steps=STEPS))


def test_gamma_one_with_any_prompt_is_blind(B, degraded):
    blind = restore(B, degraded[:2], "", seeds=[1, 2], steps=STEPS)
    assert torch.equal(restore(B, degraded[:2], PROMPT, seeds=[1, 2], steps=STEPS, gamma=1.0, w=3.0), blind)
    assert not torch.equal(restore(B, degraded[:2], PROMPT, seeds=[1, 2], steps=STEPS, gamma=0.0), blind)


# ---- samplers, and guidance in an interval ----


class Gaussian:
    """The exact noise prediction for clean latents from a normal distribution of that mean and deviation."""

    shape = (2, 4, 8, 8)

    def __init__(self, B, mean=0.3, deviation=0.5):
        self.B, self.mean, self.deviation = B, mean, deviation

    def __call__(self, x_t, t):
        abar = self.B.scheduler.alphas_cumprod[t]
        variance = abar * self.deviation**2 + 1 - abar
        return (1 - abar).sqrt() * (x_t - abar.sqrt() * self.mean) / variance

    def end(self, x_T):
        """Where the probability-flow ODE takes x_T: the same quantile of the clean distribution."""
        abar = self.B.scheduler.alphas_cumprod[-1]
        scale = (abar * self.deviation**2 + 1 - abar).sqrt()
        return self.mean + self.deviation * (x_T - abar.sqrt() * self.mean) / scale


def test_deterministic_samplers_solve_the_ode(B):
    exact = Gaussian(B)
    first = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])

    def error(sampler, steps):
        x_0 = sampling.sample(exact, sampling.scheduler_of(B, sampler), steps, [1, 2])
        return float((x_0 - exact.end(first)).abs().max())

    assert error("ddim", 200) < 0.03 < error("ddim", 10)
    assert error("dpm++", 25) < 0.01 and error("dpm++", 10) < error("ddim", 10) / 2
    assert error("ddpm", 200) > 0.1  # ancestral: other noise comes in


def test_the_ancestral_sampler_is_the_default_and_each_seed_has_its_picture(B, degraded):
    how = dict(seeds=[1, 2], steps=STEPS)
    assert torch.equal(restore(B, degraded[:2], **how), restore(B, degraded[:2], sampler="ddpm", **how))
    for sampler in ("ddim", "dpm++"):
        both = restore(B, degraded[:2], sampler=sampler, **how)
        alone = restore(B, degraded[1:2], seeds=[2], steps=STEPS, sampler=sampler)
        torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)
        assert not torch.allclose(both, restore(B, degraded[:2], **how), atol=1e-3)


def test_guidance_counts_in_its_interval_only(B, degraded, calls):
    restore(B, degraded[:1], PROMPT, seeds=0, steps=10, w=3.0, w_interval=(300, 700))
    inside = sum(300 <= t < 700 for t in range(999, 0, -100))
    assert [name for name, _ in calls].count("G") == 10 + inside and 0 < inside < 10
    assert [name for name, _ in calls].count("E") == 10


def test_an_interval_of_everything_is_plain_guidance_and_of_nothing_is_none(B, degraded):
    how = dict(prompt=PROMPT, seeds=0, steps=STEPS)
    everywhere = restore(B, degraded[:1], w=3.0, w_interval=(0, 1000), **how)
    nowhere = restore(B, degraded[:1], w=3.0, w_interval=(1000, 2000), **how)
    assert torch.equal(everywhere, restore(B, degraded[:1], w=3.0, **how))
    assert torch.equal(nowhere, restore(B, degraded[:1], **how)) and not torch.equal(nowhere, everywhere)


@pytest.mark.parametrize("wrong", [(5, 5), (7, 3), (1,), 3, "ab", (float("nan"), 4), None])
def test_an_interval_that_is_none_is_refused(B, degraded, wrong):
    with pytest.raises(RangeError, match="w_interval.*Remedy"):
        restore(B, degraded[:1], seeds=0, w_interval=wrong)


def test_an_unknown_sampler_is_refused_by_name(B, degraded):
    with pytest.raises(RangeError, match="sampler.*ddpm, ddim, dpm"):
        restore(B, degraded[:1], seeds=0, sampler="euler")


# ---- seeds, batches, callback ----


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_do_not_change_a_picture(B, degraded, batch):
    options = dict(seeds=[7, 8, 9, 10], steps=STEPS, gamma=0.5, w=2.0)
    together, apart = (to_uint8(restore(B, degraded, PROMPT, batch=n, **options)).astype(int) for n in (4, batch))
    assert abs(together - apart).max() <= 1


def test_a_seed_is_one_picture(B, degraded):
    three = degraded[:1].repeat(3, 1, 1, 1)
    first = restore(B, three, seeds=[5, 6, 5], steps=STEPS)
    assert torch.allclose(first[0], first[2], atol=1e-5)
    assert (first[0] - first[1]).abs().mean() > 0.01
    torch.manual_seed(99)  # the global generator has no say
    assert torch.equal(restore(B, three, seeds=np.array([5, 6, 5]), steps=STEPS), first)


def test_the_callback_gets_a_dict_of_every_step_in_order(B, degraded):
    seen = []
    out = restore(B, degraded[:3], seeds=[1, 2, 3], steps=STEPS, batch=2, colour_fix=False, callback=seen.append)
    assert all(state.keys() == {"step", "t", "eps", "x_t", "x_0"} for state in seen)
    assert [state["step"] for state in seen] == [*range(STEPS)] * 2
    times = [state["t"] for state in seen]
    assert times[:STEPS] == times[STEPS:] == sorted(times[:STEPS], reverse=True) and times[STEPS - 1] == 0
    assert [len(state["x_t"]) for state in seen] == [2] * STEPS + [1] * STEPS
    last = [seen[STEPS - 1], seen[-1]]
    assert torch.allclose(torch.cat([B.decode(state["x_t"]) for state in last]), out, atol=1e-5)
    assert torch.allclose(last[1]["x_t"], last[1]["x_0"], atol=1e-4)  # the last x_t is the last x_0
    for before, state in zip(seen[: STEPS - 1], seen[1:STEPS]):
        abar = B.scheduler.alphas_cumprod[state["t"]]
        x_0 = (before["x_t"] - (1 - abar).sqrt() * state["eps"]) / abar.sqrt()  # (N, C, h, w)
        assert torch.allclose(state["x_0"], x_0, atol=1e-4)


def test_restored_pictures_have_the_shape_and_range_of_pictures(B, degraded):
    out = restore(B, degraded, seeds=[1, 2, 3, 4], steps=2)
    assert out.shape == degraded.shape and out.dtype == torch.float32
    assert out.device.type == "cpu" and not out.requires_grad
    assert out.abs().max() <= 1 and out.isfinite().all()


@pytest.mark.parametrize("seeds", [7, np.int64(7), torch.tensor(7), np.array(7), range(7, 10), torch.arange(7, 10)])
def test_a_single_seed_counts_on(B, degraded, seeds):
    assert torch.equal(
        restore(B, degraded[:3], seeds=seeds, steps=2), restore(B, degraded[:3], seeds=[7, 8, 9], steps=2)
    )


def test_a_single_picture_is_a_batch_of_one(B, degraded):
    assert torch.equal(restore(B, degraded[0], seeds=3, steps=2), restore(B, degraded[:1], seeds=[3], steps=2))


def test_numbers_of_numpy_are_numbers(B, degraded):
    numbers = dict(steps=np.int64(4), gamma=np.float32(0.5), w=np.float64(2.0), batch=np.int32(2), seeds=np.arange(4))
    plain = dict(steps=4, gamma=0.5, w=2.0, batch=2, seeds=[0, 1, 2, 3])
    assert torch.equal(restore(B, degraded, PROMPT, **numbers), restore(B, degraded, PROMPT, **plain))


def test_a_small_overshoot_is_cut_off(B, degraded):
    """Bicubic resizing leaves [-1, 1] by a little."""
    over = degraded[:1].clone()
    over[0, 0, 0, 0] = 1 + 1e-4
    assert torch.equal(restore(B, over, seeds=0, steps=2), restore(B, over.clamp(-1, 1), seeds=0, steps=2))


# ---- one loop beside another ----


def test_a_restoration_inside_a_callback_changes_neither(B, degraded):
    alone = {steps: restore(B, degraded[:1], seeds=0, steps=steps) for steps in (9, 5)}
    inner = []
    outer = restore(
        B, degraded[:1], seeds=0, steps=9, callback=lambda _: inner.append(restore(B, degraded[:1], seeds=0, steps=5))
    )
    assert torch.equal(outer, alone[9]) and len(inner) == 9
    assert all(torch.equal(pictures, alone[5]) for pictures in inner)


def test_restorations_in_two_threads_do_not_touch_each_other(B, degraded):
    alone = {steps: restore(B, degraded[:1], seeds=0, steps=steps) for steps in (12, 9)}
    together, started = {}, threading.Barrier(2)

    def run(steps):
        def meet(state):
            if state["step"] < 3:  # both loops run at the same time
                started.wait(10)

        together[steps] = restore(B, degraded[:1], seeds=0, steps=steps, callback=meet)

    threads = [threading.Thread(target=run, args=(steps,)) for steps in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together.keys() == alone.keys() and all(torch.equal(together[steps], alone[steps]) for steps in alone)


def test_restoring_leaves_the_scheduler_as_it_is(B, degraded):
    before = copy.deepcopy(vars(B.scheduler))
    restore(B, degraded[:1], seeds=0, steps=3)
    assert vars(B.scheduler).keys() == before.keys() and torch.equal(B.scheduler.timesteps, before["timesteps"])


# ---- precision ----


def test_guidance_is_combined_in_single_precision(B, degraded):
    """w = 5 multiplies the rounding of bfloat16 by up to nine."""
    hint = B.encode(degraded[:2])
    x_t = torch.randn(hint.shape, generator=torch.Generator().manual_seed(0))
    low = BFLOAT16.sampling(B)
    at = {w: sampling.Denoiser(low, PROMPT, hint, 0.0, w, BFLOAT16)(x_t, torch.tensor(300)) for w in (0.0, 1.0, 5.0)}
    assert all(eps.dtype == torch.float32 for eps in at.values())
    assert torch.equal(at[5.0], 5.0 * at[1.0] + (1 - 5.0) * at[0.0]) and not torch.equal(at[0.0], at[1.0])


def test_bfloat16_networks_are_copied_once_and_again_after_a_change(degraded, monkeypatch):
    B, copies, used = tiny_system.build(), [], []
    deepcopy = copy.deepcopy
    monkeypatch.setattr(precision.copy, "deepcopy", lambda network: copies.append(type(network)) or deepcopy(network))
    for network in (B.G, B.E):  # hooks are copied with the network
        network.register_forward_pre_hook(lambda module, _: used.append(module.conv_in.weight.dtype))
    first = restore(B, degraded[:2], seeds=0, steps=2, batch=1, precision=BFLOAT16)
    assert torch.equal(restore(B, degraded[:2], seeds=0, steps=2, batch=1, precision=BFLOAT16), first)
    assert len(copies) == 2 and set(used) == {torch.bfloat16} and len(used) == 2 * 2 * 2 * 2
    assert B.G.conv_in.weight.dtype == B.E.conv_in.weight.dtype == torch.float32
    with torch.no_grad():
        B.G.conv_in.weight.mul_(1.5)
    assert not torch.equal(restore(B, degraded[:2], seeds=0, steps=2, precision=BFLOAT16), first) and len(copies) == 3


def test_bfloat16_restores_nearly_the_same_picture(B, degraded):
    low, high = (restore(B, degraded[:2], PROMPT, seeds=0, steps=STEPS, precision=p) for p in (BFLOAT16, Precision()))
    assert 0 < float((low - high).abs().mean()) < 0.02


# ---- a personalised system ----


@pytest.fixture(scope="module")
def B_p(B):
    return B.personalised(Personal(token="sks", class_noun="person", gamma=0.5))


def test_prompt_and_gamma_are_those_of_the_tuned_system(B, B_p, degraded):
    want = restore(B, degraded[:2], PROMPT, seeds=0, steps=STEPS, gamma=0.5)
    assert torch.equal(restore(B_p, degraded[:2], seeds=0, steps=STEPS), want)
    assert not torch.equal(restore(B, degraded[:2], PROMPT, seeds=0, steps=STEPS), want)
    assert not torch.equal(restore(B, degraded[:2], seeds=0, steps=STEPS), want)


@pytest.mark.parametrize("prompt", [None, PROMPT, "a photo of a sks person, smiling"])
def test_a_smaller_gamma_than_was_tuned_is_refused_unless_permitted(B, B_p, degraded, prompt):
    options = dict(seeds=0, steps=STEPS, gamma=0.25)
    with pytest.raises(RangeError, match="0.25.*tuned with 0.5.*Remedy.*allow_untuned_steps"):
        restore(B_p, degraded[:1], prompt, **options)
    permitted = restore(B_p, degraded[:1], prompt, allow_untuned_steps=True, **options)
    assert torch.equal(permitted, restore(B, degraded[:1], prompt or PROMPT, **options))


def test_a_larger_gamma_and_the_empty_prompt_are_accepted(B, B_p, degraded):
    later = restore(B_p, degraded[:1], seeds=0, steps=STEPS, gamma=0.75)
    assert torch.equal(later, restore(B, degraded[:1], PROMPT, seeds=0, steps=STEPS, gamma=0.75))
    blind = restore(B_p, degraded[:1], "", seeds=0, steps=STEPS, gamma=0.0)
    assert torch.equal(blind, restore(B, degraded[:1], seeds=0, steps=STEPS))


def test_the_tuned_gamma_in_single_precision_is_the_tuned_gamma(B, degraded):
    B_p = B.personalised(Personal(gamma=0.7))  # np.float32(0.7) is smaller by 1e-8
    rounded = restore(B_p, degraded[:1], seeds=0, steps=STEPS, gamma=np.float32(0.7))
    assert torch.equal(rounded, restore(B_p, degraded[:1], seeds=0, steps=STEPS))


# ---- pictures that G generates alone ----


def test_generated_pictures_are_guided_and_need_no_E(B, calls):
    made = generate(B, PROMPT, [4, 5, 6], steps=STEPS, batch=2)
    assert made.shape == (3, 3, 64, 64) and made.abs().max() <= 1
    assert prompts_of(B, calls, "G") == "0p" * 2 * STEPS and prompts_of(B, calls, "E") == ""
    assert torch.allclose(generate(B, PROMPT, [6], steps=STEPS)[0], made[2], atol=1e-4)
    assert not torch.allclose(generate(B, "", [6], steps=STEPS)[0], made[2], atol=1e-2)
    x_t, t = torch.randn(1, *tiny_system.LATENT, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    null, text = (B.predict(x_t, t, B.embed([prompt])) for prompt in ("", PROMPT))
    guided = sampling.PriorDenoiser(B, PROMPT, 1, 7.5, Precision())(x_t, t)
    assert torch.allclose(guided, null + 7.5 * (text - null), atol=1e-4)


@pytest.mark.parametrize(
    "wrong, error",
    [(dict(steps=1), RangeError), (dict(steps=1001), RangeError), (dict(batch=0), RangeError)]
    + [(dict(w=math.nan), RangeError), (dict(seeds=[-1]), SeedError)],
)
def test_wrong_numbers_for_generated_pictures_are_named(B, calls, wrong, error):
    with pytest.raises(error, match="Remedy"):
        generate(B, PROMPT, **{"seeds": [0], **wrong})
    assert calls == []


# ---- the wavelet colour fix ----


def test_low_pass_keeps_a_constant_and_its_kernel_sums_to_one():
    constant = torch.full((1, 3, 40, 40), 0.3)
    assert torch.allclose(low_pass(constant, 5), constant, atol=1e-6)
    spot = torch.zeros(1, 1, 65, 65)
    spot[..., 32, 32] = 1
    blurred = low_pass(spot, 3)  # reaches 1 + 2 + 4 pixels, far from the edge
    assert (
        abs(float(blurred.sum()) - 1) < 1e-6 and torch.allclose(blurred, blurred.transpose(2, 3)) and blurred.min() >= 0
    )


@pytest.mark.parametrize("levels", [1, 3])
def test_low_pass_is_the_product_of_its_binomials(levels):
    spot = torch.zeros(1, 1, 33, 33)
    spot[..., 16, 16] = 1
    line = np.ones(1)
    for level in range(levels):
        holes = np.zeros(2 * 2**level + 1)
        holes[:: 2**level] = (0.25, 0.5, 0.25)
        line = np.convolve(line, holes)
    reach = len(line) // 2
    want = np.zeros((33, 33))
    want[16 - reach : 17 + reach, 16 - reach : 17 + reach] = np.outer(line, line)
    assert np.allclose(low_pass(spot, levels)[0, 0].numpy(), want, atol=1e-7)


def test_low_pass_repeats_edges_and_keeps_colours_apart():
    edge = torch.zeros(1, 3, 16, 16)
    edge[:, 1, :, 8:] = 1
    blurred = low_pass(edge, 1)
    assert torch.equal(blurred[:, (0, 2)], torch.zeros(1, 2, 16, 16))
    assert torch.allclose(blurred[0, 1, 0, [0, 7, 8, 15]], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_the_fix_takes_low_frequencies_of_one_and_high_ones_of_the_other():
    restored, cleaned = 0.4 * tiny_system.pictures(2, 1), 0.4 * tiny_system.pictures(2, 2)
    fixed = wavelet_colour_fix(restored, cleaned)
    assert fixed.abs().max() < 1  # nothing was clamped
    assert torch.allclose(fixed - low_pass(cleaned, 5), restored - low_pass(restored, 5), atol=1e-6)
    low, want, without = (low_pass(x, 5) for x in (fixed, cleaned, restored))
    assert (low - want).abs().mean() < 0.5 * (without - want).abs().mean()  # not zero: the blur is no projection
    assert torch.allclose(wavelet_colour_fix(restored, restored), restored, atol=1e-6)
    assert torch.allclose(wavelet_colour_fix(restored + 0.3, restored), restored, atol=1e-6)  # a cast is undone
    assert wavelet_colour_fix(restored, torch.ones_like(restored)).max() <= 1


def test_restore_fixes_the_colours_of_what_was_decoded_before_anything_is_clamped(degraded):
    """Clamping first would take away brightness that the fix would have moved back into the range."""
    B, seen = tiny_system.build(), []
    with torch.no_grad():
        B.vae.decoder.conv_out.weight.mul_(8)
    fixed = restore(B, degraded[:2], seeds=[1, 2], steps=STEPS, callback=seen.append)
    decoded, cleaned = B.decode(seen[-1]["x_0"], clamp=False), B.clean(degraded[:2])  # (2, 3, 64, 64)
    assert decoded.abs().max() > 1.2
    assert torch.allclose(fixed, wavelet_colour_fix(decoded, cleaned), atol=1e-4)
    assert not torch.allclose(fixed, wavelet_colour_fix(decoded.clamp(-1, 1), cleaned), atol=1e-2)
    plain = restore(B, degraded[:2], seeds=[1, 2], steps=STEPS, colour_fix=False)
    assert torch.allclose(plain, decoded.clamp(-1, 1), atol=1e-4)


# ---- named errors, before any work ----


@pytest.mark.parametrize(
    "wrong, error",
    [
        (dict(steps=0), RangeError),
        (dict(steps=-1), RangeError),
        (dict(steps=2.5), RangeError),
        (dict(steps=True), RangeError),
        (dict(steps=1), RangeError),
        (dict(steps=1001), RangeError),
        (dict(gamma=-0.1), RangeError),
        (dict(gamma=1.1), RangeError),
        (dict(gamma=math.nan), RangeError),
        (dict(w=math.inf), RangeError),
        (dict(w=math.nan), RangeError),
        (dict(w="1"), RangeError),
        (dict(batch=0), RangeError),
        (dict(seeds=[1]), SeedError),
        (dict(seeds=[1, 2, 3]), SeedError),
        (dict(seeds=[1, 2.5]), SeedError),
        (dict(seeds=[1, -2]), SeedError),
        (dict(seeds=[1, True]), SeedError),
        (dict(seeds=True), SeedError),
        (dict(seeds=-1), SeedError),
        (dict(seeds=None), SeedError),
        (dict(seeds=2**63), SeedError),
    ],
)
def test_wrong_numbers_are_named(B, degraded, calls, wrong, error):
    with pytest.raises(error, match="Remedy"):
        restore(B, degraded[:2], **{"seeds": [1, 2], "steps": STEPS, **wrong})
    assert calls == []


@pytest.mark.parametrize("shape", [(2, 3, 128, 128), (2, 3, 64, 48), (2, 1, 64, 64), (1, 64, 64), (0, 3, 64, 64)])
def test_pictures_of_another_size_are_named(B, calls, shape):
    with pytest.raises(PictureSizeError, match="Remedy"):
        restore(B, torch.zeros(shape), seeds=list(range(shape[0])), steps=STEPS)
    assert calls == []


@pytest.mark.parametrize("value", [255.0, -1.01, math.nan])
def test_pictures_outside_of_their_range_are_named(B, calls, value):
    x = torch.zeros(2, 3, 64, 64)
    x[1, 2, 3, 4] = value
    with pytest.raises(PictureError, match=r"\[-1, 1\].*Remedy"):
        restore(B, x, seeds=[1, 2], steps=STEPS)
    assert calls == []


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("steps", [5, 25, 50])
def test_the_prompt_is_used_at_the_very_steps_that_were_tuned_with_it(B, monkeypatch, gamma, steps):
    """Tuning draws t < (1 - gamma) T; the prompt must be used at these t alone, however many steps there are."""
    weights = []

    def guided_eps(B, x_t, t, text, null, hint, w, precision):
        weights.append((int(t), w))
        return torch.zeros_like(x_t)

    monkeypatch.setattr(sampling, "guided_eps", guided_eps)
    restore(B, torch.zeros(1, 3, 64, 64), "p", seeds=[1], steps=steps, gamma=gamma)
    assert len(weights) == steps and all((w == 1.0) == (t < (1 - gamma) * 1000) for t, w in weights)
