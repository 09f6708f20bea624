"""Sampling from B: eq. 8 with gamma and w, and the wavelet colour fix."""

from numbers import Integral

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor

from lib import checks
from lib.errors import PictureError, PictureSizeError, SeedError
from lib.models.precision import Precision

BINOMIAL = torch.tensor([1.0, 2.0, 1.0]) / 4


@torch.no_grad()
def restore(
    B,
    degraded,
    prompt="",
    *,
    seeds,
    steps=50,
    gamma=0.0,
    w=1.0,
    colour_fix=True,
    batch=8,
    levers=Precision(),
    callback=None,
):
    """Restores pictures with B: eq. 8.

    degraded: (N, 3, H, W) RGB in [-1, 1], at the system's size; prompt: for G, "" for blind restoration
    (E always has the empty prompt); seeds: N integers, one CPU generator each; gamma in [0, 1]: the fraction of
    the schedule, from the noisy end, without the prompt; w: guidance, 1 is conditional alone, 0 unconditional alone;
    levers: of them, bf16 is of use here; callback(step, t, x_t, x_0) is told of every step of every batch.
    Returns (N, 3, H, W) in [-1, 1] on the CPU.
    Raises RangeError for steps < 2 (a single one would start at the clean end) or more than the schedule has, gamma
    outside [0, 1] or w not finite, SeedError unless there are N seeds, PictureSizeError and PictureError for other pictures.
    """
    steps = checks.whole("steps", steps, least=2, most=B.scheduler.config.num_train_timesteps)
    gamma, w = checks.fraction("gamma", gamma), checks.finite("w", w)
    checks.whole("batch", batch, least=1)
    _check(B, degraded, seeds)
    B = levers.sampling(B)
    parts = zip(degraded.split(batch), torch.as_tensor(seeds).split(batch))
    out = [
        _restore_batch(B, part, prompt, s.tolist(), steps, gamma, w, colour_fix, levers, callback) for part, s in parts
    ]
    return torch.cat(out).cpu()


def _check(B, degraded, seeds):
    if degraded.ndim != 4 or not len(degraded) or degraded.shape[1:] != (3, B.size, B.size):
        raise PictureSizeError(
            f"pictures of shape {tuple(degraded.shape)} for a system of {B.size} pixels. "
            "Remedy: load them with lib.people.person at the system's size."
        )
    if not degraded.abs().max() <= 1:
        raise PictureError(
            "pictures hold values outside [-1, 1] or NaN. Remedy: lib.images.to_tensor makes such tensors of bytes."
        )
    whole = all(isinstance(seed, Integral) and not isinstance(seed, bool) and 0 <= seed < 2**63 for seed in seeds)
    if len(seeds) != len(degraded) or not whole:
        raise SeedError(
            f"seeds {list(seeds)[:8]} for {len(degraded)} pictures. Remedy: give each picture one whole number >= 0."
        )


def _restore_batch(B, degraded, prompt, seeds, steps, gamma, w, colour_fix, levers, callback):
    cleaned = B.in_parts(B.clean, degraded)  # (N, 3, H, W)
    hint = B.in_parts(B.encode, cleaned)  # (N, C, h, w)
    null, text = (B.embed([p]).expand(len(hint), -1, -1) for p in ("", prompt))  # (N, 40, D)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    x_t = randn_tensor(hint.shape, generators, B.device)
    B.scheduler.set_timesteps(steps, device=B.device)
    t_end = B.prompted_below(gamma)
    for k, t in enumerate(B.scheduler.timesteps):
        with levers.autocast(B.device):
            eps = guided_eps(B, x_t, t, text, null, hint, w if t < t_end else 0.0)
        step = B.scheduler.step(eps.to(x_t), t, x_t, generator=generators)
        x_t = step.prev_sample
        if callback:
            callback(k, int(t), x_t, step.pred_original_sample)
    restored = B.in_parts(B.decode, x_t)
    return wavelet_colour_fix(restored, cleaned) if colour_fix else restored


@torch.no_grad()
def generate(B, prompt, seeds, steps=50, w=7.5, batch=4, levers=Precision()):
    """Pictures that G alone makes of a prompt, without E, one a seed: (N, 3, H, W) in [-1, 1] on the CPU.

    For prior preservation (eq. 2): the class images of DreamBooth, at the guidance w that is usual for Stable Diffusion.
    """
    B = levers.sampling(B)
    made, null, text = [], *B.embed(["", prompt]).split(1)
    side = B.G.config.sample_size
    for part in torch.as_tensor(seeds).split(batch):
        generators = [torch.Generator().manual_seed(s) for s in part.tolist()]
        x_t = randn_tensor((len(part), B.G.config.in_channels, side, side), generators, B.device)
        B.scheduler.set_timesteps(checks.whole("steps", steps, least=2), device=B.device)
        for t in B.scheduler.timesteps:
            with levers.autocast(B.device):
                away, near = (B.G(x_t, t, prompt.expand(len(part), -1, -1)).sample.to(x_t) for prompt in (null, text))
            x_t = B.scheduler.step(away + w * (near - away), t, x_t, generator=generators).prev_sample
        made.append(B.in_parts(B.decode, x_t).cpu())
    return torch.cat(made)


def guided_eps(B, x_t, t, text, null, hint, w):
    """Right side of eq. 8: w B(x_t, p) + (1 - w) B(x_t, empty), without the pass that w makes void.

    x_t, hint: (N, C, h, w) latents; t: a step; text, null: (N, 40, D). E is asked once: its prompt is always empty.
    """
    down, mid = B.E(x_t, t, null, controlnet_cond=hint, return_dict=False)

    def G(prompt):
        return B.G(x_t, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    if w == 1:
        return G(text)
    return G(null) if w == 0 else w * G(text) + (1 - w) * G(null)


def wavelet_colour_fix(restored, cleaned, levels=5):
    """High frequencies of `restored` on the lowest ones of `cleaned` (a trous wavelets with the 3x3 binomial kernel).

    Both (N, 3, H, W); returns the same shape. Source: StableSR's wavelet fix, as DiffBIR applies it (5 levels).
    """
    return (restored + low_pass(cleaned, levels) - low_pass(restored, levels)).clamp(-1, 1)


def low_pass(x, levels):
    """`levels` binomial blurs of (N, 3, H, W) with holes of 1, 2, 4... pixels, edges repeated."""
    kernel = torch.outer(BINOMIAL, BINOMIAL).to(x).expand(x.shape[1], 1, 3, 3)
    for level in range(levels):
        hole = 2**level
        x = F.conv2d(F.pad(x, (hole,) * 4, mode="replicate"), kernel, groups=x.shape[1], dilation=hole)
    return x
