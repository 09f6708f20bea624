"""Training of the evaluation networks (recogniser, perceptual distance, landmarker) on procedural people."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.models.evaluation_networks import FACE, HALF, Features, Landmarker, Perceptual, Recogniser
from lib.people.alignment import to_arcface
from lib.training.pretraining import fit


def arcface_loss(embedding, person, centres, margin=0.2, scale=20.0):
    """Additive angular margin loss (Deng et al. 2019): cos(theta + m) for the true person, at scale s."""
    with torch.autocast(
        embedding.device.type, enabled=False
    ):  # bfloat16 rounds 1 - 1e-4 to 1, where acos has no gradient
        cosine = F.normalize(embedding.float()) @ F.normalize(centres.float()).T  # (N, people)
    theta = torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4))
    target = F.one_hot(person, len(centres)).bool()
    return F.cross_entropy(scale * torch.where(target, torch.cos(theta + margin), cosine), person)


def jitter(x, g):
    """Gain and offset of each colour, a little noise and blur: what must not decide who somebody is."""
    n = len(x)
    draw = lambda *shape: torch.rand(n, *shape, generator=g, device=g.device)  # noqa: E731
    x = torch.lerp(x, x.mean(1, keepdim=True), 0.5 * draw(1, 1, 1))
    x = x * (0.7 + 0.6 * draw(1, 1, 1)) * (0.8 + 0.4 * draw(3, 1, 1)) + 0.4 * (draw(3, 1, 1) - 0.5)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    x = torch.lerp(x, soft, 0.7 * draw(1, 1, 1))
    return x + 0.04 * draw(1, 1, 1) * torch.randn(x.shape, generator=g, device=g.device)


def arcface_crops(x, g=None):
    """insightface's crops (N, 3, 112, 112) of aligned ones (N, 3, S, S); where `g` is given, off by what five detected points are off."""
    edges = np.array([[2 / FACE, 0, 1 / FACE - 1], [0, 2 / FACE, 1 / FACE - 1], [0, 0, 1]])  # pixel centres to -1..1
    back = edges @ np.linalg.inv(np.vstack([to_arcface(), [0, 0, 1]])) @ np.linalg.inv(edges)
    theta = torch.tensor(back[:2], dtype=torch.float32, device=x.device).repeat(len(x), 1, 1)
    if g is not None:
        size, turn, across, down = (torch.rand(4, len(x), generator=g, device=x.device) * 2 - 1) * torch.tensor(
            [0.05, 0.07, 0.03, 0.03]
        )[:, None].to(x)
        along, aside = (1 + size) * turn.cos(), (1 + size) * turn.sin()
        slightly = torch.stack([along, -aside, aside, along], 1).view(-1, 2, 2)
        theta = torch.cat([theta[:, :, :2] @ slightly, theta[:, :, 2:] + torch.stack([across, down], 1)[..., None]], 2)
    return F.grid_sample(x, F.affine_grid(theta, [len(x), 3, FACE, FACE], align_corners=False), align_corners=False)


def fit_recogniser(pool, *, batch=24, device="cpu", **options):
    """Trains the recogniser on the people of a pool by the ArcFace loss, helped by reading the genes off the embedding.

    Returns it and the losses.
    """
    net = Recogniser(to_arcface()).to(device)
    centres = nn.Linear(128, len(pool.genes), bias=False).to(device)
    reader = nn.Linear(128, pool.genes.shape[1]).to(device)
    genes = pool.genes.to(device)

    def loss_of(g):
        i, x = pool.batch(batch, g)
        person = pool.person[i.to(pool.person.device)].to(device)
        embedding = net(arcface_crops(jitter(x, g), g))
        return arcface_loss(embedding, person, centres.weight) + 20 * F.mse_loss(
            reader(embedding).float(), genes[person]
        )

    return net, fit("recogniser", [net, centres, reader], loss_of, device=device, **options)


def fit_perceptual(pool, *, batch=24, device="cpu", **options):
    """Trains the features of the perceptual distance; returns the distance and the losses."""
    net = Features(pool.genes.shape[1] + 2 * 68 + 1).to(device)
    targets = torch.cat([pool.genes[pool.person].to(device), pool.landmarks.flatten(1).to(device)], 1)

    def loss_of(g):
        i, x = pool.batch(batch, g)
        noise = 0.3 * torch.rand(len(x), 1, generator=g, device=g.device).square()
        x = x + noise[..., None, None] * torch.randn(x.shape, generator=g, device=g.device)
        return F.smooth_l1_loss(net(x)[1].float(), torch.cat([targets[i], 4 * noise], 1), beta=0.1)

    losses = fit("perceptual", [net], loss_of, device=device, **options)
    return Perceptual(net), losses


def face_crops(x, landmarks, g, size=192):
    """Crops as insightface makes them for its landmark models, from boxes as loose as a detector's, turned by up to 15 degrees.

    x: (N, 3, H, W); landmarks: (N, 68, 2) in [-1, 1]. Returns crops (N, 3, size, size) and their landmarks (N, 68, 2) in [-1, 1].
    """
    draw = lambda: 2 * torch.rand(len(x), generator=g, device=g.device) - 1  # noqa: E731
    low, high = landmarks.amin(1), landmarks.amax(1)
    extent = (high - low).amax(1)
    centre = (low + high) / 2 + 0.08 * extent[:, None] * torch.stack([draw(), draw()], 1)
    half, turn = 0.75 * extent * (1.05 + 0.15 * draw()), 0.26 * draw()
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    grid = F.affine_grid(
        torch.cat([half[:, None, None] * turned, centre[..., None]], 2), [len(x), 3, size, size], align_corners=False
    )
    points = (landmarks - centre[:, None]) @ turned / half[:, None, None]
    return F.grid_sample(x, grid, align_corners=False), points


def fit_landmarker(pool, *, net=None, batch=16, device="cpu", **options):
    """Trains a landmarker, or goes on with `net`, on crops of a pool's people, one in three degraded. Returns it and the losses."""
    net = (net or Landmarker()).to(device)

    def loss_of(g):
        i, x, degraded = pool.batch(batch, g, degraded=True)
        bad = torch.rand(len(x), generator=g, device=g.device) < 1 / 3
        x = jitter(torch.where(bad[:, None, None, None], degraded, x), g)
        crops, points = face_crops(x, pool.landmarks[i.to(pool.landmarks.device)].to(x), g)
        return F.smooth_l1_loss(net(crops).float(), points.flatten(1) - HALF, beta=0.02)

    return net, fit("landmarker", [net], loss_of, device=device, **options)
