"""Training of the one-step restorer (HonestFace, section 3): adapters, embedder and discriminator at once."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lib import checks
from lib.errors import MissingPicturesError, RangeError
from lib.metrics.landmark_distances import affine_landmark_distance
from lib.models.discriminator import Discriminator, discriminator_loss, generator_loss, noised_features
from lib.models.identity_embedder import Evidence
from lib.models.landmark_heatmaps import attention_mask, landmark_heatmaps
from lib.models.one_step import RANK, Described
from lib.training.pretraining import latents
from lib.training.restoration_losses import distance_of, edge_aware, identity_loss, masked
from lib.training.trainer import Training, train

MASK_SIDE = 64  # pixels at which masks are kept
ABSENT = 0.2, 0.1, 0.1, 0.1  # shares of pictures without references, without FFE, without FIE, without VRE
MOST = 6  # references of a picture while training; more can be given later


@dataclass(frozen=True)
class Weights:
    """Weights of the losses; the paper gives none, these are ours. A weight of 0 switches a loss off.

    Args: latent, squared error of z_H, which needs no decoder; pixels, L1; perceptual, eq. 9; identity, eq. 8; aligned,
    eq. 13; adversarial, L_G of eq. 5; perceptual_by and aligned_by, distances of restoration_losses.DISTANCES.
    """

    latent: float = 0.0
    pixels: float = 1.0
    perceptual: float = 0.3
    identity: float = 0.5
    aligned: float = 0.15
    adversarial: float = 0.02
    perceptual_by: str = "dists"
    aligned_by: str = "lpips"

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith("_by"):
                distance_of(value)
            elif checks.finite(name, value) < 0:
                raise RangeError(f"{name} out of range: {value!r}. Remedy: give a weight above 0, or 0 for none.")


VARIANTS = {  # Table 3b and the parts of section 3: what each ablation changes
    "all losses": {},
    "no MFA": {"aligned": 0.0},
    "MFA by DISTS": {"aligned_by": "dists"},
    "MFA by MSE": {"aligned_by": "mse"},
    "no identity loss": {"identity": 0.0},
    "no GAN": {"adversarial": 0.0},
}
FIRST_STAGE = {  # settings of `untrained` that the first stage alone compares: T_L, X_FR of FIE (Table 3c), the encoder
    **{f"T_L = {T}": {"T_L": T} for T in (100, 200, 399, 600)},
    "FIE by the second recogniser": {"recogniser": 1},
    "adapters in the encoder": {"encoder_rank": RANK},
}
WARM = Weights(latent=1.0, pixels=0.0, perceptual=0.0, identity=0.0, aligned=0.0, adversarial=0.0)  # needs no decoder


@dataclass
class Examples:
    """What a step reads of N training pictures, computed once."""

    pictures: torch.Tensor  # (N, 3, S, S) uint8, x_H
    z_L: torch.Tensor  # (N, C, h, w)
    z_H: torch.Tensor  # (N, C, h, w)
    masks: torch.Tensor  # (N, 1, 64, 64) float16, M of eq. 11 of the degraded picture
    codes: torch.Tensor  # (N, n_3) int16
    described: Described  # of the N clean pictures, which are references of each other
    others: torch.Tensor  # (N, R), numbers of the other pictures of the same person
    distances: torch.Tensor  # (N, R), d of eq. 6 to them
    degraded: torch.Tensor | None = None  # (N, 3, S, S) uint8, x_L: what adapters in the encoder read in place of z_L

    def to(self, device):
        """Move every tensor to a device; returns the examples."""
        for name, value in vars(self).items():
            if torch.is_tensor(value):
                setattr(self, name, value.to(device))
        self.described = self.described.to(device)
        return self

    def known_by(self):
        """The tensors by which a checkpoint recognises its examples."""
        described = self.described
        return [self.z_L, self.z_H, self.codes, self.others, self.distances, described.embeddings, described.early]


@torch.no_grad()
def examples(one, clean, degraded, person, which=None, targets=None, batch=64):
    """Prepare pictures for training `one`; the other pictures of the same person are the references of each.

    Args: one, a OneStep; clean, uint8 (M, 3, S, S); degraded, uint8 (N, 3, S, S); person, (M,), whom the clean pictures
    show, as many of everybody; which, (N,), the clean picture behind each degraded one, None for the same order;
    targets, uint8 (N, 3, S, S), what restorations are compared with, None for the clean pictures; batch, at a time.
    Returns Examples on the CPU.
    """
    which = torch.arange(len(degraded)) if which is None else which
    targets = clean[which] if targets is None else targets
    masks, codes, points = map(torch.cat, zip(*(_of_degraded(one, y) for y in _batches(degraded, batch))))
    parts = [one.describe(x) for x in _batches(clean, batch)]
    described = Described(*(torch.cat([getattr(p, name).cpu() for p in parts]) for name in vars(parts[0])))
    others = _others(person)[which]
    goal = points[:, None].expand(-1, others.shape[1], -1, -1)  # (N, R, 68, 2)
    distances = affine_landmark_distance(described.landmarks[others], goal).float()  # (N, R), eq. 6
    z_L = latents(one.B, degraded, through=one.B.clean if one.cleaned else None).cpu()
    read = None if one.vae is None else degraded
    return Examples(targets, z_L, latents(one.B, targets).cpu(), masks, codes, described, others, distances, read)


def _of_degraded(one, y):
    """Masks, codes and landmarks of degraded pictures (n, 3, S, S) in [-1, 1]."""
    maps, points = landmark_heatmaps(y)
    return attention_mask(maps, MASK_SIDE).half(), one.codes(y).to(torch.int16).cpu(), points


def _batches(pictures, batch):
    """uint8 pictures in batches of floats in [-1, 1]."""
    return (part.float() / 127.5 - 1 for part in pictures.split(batch))


def _others(person):
    """Numbers (M, R) of the other pictures of each picture's person. Raises MissingPicturesError."""
    same = {int(one): torch.nonzero(person == one)[:, 0] for one in person.unique()}
    counts = sorted({len(mine) for mine in same.values()})
    if len(counts) > 1 or counts[0] < 2:
        raise MissingPicturesError(
            f"{counts[0]} to {counts[-1]} pictures a person: everybody needs as many, and two or more. "
            "Remedy: leave out people with fewer, and pictures beyond that number."
        )
    return torch.stack([same[int(one)][same[int(one)] != i] for i, one in enumerate(person)])


class OneStepLoss:
    """The generator's loss, then the discriminator's: both of one batch, each with its own graph.

    Args: one, OneStep; discriminator, or None without an adversarial weight; data, Examples; weights; batch; absent,
    the shares of ABSENT; most, references of a picture.
    """

    def __init__(self, one, discriminator, data, weights, batch, absent=ABSENT, most=MOST):
        if weights.adversarial and discriminator is None:
            raise RangeError("An adversarial weight without a discriminator. Remedy: give one, or the weight 0.")
        self.one, self.D, self.weights, self.batch = one, discriminator, weights, batch
        self.device, self.data = one.B.device, data.to(one.B.device)
        self.absent, self.most = torch.tensor(absent), min(most, data.others.shape[1])

    def __call__(self, g):
        i = torch.randint(len(self.data.z_L), (self.batch,), generator=g).to(self.device)
        z = self.one.generate(self.z_L(i), self.one.embedder(*self.evidence(i, g)))  # (N, C, h, w)
        noise = self._noise(len(i), g)
        yield self.generator_terms(z, i, noise)
        if self.weights.adversarial:
            yield self.discriminator_term(z.detach(), self.data.z_H[i], noise)

    def z_L(self, i):
        """Latents (N, C, h, w) of pictures i: computed anew where the encoder has adapters."""
        if self.one.vae is None:
            return self.data.z_L[i]
        return self.one.latent(self.data.degraded[i].float() / 127.5 - 1)

    def evidence(self, i, g):
        """Evidence of pictures i with a random number of references, and which parts each of them keeps."""
        data, shape = self.data, self.data.others[i].shape
        count, order = len(i), torch.rand(shape, generator=g).argsort(1)  # (N, R)
        present = (order < torch.randint(1, self.most + 1, (count, 1), generator=g)).to(self.device)  # (N, R)
        nearest = data.distances[i].masked_fill(~present, torch.inf).argmin(1)  # (N,)
        r_0 = data.described.take(data.others[i, nearest])
        embeddings = data.described.embeddings[data.others[i]]  # (N, R, D)
        u = torch.rand(count, 4, generator=g) < self.absent
        keep = ~torch.stack([u[:, 0] | u[:, 1], u[:, 0] | u[:, 2], u[:, 3]], 1).to(self.device)  # (N, 3)
        return Evidence(r_0.early, r_0.middle, embeddings, present, data.codes[i].long()), keep

    def generator_terms(self, z, i, noise):
        """The weighted sum of the generator's losses for restored latents z (N, C, h, w) of pictures i."""
        w, total = self.weights, self.weights.latent * F.mse_loss(z, self.data.z_H[i])
        if any((w.pixels, w.perceptual, w.identity, w.aligned)):
            target = self.data.pictures[i].float() / 127.5 - 1
            mask = F.interpolate(self.data.masks[i].float(), target.shape[-1], mode="bilinear")
            restored = self.one.B.picture(z / self.one.B.vae.config.scaling_factor)  # (N, 3, S, S)
            total = total + pixel_losses(self.one.networks, restored, target, mask, w)
        if w.adversarial:
            seen = noised_features(self.one.B, z, *noise)
            total = total + w.adversarial * generator_loss(self.D.frozen(seen))
        return total

    def discriminator_term(self, z, real, noise):
        """L_D of eq. 5 for restored latents z and real ones, noised alike."""
        with torch.no_grad():
            seen = [noised_features(self.one.B, latents, *noise) for latents in (z, real)]
        return discriminator_loss(*map(self.D, seen))

    def _noise(self, count, g):
        t = torch.randint(self.one.B.scheduler.config.num_train_timesteps, (count,), generator=g)
        shape = (count, *self.data.z_H.shape[1:])
        return t.to(self.device), torch.randn(shape, generator=g).to(self.device)


def pixel_losses(networks, restored, target, mask, weights):
    """The weighted sum of L1 and eqs 8, 9 and 13 for pictures (N, 3, S, S) and masks (N, 1, S, S)."""
    total = weights.pixels * F.l1_loss(restored, target)
    if weights.perceptual:
        distance = distance_of(weights.perceptual_by)
        total = total + weights.perceptual * edge_aware(distance, networks, restored, target)
    if weights.identity:
        total = total + weights.identity * identity_loss(networks, restored, target)
    if weights.aligned:
        distance = distance_of(weights.aligned_by)
        total = total + weights.aligned * distance(networks, masked(restored, mask), masked(target, mask))
    return total


def fit_one_step(one, data, weights=Weights(), training=None, name="one step", discriminator=None):
    """Train the adapters (of G, and of the encoder where it has some), the embedder and the discriminator together.

    Args: one, a OneStep whose G has adapters; data, Examples; weights; training, a Training; name, of the checkpoint;
    discriminator, to train further, or None for a new one.
    Returns the losses of the steps (the sum of both players'), and the discriminator. Raises as
    `lib.training.trainer.train`.
    """
    training = training or Training(steps=6, lr=1e-3, batch=4, schedule="cosine", clip=1.0, ema=0.999)
    if discriminator is None:
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            discriminator = Discriminator(one.B.G.config.block_out_channels[-1])
    adapted = [one.G] + ([] if one.vae is None else [one.vae])
    whole = [one.embedder] + ([discriminator] if weights.adversarial else [])
    for weight_name, weight in (pair for module in adapted for pair in module.named_parameters()):
        weight.requires_grad_("lora_" in weight_name)
    for module in whole:
        module.requires_grad_(True)
    loss = OneStepLoss(one, discriminator, data, weights, training.batch)
    known_by = (str(weights), str(one.T_L), one.B.fingerprint(), *data.known_by())
    losses = train(name, adapted + whole, loss, training, known_by)
    return losses, discriminator
