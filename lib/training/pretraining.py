"""Training of the small systems, on drawn people or on photographs: autoencoder, cleaner, G, E.

Every stage defines a loss and hands it to the training loop, which averages weights, writes checkpoints and resumes to
the same result. `**options` of every stage are those of the loop.
"""

import torch
import torch.nn.functional as F
from diffusers.training_utils import compute_snr

from lib.models.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from lib.models.precision import Precision
from lib.models.system import CLASS_PROMPT
from lib.training.trainer import Training, train


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
    """Train the autoencoder, then set its scaling factor so that latents have unit variance.

    The loss is the sum of absolute and squared errors, errors of edges and a light KL divergence. The inner face has up
    to four times the weight, because it shows who the person is. Returns the losses.
    """

    def loss_of(g):
        i, x = pool.batch(batch, g)
        posterior = B.posterior(x)
        eps = torch.randn(posterior.mean.shape, generator=g, device=g.device)
        decoded = B.picture(posterior.mean + posterior.std * eps)
        return pixel_loss(decoded, x, pool.landmarks, i) + kl * posterior.kl().mean() / eps[0].numel()

    losses = fit("autoencoder", [B.vae], loss_of, **options)
    deviation = float(latents(B, pool.pictures[:512], scaled=False).std())
    B.vae.register_to_config(scaling_factor=round(1 / deviation, 5))
    return losses


def fit_decoder(B, pool, *, batch=4, texture=0.0, spread=0.05, **options):
    """Train the decoder on latents of the finished encoder, which stay as they are; G and E need not be trained again.

    Args: texture, weight of the loss by a discriminator of small patches, which is trained beside the decoder; 0 leaves
    it out; spread, standard deviation of noise on the latents, which have variance 1. Returns the losses.
    Source: Esser et al. 2021, section 3.1, with a constant weight.
    """
    z = latents(B, pool.pictures)
    with torch.random.fork_rng():
        torch.manual_seed(options.get("seed", 0))
        D = PatchDiscriminator().to(B.device)

    def loss_of(g):
        i, x = pool.batch(batch, g)
        noisy = z[i] + spread * torch.randn(z[i].shape, generator=g, device=g.device)
        decoded = B.picture(noisy / B.vae.config.scaling_factor)
        pixels = pixel_loss(decoded, x, pool.landmarks, i)
        if not texture:
            return pixels
        return pixels + texture * generator_loss(D.frozen(decoded)) + discriminator_loss(D(decoded.detach()), D(x))

    modules = [B.vae.decoder, B.vae.post_quant_conv, *([D] if texture else [])]
    return fit("decoder", modules, loss_of, **options)


def pixel_loss(decoded, x, landmarks, i):
    """Absolute and squared errors and errors of edges, weighted by `face_weight`; pictures (N, 3, H, W), a scalar."""
    weight = face_weight(landmarks[i.to(landmarks.device)].to(x), x.shape[-1])  # (N, 1, H, W)
    error = decoded.float() - x
    edges = sum((weight.narrow(d, 1, x.shape[d] - 1) * torch.diff(error, dim=d).abs()).mean() for d in (2, 3))
    return (weight * (error.abs() + 4 * error.square())).mean() + edges


def face_weight(landmarks, size, reach=0.16, most=4.0):
    """Weights of pixels, high near the inner landmarks.

    Args: landmarks, (N, 68, 2) in [-1, 1]; size, side in pixels; reach, distance in [-1, 1] at which the excess has
    fallen to 1/e; most, the largest weight. Returns (N, 1, size, size) in [1, most].
    """
    side = torch.linspace(-1, 1, size // 4, device=landmarks.device)
    places = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).flatten(0, 1)  # (P, 2)
    inner = landmarks[:, 17:].contiguous()  # without the jaw
    nearest = torch.cdist(places.expand(len(landmarks), -1, -1), inner).amin(2)  # (N, P)
    weight = 1 + (most - 1) * torch.exp(-(nearest / reach).square())
    return F.interpolate(weight.unflatten(1, (1, size // 4, size // 4)), size, mode="bilinear")


def fit_cleaner(B, pool, *, batch=16, **options):
    """Train stage 1 on the mean squared error to the clean picture. Returns the losses."""

    def loss_of(g):
        _, x, degraded = pool.degraded_batch(batch, g)
        folded = F.pixel_unshuffle(degraded, 4)  # (N, 48, H/4, W/4)
        return F.mse_loss(degraded + F.pixel_shuffle(B.cleaner(folded, 0).sample, 4), x)

    return fit("cleaner", [B.cleaner], loss_of, **options)


@torch.no_grad()
def latents(B, pictures, scaled=True, batch=64, through=None, amp=False):
    """Latents of uint8 pictures, computed in batches.

    Args: pictures, uint8 (N, 3, H, W); scaled, whether to multiply by the scaling factor; through, a function of
    pictures in [-1, 1] to apply first; amp, whether to compute in bfloat16. Returns (N, C, h, w).
    """
    out = []
    for x in pictures.split(batch):
        x = x.to(B.device).float() / 127.5 - 1
        with torch.autocast(B.device.type, torch.bfloat16, enabled=amp):
            z = B.encode(through(x) if through else x).float()
        out.append(z if scaled else z / B.vae.config.scaling_factor)
    return torch.cat(out)


def min_snr_loss(B, x0, g, prompt, hint=None, null=None, limit=5.0):
    """Epsilon loss weighted by min(SNR, limit) / SNR (Hang et al. 2023), on steps drawn evenly from the schedule.

    Args: x0, hint, latents (N, C, h, w); g, the generator of steps and noise; prompt, null, embeddings (N, L, D);
    without a hint, G is trained alone.
    """
    t = torch.randint(B.scheduler.config.num_train_timesteps, (len(x0),), generator=g, device=g.device)  # (N,)
    eps = torch.randn(x0.shape, generator=g, device=g.device)
    snr = compute_snr(B.scheduler, t)  # (N,)
    error = B.predict(B.scheduler.add_noise(x0, eps, t), t, prompt, hint, null).float() - eps
    return (error.square().mean((1, 2, 3)) * snr.clamp(max=limit) / snr).mean()


def fit_G(B, pool, *, batch=16, empty=0.2, plain=0.15, amp=False, **options):
    """Train G and its text encoder on captions. Returns the losses.

    Args: empty, probability of the empty prompt; plain, probability of the class prompt.
    """
    x0 = latents(B, pool.pictures, amp=amp)  # (N, C, h, w)
    tokens = _tokens(B, ["", CLASS_PROMPT, *pool.captions])  # (2 + N, L)

    def loss_of(g):
        i = pool.draw(batch, g)
        u = torch.rand(batch, generator=g, device=g.device)
        which = torch.where(u < empty, 0, torch.where(u < empty + plain, 1, i + 2))
        return min_snr_loss(B, x0[i], g, B.text_encoder(tokens[which]).last_hidden_state)

    return fit("G", [B.G, B.text_encoder], loss_of, amp=amp, **options)


def fit_E(B, pool, *, batch=16, amp=False, **options):
    """Train E inside B with the empty prompt for both (eq. 4), on hints of cleaned pictures. Returns the losses."""
    x0 = latents(B, pool.pictures, amp=amp)
    hints = latents(B, pool.degraded, through=B.clean, amp=amp)
    null = B.embed([""])  # (1, L, D)

    def loss_of(g):
        i, empty = pool.draw(batch, g), null.expand(batch, -1, -1)
        return min_snr_loss(B, x0[i], g, empty, hints[i], empty)

    return fit("E", [B.E], loss_of, amp=amp, **options)


def fit_G_and_E(B, pool, *, batch=16, alone=0.2, amp=False, **options):
    """Train G and E together inside B, on hints of cleaned pictures. Returns the losses.

    A G that was trained for a short time restores better so than with E trained around it alone.
    Args: alone, probability of a step in which G is trained without E, so that it stays a prior by itself.
    """
    x0 = latents(B, pool.pictures, amp=amp)
    hints = latents(B, pool.degraded, through=B.clean, amp=amp)
    null, words = B.embed(["", CLASS_PROMPT])  # (L, D)

    def loss_of(g):
        i, without = pool.draw(batch, g), float(torch.rand(1, generator=g, device=g.device)) < alone
        empty, prompt = (text.expand(batch, -1, -1) for text in (null, words))
        return min_snr_loss(B, x0[i], g, *((prompt,) if without else (empty, hints[i], empty)))

    return fit("G and E", [B.G, B.E], loss_of, amp=amp, **options)


def _tokens(B, captions):
    tokenized = B.tokenizer(
        captions, padding="max_length", truncation=True, max_length=B.tokenizer.model_max_length, return_tensors="pt"
    )
    return tokenized.input_ids.to(B.device)
