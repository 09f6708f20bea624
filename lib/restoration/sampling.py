"""Sampling from B: eq. 8 with gamma and guidance w, and the wavelet colour fix."""

import copy
import math
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor

from lib import checks
from lib.errors import RangeError, SeedError
from lib.images import check_pictures
from lib.models.precision import Precision
from lib.models.system import clean_latent

SAMPLERS = {  # name -> scheduler of diffusers and its options; None: the system's own
    "ddpm": None,
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"use_lu_lambdas": True}),  # steps even in log SNR (Lu et al. 2022)
}
BINOMIAL = torch.tensor([1.0, 2.0, 1.0]) / 4


@torch.no_grad()
def restore(
    B,
    degraded,
    prompt=None,
    *,
    seeds,
    steps=50,
    gamma=None,
    w=1.0,
    w_interval=(0, math.inf),
    sampler="ddpm",
    colour_fix=True,
    batch=8,
    precision=Precision(),
    callback=None,
    allow_untuned_steps=False,
):
    """Restore degraded pictures with B (eq. 8).

    Args: B, a blind or personalised System; degraded, (N, 3, S, S) or (3, S, S) in [-1, 1]; prompt of G, None for the
    system's own: the person's, or "" for a blind system (E always has the empty prompt); seeds, N whole numbers, one
    CPU generator each, or the first of N that count on; steps from 2 to the schedule's; gamma in [0, 1], the share of
    the schedule, from the noisy end, without the prompt, None for what the system was tuned with; w, guidance: 1
    conditional, 0 unconditional; w_interval, (low, high): w counts at low <= t < high, elsewhere it is 1; sampler,
    "ddpm" (ancestral, the paper's), "ddim" or "dpm++" (deterministic after the first noise); batch, pictures at a time;
    precision, whose dtype is used; callback(state) after each step of each batch, with a dict of step, t, eps, x_t,
    x_0; allow_untuned_steps, permission for a gamma below the tuned one.
    Returns (N, 3, S, S) in [-1, 1] on the CPU.
    Raises RangeError (steps, w, w_interval, sampler, or a gamma below the tuned one), SeedError, PictureError,
    PictureSizeError.
    """
    steps = checks.whole("steps", steps, least=2, most=B.scheduler.config.num_train_timesteps)
    w, batch = checks.finite("w", w), checks.whole("batch", batch, least=1)
    scheduler, w_interval = scheduler_of(B, sampler), check_interval(w_interval)
    degraded = check_pictures(degraded, B.size, "degraded pictures")
    prompt, gamma = _prompt_and_gamma(B, prompt, gamma, allow_untuned_steps)
    seeds = check_seeds(seeds, len(degraded))
    low = precision.sampling(B)
    restored = []
    for chunk, chunk_seeds in zip(degraded.split(batch), torch.tensor(seeds).split(batch)):
        cleaned = B.in_chunks(B.clean, chunk)  # (n, 3, S, S)
        denoise = Denoiser(low, prompt, B.in_chunks(B.encode, cleaned), gamma, w, precision, w_interval)
        x_0 = sample(denoise, scheduler, steps, chunk_seeds.tolist(), callback)  # (n, C, h, w)
        pictures = B.in_chunks(lambda x: B.decode(x, clamp=False), x_0)  # (n, 3, S, S)
        pictures = wavelet_colour_fix(pictures, cleaned) if colour_fix else pictures.clamp(-1, 1)
        restored.append(pictures.cpu())
    return torch.cat(restored)


def _prompt_and_gamma(B, prompt, gamma, allow_untuned_steps):
    """The prompt and gamma of a restoration: those asked for, else the system's own."""
    tuned = B.personal
    if prompt is None:
        prompt = tuned.prompt if tuned else ""
    if gamma is None:
        gamma = tuned.gamma if tuned else 0.0
    gamma = checks.fraction("gamma", gamma)
    untuned = tuned and tuned.prompt and prompt and B.prompted_below(gamma) > B.prompted_below(tuned.gamma)
    if untuned and not allow_untuned_steps:
        raise RangeError(
            f"gamma out of range: {gamma:g}, but G was tuned with {tuned.gamma:g} and never had its prompt at the "
            "steps between. Remedy: leave gamma out, tune with this one, or pass allow_untuned_steps=True."
        )
    return prompt, gamma


def check_seeds(seeds, count):
    """One seed for each of `count` pictures, as a list; a single whole number counts on. Raises SeedError."""
    if isinstance(seeds, (torch.Tensor, np.ndarray)):
        seeds = seeds.tolist()  # a number for a tensor without axes
    if isinstance(seeds, Integral) and not isinstance(seeds, bool):
        seeds = range(int(seeds), int(seeds) + count)
    seeds = list(seeds) if hasattr(seeds, "__iter__") else [seeds]
    right = all(isinstance(s, Integral) and not isinstance(s, bool) and 0 <= s < 2**63 for s in seeds)
    if len(seeds) != count or not right:
        raise SeedError(f"seeds {seeds[:8]} for {count} pictures. Remedy: give one whole number >= 0 for each picture.")
    return [int(seed) for seed in seeds]


def check_interval(interval):
    """The two timesteps (low, high), low < high. Raises RangeError."""
    try:
        low, high = map(float, interval)
        holds = low < high
    except (TypeError, ValueError):
        holds = False
    if not holds:
        raise RangeError(f"w_interval out of range: {interval!r}. Remedy: give two timesteps, the lower one first.")
    return low, high


def scheduler_of(B, sampler):
    """The system's scheduler, or another one of SAMPLERS with the same noise schedule. Raises RangeError."""
    if SAMPLERS[checks.choice("sampler", sampler, SAMPLERS)] is None:
        return B.scheduler
    kind, options = SAMPLERS[sampler]
    return kind.from_config(B.scheduler.config, **options)


class Denoiser:
    """The noise that eq. 8 predicts at (x_t, t), for one batch of hints.

    Args: B; prompt of G; hint, (N, C, h, w); gamma, w, w_interval as of `restore`; precision.
    """

    def __init__(self, B, prompt, hint, gamma, w, precision=Precision(), w_interval=(0, math.inf)):
        self.B, self.hint, self.w, self.precision, self.w_interval = B, hint, w, precision, w_interval
        self.null, self.text = (
            words.expand(len(hint), -1, -1) for words in B.embed(["", prompt]).split(1)
        )  # (N, L, D)
        self.t_end = B.prompted_below(gamma) if prompt else 0  # without a prompt both branches are the same

    @property
    def shape(self):
        """Shape (N, C, h, w) of x_t."""
        return self.hint.shape

    def __call__(self, x_t, t):
        low, high = self.w_interval
        w = 0.0 if t >= self.t_end else self.w if low <= t < high else 1.0
        return guided_eps(self.B, x_t, t, self.text, self.null, self.hint, w, self.precision)


def guided_eps(B, x_t, t, text, null, hint, w, precision=Precision()):
    """Right side of eq. 8: w B(x_t, p) + (1 - w) B(x_t, empty), in single precision.

    A branch with weight 0 is not computed. E is evaluated once: its prompt is always empty.
    Args: x_t, hint, (N, C, h, w); t, a step; text, null, (N, L, D). Returns (N, C, h, w).
    """
    with precision.autocast(B.device):
        down, mid = B.E(x_t, t, null, controlnet_cond=hint, return_dict=False)

    def G(prompt):
        residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
        with precision.autocast(B.device):
            return B.G(x_t, t, prompt, **residuals).sample.to(x_t)

    if w in (0, 1):
        return G(text if w == 1 else null)
    return w * G(text) + (1 - w) * G(null)


def sample(denoise, scheduler, steps, seeds, callback=None):
    """Sampling of x_0 from noise; with the system's own scheduler ancestral, the respaced DDPM.

    Args: denoise(x_t, t), the predicted noise, with a `shape` and a system `B`; scheduler, which stays as it is; steps;
    seeds, N whole numbers; callback as of `restore`. Returns x_0, (N, C, h, w).
    """
    scheduler = copy.copy(scheduler)  # its timesteps are those of one loop; other loops may run beside it
    scheduler.set_timesteps(steps, device=denoise.B.device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    random = {} if isinstance(scheduler, DPMSolverMultistepScheduler) else {"generator": generators}
    x_t = randn_tensor(denoise.shape, generators, denoise.B.device)
    for k, t in enumerate(scheduler.timesteps):
        eps, before = denoise(x_t, t), x_t
        x_t = scheduler.step(eps, t, before, **random).prev_sample
        if callback:
            x_0 = clean_latent(denoise.B, before, int(t), eps)
            callback({"step": k, "t": int(t), "eps": eps, "x_t": x_t, "x_0": x_0})
    return x_t


class PriorDenoiser:
    """Classifier-free guidance of G alone, without E: what Stable Diffusion generates of a prompt."""

    def __init__(self, B, prompt, count, w, precision):
        self.B, self.w, self.precision = B, w, precision
        side = B.G.config.sample_size
        self.shape = (count, B.G.config.in_channels, side, side)
        self.null, self.text = (words.expand(count, -1, -1) for words in B.embed(["", prompt]).split(1))  # (N, L, D)

    def __call__(self, x_t, t):
        with self.precision.autocast(self.B.device):
            null, text = (self.B.G(x_t, t, prompt).sample.to(x_t) for prompt in (self.null, self.text))
        return null + self.w * (text - null)


@torch.no_grad()
def generate(B, prompt, seeds, steps=50, w=7.5, batch=4, precision=Precision()):
    """Pictures that G alone generates of a prompt: DreamBooth's class images, for prior preservation (eq. 2).

    Args: B; prompt; seeds, N whole numbers; steps, batch and precision as of `restore`; w, the guidance usual for
    Stable Diffusion. Returns (N, 3, S, S) in [-1, 1] on the CPU. Raises RangeError, SeedError.
    """
    steps = checks.whole("steps", steps, least=2, most=B.scheduler.config.num_train_timesteps)
    w, batch, seeds = checks.finite("w", w), checks.whole("batch", batch, least=1), check_seeds(seeds, len(seeds))
    low, made = precision.sampling(B), []
    for chunk in torch.tensor(seeds).split(batch):
        denoise = PriorDenoiser(low, prompt, len(chunk), w, precision)
        made.append(B.in_chunks(B.decode, sample(denoise, B.scheduler, steps, chunk.tolist())).cpu())
    return torch.cat(made)


def wavelet_colour_fix(restored, cleaned, levels=5):
    """High frequencies of `restored` on the lowest frequencies of `cleaned`, clamped to [-1, 1].

    Args: both (N, 3, H, W); levels of the a trous decomposition with the 3x3 binomial kernel. Returns the same shape.
    Source: StableSR's wavelet fix, as DiffBIR applies it (5 levels).
    """
    return (restored + low_pass(cleaned, levels) - low_pass(restored, levels)).clamp(-1, 1)


def low_pass(x, levels):
    """`levels` binomial blurs of (N, 3, H, W) with dilation 1, 2, 4...; edges are repeated."""
    kernel = torch.outer(BINOMIAL, BINOMIAL).to(x).expand(x.shape[1], 1, 3, 3)
    for level in range(levels):
        dilation = 2**level
        x = F.conv2d(F.pad(x, (dilation,) * 4, mode="replicate"), kernel, groups=x.shape[1], dilation=dilation)
    return x
