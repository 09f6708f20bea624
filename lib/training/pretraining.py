"""Training of the tiny system on procedural people of the training split: autoencoder, cleaner, G, E.

Every stage is a loss handed to `fit`, which averages weights, writes checkpoints and resumes to the same result.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from lib.degradation.degrade import apply
from lib.degradation.settings import sample
from lib.models.precision import Precision
from lib.models.system import CLASS_PROMPT
from lib.people import procedural
from lib.training.trainer import Training, train

CHUNK = 20  # people a worker renders at once
MIXTURE = ("tiny", "tiny-heavy", "tiny", "tiny-heavy", "tiny-extreme")  # recipes that E and the cleaner are trained on


@dataclass
class Pool:
    """Rendered pictures of training people, kept in memory for the whole training."""

    pictures: torch.Tensor  # (N, 3, H, W) uint8
    person: torch.Tensor  # (N,) index into the people
    captions: list
    genes: torch.Tensor  # (people, K)
    landmarks: torch.Tensor  # (N, 68, 2) in [-1, 1]
    degraded: torch.Tensor | None = None  # (N, 3, H, W) uint8

    def batch(self, count, g, degraded=False):
        """Indices (count,) and pictures (count, 3, H, W) in [-1, 1] drawn by generator `g`; degraded ones on request."""
        i = torch.randint(len(self.pictures), (count,), generator=g, device=g.device)
        at = i.to(self.pictures.device)
        pick = lambda stack: stack[at].to(g.device).float() / 127.5 - 1  # noqa: E731
        return (i, pick(self.pictures), pick(self.degraded)) if degraded else (i, pick(self.pictures))

    def to(self, device):
        for name in ("pictures", "person", "genes", "landmarks", "degraded"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(device))
        return self


def make_pool(count, shots, size=128, start=0, workers=2):
    """Renders `shots` pictures each of `count` people of the training split, and degrades each once.

    Raises SplitError should any of them not be a training person.
    """
    crowd = procedural.people_of("train", count, start)
    procedural.require(crowd, "train")
    jobs = [(crowd[i : i + CHUNK], shots, size, i) for i in range(0, count, CHUNK)]
    with ProcessPoolExecutor(workers) as executor:
        parts = list(tqdm(executor.map(_render_job, jobs), total=len(jobs), desc="render", mininterval=2))
    pictures, degraded, landmarks = (torch.from_numpy(np.concatenate([p[k] for p in parts])) for k in range(3))
    return Pool(
        pictures=pictures.permute(0, 3, 1, 2).contiguous(),
        degraded=degraded.permute(0, 3, 1, 2).contiguous(),
        person=torch.arange(count).repeat_interleave(shots),
        captions=[c for p in parts for c in p[3]],
        genes=torch.from_numpy(np.stack([p.gene_vector() for p in crowd])),
        landmarks=landmarks / (size / 2) - 1,
    )


def _render_job(job):
    crowd, shots, size, first = job
    portraits = procedural.render([(p, p.shot(k)) for p in crowd for k in range(shots)], size=size)
    degraded = []
    for n, picture in enumerate(portraits.pictures):
        seed = first * shots + n
        recipe = MIXTURE[seed % len(MIXTURE)]
        degraded.append(apply(picture, sample(recipe, np.random.default_rng(seed), size)))
    return portraits.pictures, np.stack(degraded), portraits.landmarks, portraits.captions


def fit(name, modules, loss_of, *, steps, lr, seed=0, device="cpu", folder=None, every=500, amp=False, ema=0.9995):
    """Train whole modules with warm-up and cosine decay, gradients clipped at 1; the averaged weights are kept.

    Args: name, modules, as of `lib.training.trainer.train`; loss_of(generator), where the generator is on `device`;
    steps, lr, seed, folder, every, ema, as of `Training`; amp, bfloat16. Returns the losses. Raises as `train`.
    """
    precision = Precision("bfloat16" if amp else "float32")
    options = dict(steps=steps, lr=lr, seed=seed, folder=str(folder or ""), every=every, precision=precision)
    for module in modules:
        module.requires_grad_(True)

    def on_device(g):
        return loss_of(torch.Generator(device).manual_seed(g.initial_seed()))

    training = Training(schedule="cosine", betas=(0.9, 0.99), clip=1.0, ema=ema, **options)
    return train(name, modules, on_device, training)


def fit_autoencoder(B, pool, *, batch=4, kl=1e-4, **options):
    """AutoencoderKL on L1, squares, edges and a light KL, the inner face counting up to four times as much, because who
    somebody is lies there; then its scaling factor, so that latents have unit variance.
    """

    def loss_of(g):
        i, x = pool.batch(batch, g)
        weight = face_weight(pool.landmarks[i.to(pool.landmarks.device)].to(x), x.shape[-1])
        posterior = B.posterior(x)
        eps = torch.randn(posterior.mean.shape, generator=g, device=g.device)
        error = B.picture(posterior.mean + posterior.std * eps).float() - x
        edges = sum((weight.narrow(d, 1, x.shape[d] - 1) * torch.diff(error, dim=d).abs()).mean() for d in (2, 3))
        return (
            (weight * (error.abs() + 4 * error.square())).mean() + edges + kl * posterior.kl().mean() / eps[0].numel()
        )

    losses = fit("autoencoder", [B.vae], loss_of, **options)
    B.vae.register_to_config(scaling_factor=round(1 / float(latents(B, pool.pictures[:512], scaled=False).std()), 5))
    return losses


def face_weight(landmarks, size, reach=0.16, most=4.0):
    """Weights (N, 1, size, size) from 1 to `most`, by the distance to the nearest of the inner landmarks (N, 68, 2) in [-1, 1]."""
    side = torch.linspace(-1, 1, size // 4, device=landmarks.device)
    spots = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).flatten(0, 1)  # (P, 2)
    nearest = torch.cdist(spots.expand(len(landmarks), -1, -1), landmarks[:, 17:].contiguous()).amin(2)  # (N, P)
    weight = 1 + (most - 1) * torch.exp(-(nearest / reach).square())
    return F.interpolate(weight.unflatten(1, (1, size // 4, size // 4)), size, mode="bilinear")


def fit_cleaner(B, pool, *, batch=16, **options):
    """Stage 1: mean squared error to the clean picture, so that it cleans and does not invent."""

    def loss_of(g):
        _, x, degraded = pool.batch(batch, g, degraded=True)
        folded = F.pixel_unshuffle(degraded, 4)  # (N, 48, H/4, W/4)
        return F.mse_loss(degraded + F.pixel_shuffle(B.cleaner(folded, 0).sample, 4), x)

    return fit("cleaner", [B.cleaner], loss_of, **options)


@torch.no_grad()
def latents(B, pictures, scaled=True, batch=64, through=None, amp=False):
    """Latents (N, C, h, w) of uint8 pictures (N, 3, H, W), in batches; `through` is applied to each batch first."""
    out = []
    for x in pictures.split(batch):
        x = x.to(B.device).float() / 127.5 - 1
        with torch.autocast(B.device.type, torch.bfloat16, enabled=amp):
            z = B.encode(through(x) if through else x).float()
        out.append(z if scaled else z / B.vae.config.scaling_factor)
    return torch.cat(out)


def min_snr_loss(B, x0, g, prompt, hint=None, null=None, limit=5.0):
    """Epsilon loss weighted by min(SNR, 5)/SNR (Hang et al. 2023), on steps drawn evenly from the schedule."""
    t = torch.randint(B.scheduler.config.num_train_timesteps, (len(x0),), generator=g, device=g.device)
    eps = torch.randn(x0.shape, generator=g, device=g.device)
    alphas = B.scheduler.alphas_cumprod.to(g.device)[t]
    snr = alphas / (1 - alphas)
    error = B.predict(B.scheduler.add_noise(x0, eps, t), t, prompt, hint, null).float() - eps
    return (error.square().mean((1, 2, 3)) * snr.clamp(max=limit) / snr).mean()


def fit_G(B, pool, *, batch=16, empty=0.2, plain=0.15, amp=False, **options):
    """G and its text encoder on captions; the prompt is empty with chance `empty`, the class alone with chance `plain`."""
    x0 = latents(B, pool.pictures, amp=amp)
    tokens = _tokens(B, ["", CLASS_PROMPT, *pool.captions])

    def loss_of(g):
        i = torch.randint(len(x0), (batch,), generator=g, device=g.device)
        u = torch.rand(batch, generator=g, device=g.device)
        which = torch.where(u < empty, 0, torch.where(u < empty + plain, 1, i + 2))
        return min_snr_loss(B, x0[i], g, B.text_encoder(tokens[which]).last_hidden_state)

    return fit("G", [B.G, B.text_encoder], loss_of, amp=amp, **options)


def fit_E(B, pool, *, batch=16, amp=False, **options):
    """E inside B with the empty prompt on both sides (eq. 4); the hint is the latent of the cleaned picture."""
    x0, hints = latents(B, pool.pictures, amp=amp), latents(B, pool.degraded, through=B.clean, amp=amp)
    null = B.embed([""])

    def loss_of(g):
        i = torch.randint(len(x0), (batch,), generator=g, device=g.device)
        empty = null.expand(batch, -1, -1)
        return min_snr_loss(B, x0[i], g, empty, hints[i], empty)

    return fit("E", [B.E], loss_of, amp=amp, **options)


def _tokens(B, captions):
    return B.tokenizer(
        captions, padding="max_length", truncation=True, max_length=B.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids.to(B.device)
