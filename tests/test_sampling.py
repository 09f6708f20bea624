"""Restoration: eq. 8 against a plain loop of our own, the passes it makes, seeds, batches, the colour fix, named errors."""

import math

import numpy as np
import pytest
import tiny_system
import torch

from lib.errors import PictureError, PictureSizeError, RangeError, SeedError
from lib.images import to_uint8
from lib.restoration import sampling
from lib.restoration.sampling import low_pass, restore, wavelet_colour_fix

STEPS, PROMPT = 6, "a photo of a sks person"


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
    """'p' or '0' a pass: the text or the empty prompt."""
    null, text = B.embed(["", PROMPT])
    found = [e for n, e in calls if n == name]
    assert all(torch.equal(e[0], null) or torch.equal(e[0], text) for e in found)
    return "".join("0" if torch.equal(e[0], null) else "p" for e in found)


@torch.no_grad()
def by_hand(B, picture, prompt, seed, steps, gamma, w):
    """Eq. 8 with ancestral steps (Ho et al. 2020, eqs 6, 7, 15) respaced as Nichol and Dhariwal 2021; no scheduler object."""
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
def test_eq_8_equals_a_plain_loop(B, degraded, gamma, w):
    steps = 8
    got = restore(B, degraded[:2], PROMPT, seeds=[11, 12], steps=steps, gamma=gamma, w=w, colour_fix=False)
    want = torch.cat([by_hand(B, d, PROMPT, s, steps, gamma, w) for d, s in zip(degraded, (11, 12))])
    assert torch.allclose(got, want, atol=2e-4)
    blind = restore(B, degraded[:2], "", seeds=[11, 12], steps=steps, colour_fix=False)
    assert (got - blind).abs().max() > 4e-3  # the prompt was heard


def test_the_steps_are_those_of_the_published_sampler(B, degraded):
    seen = []
    restore(B, degraded[:1], seeds=[0], steps=50, callback=lambda k, t, *_: seen.append(t))
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


def test_gamma_one_with_any_prompt_is_blind(B, degraded):
    blind = restore(B, degraded[:2], "", seeds=[1, 2], steps=STEPS)
    assert torch.equal(restore(B, degraded[:2], PROMPT, seeds=[1, 2], steps=STEPS, gamma=1.0, w=3.0), blind)
    assert not torch.equal(restore(B, degraded[:2], PROMPT, seeds=[1, 2], steps=STEPS, gamma=0.0), blind)


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


def test_the_callback_sees_every_step_in_order(B, degraded):
    seen = []
    out = restore(
        B, degraded[:3], seeds=[1, 2, 3], steps=STEPS, batch=2, colour_fix=False, callback=lambda *a: seen.append(a)
    )
    assert [k for k, *_ in seen] == [*range(STEPS)] * 2
    times = [t for _, t, *_ in seen]
    assert times[:STEPS] == times[STEPS:] == sorted(times[:STEPS], reverse=True) and times[STEPS - 1] == 0
    assert [len(x_t) for _, _, x_t, _ in seen] == [2] * STEPS + [1] * STEPS
    assert torch.allclose(torch.cat([B.decode(seen[STEPS - 1][2]), B.decode(seen[-1][2])]), out, atol=1e-5)
    assert torch.allclose(seen[-1][2], seen[-1][3], atol=1e-4)  # the last x_t is the last x_0


def test_restored_pictures_have_the_shape_and_range_of_pictures(B, degraded):
    out = restore(B, degraded, seeds=[1, 2, 3, 4], steps=2)
    assert (
        out.shape == degraded.shape
        and out.device.type == "cpu"
        and out.dtype == torch.float32
        and not out.requires_grad
    )
    assert out.abs().max() <= 1 and out.isfinite().all()


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


def test_restore_fixes_colours_to_the_cleaned_picture(B, degraded):
    plain, fixed = (restore(B, degraded[:2], seeds=[1, 2], steps=STEPS, colour_fix=on) for on in (False, True))
    assert torch.allclose(fixed, wavelet_colour_fix(plain, B.clean(degraded[:2])), atol=1e-6) and not torch.allclose(
        fixed, plain
    )


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
    ],
)
def test_wrong_numbers_are_named(B, degraded, calls, wrong, error):
    with pytest.raises(error, match="Remedy"):
        restore(B, degraded[:2], **{"seeds": [1, 2], "steps": STEPS, **wrong})
    assert calls == []


@pytest.mark.parametrize("shape", [(2, 3, 128, 128), (2, 3, 64, 48), (2, 1, 64, 64), (3, 64, 64), (0, 3, 64, 64)])
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
    """Tuning draws t < (1 - gamma) T; sampling must not ask for the prompt at any other t, whatever the count of steps."""
    asked = []
    monkeypatch.setattr(
        sampling,
        "guided_eps",
        lambda B, x_t, t, text, null, hint, w: asked.append((int(t), w)) or torch.zeros_like(x_t),
    )
    restore(B, torch.zeros(1, 3, 64, 64), "p", seeds=[1], steps=steps, gamma=gamma)
    assert len(asked) == steps and all((w == 1.0) == (t < (1 - gamma) * 1000) for t, w in asked)
