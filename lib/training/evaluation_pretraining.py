"""Training of the evaluation networks (recogniser, perceptual distance, landmarker) on procedural people.

`**options` of every function are those of the training loop.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.models.evaluation_networks import ARCFACE_SIZE, HALF_PIXEL, Features, Landmarker, Perceptual, Recogniser
from lib.people.alignment import to_arcface
from lib.training.pretraining import fit


def arcface_loss(embedding, person, centres, margin=0.2, scale=20.0):
    """Additive angular margin loss (Deng et al. 2019, eq. 3): cos(theta + margin) for the right person.

    Args: embedding, (N, D); person, (N,) indices; centres, (people, D). Returns a scalar.
    """
    # without autocast, because bfloat16 rounds 1 - 1e-4 to 1, where acos has no gradient
    with torch.autocast(embedding.device.type, enabled=False):
        cosine = F.normalize(embedding.float()) @ F.normalize(centres.float()).T  # (N, people)
    theta = torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4))
    target = F.one_hot(person, len(centres)).bool()
    return F.cross_entropy(scale * torch.where(target, torch.cos(theta + margin), cosine), person)


def jitter(x, g):
    """Change gain and offset of each colour, and add a little noise and blur: properties that do not show identity.

    Args: x, (N, 3, H, W); g, the generator. Returns the same shape.
    """

    def draw(*shape):
        return torch.rand(len(x), *shape, generator=g, device=g.device)

    x = torch.lerp(x, x.mean(1, keepdim=True), 0.5 * draw(1, 1, 1))
    x = x * (0.7 + 0.6 * draw(1, 1, 1)) * (0.8 + 0.4 * draw(3, 1, 1)) + 0.4 * (draw(3, 1, 1) - 0.5)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    x = torch.lerp(x, soft, 0.7 * draw(1, 1, 1))
    return x + 0.04 * draw(1, 1, 1) * torch.randn(x.shape, generator=g, device=g.device)


def arcface_crops(x, g=None, matrix=None):
    """insightface's crops of aligned ones.

    Args: x, (N, 3, S, S); g, a generator that displaces the crops as much as detected points do, or None for exact
    ones; matrix, (2, 3), from the aligned crop of 112 px to another one, None for insightface's.
    Returns (N, 3, 112, 112).
    """
    matrix = to_arcface() if matrix is None else matrix
    scale, offset = 2 / ARCFACE_SIZE, 1 / ARCFACE_SIZE - 1  # from pixel centres to [-1, 1]
    edges = np.array([[scale, 0, offset], [0, scale, offset], [0, 0, 1]])
    back = edges @ np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ np.linalg.inv(edges)
    theta = torch.tensor(back[:2], dtype=torch.float32, device=x.device).repeat(len(x), 1, 1)
    if g is not None:
        largest = torch.tensor([0.05, 0.07, 0.03, 0.03])[:, None].to(x)
        size, turn, across, down = (torch.rand(4, len(x), generator=g, device=x.device) * 2 - 1) * largest
        along, aside = (1 + size) * turn.cos(), (1 + size) * turn.sin()
        slightly = torch.stack([along, -aside, aside, along], 1).view(-1, 2, 2)
        theta = torch.cat([theta[:, :, :2] @ slightly, theta[:, :, 2:] + torch.stack([across, down], 1)[..., None]], 2)
    grid = F.affine_grid(theta, [len(x), 3, ARCFACE_SIZE, ARCFACE_SIZE], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def fit_recogniser(pool, *, net=None, matrix=None, margin=0.2, batch=24, device="cpu", **options):
    """Train a recogniser on the people of a pool by the ArcFace loss and by predicting genes from the embedding.

    Args: net, a Recogniser, or None for a new one of insightface's crops; matrix, as of `arcface_crops`, which makes
    what it reads; margin, of the loss, radians. Returns the recogniser and the losses.
    """
    net = (net or Recogniser(to_arcface())).to(device)
    centres = nn.Linear(128, len(pool.genes), bias=False).to(device)
    reader = nn.Linear(128, pool.genes.shape[1]).to(device)
    genes = pool.genes.to(device)

    def loss_of(g):
        i, x = pool.batch(batch, g)
        person = pool.person[i.to(pool.person.device)].to(device)
        embedding = net(arcface_crops(jitter(x, g), g, matrix))
        gene_error = F.mse_loss(reader(embedding).float(), genes[person])
        return arcface_loss(embedding, person, centres.weight, margin) + 20 * gene_error

    return net, fit("recogniser", [net, centres, reader], loss_of, device=device, **options)


def fit_perceptual(pool, *, batch=24, device="cpu", **options):
    """Train the features of the perceptual distance. Returns the distance and the losses."""
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
    """Crops as insightface makes them for its landmark models, with boxes displaced and turned by up to 15 degrees.

    Args: x, (N, 3, H, W); landmarks, (N, 68, 2) in [-1, 1]; g, the generator; size, side of the crops in pixels.
    Returns crops (N, 3, size, size) and their landmarks (N, 68, 2) in [-1, 1].
    """

    def draw():
        return 2 * torch.rand(len(x), generator=g, device=g.device) - 1

    low, high = landmarks.amin(1), landmarks.amax(1)
    extent = (high - low).amax(1)
    centre = (low + high) / 2 + 0.08 * extent[:, None] * torch.stack([draw(), draw()], 1)
    half, turn = 0.75 * extent * (1.05 + 0.15 * draw()), 0.26 * draw()
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    theta = torch.cat([half[:, None, None] * turned, centre[..., None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(theta, [len(x), 3, size, size], align_corners=False)
    points = (landmarks - centre[:, None]) @ turned / half[:, None, None]
    return F.grid_sample(x, grid, align_corners=False), points


def fit_landmarker(pool, *, net=None, batch=16, device="cpu", **options):
    """Train a landmarker on crops of a pool's people, a third of them degraded.

    Args: net, a landmarker to train further, or None for a new one. Returns the landmarker and the losses.
    """
    net = (net or Landmarker()).to(device)

    def loss_of(g):
        i, x, degraded = pool.degraded_batch(batch, g)
        bad = torch.rand(len(x), generator=g, device=g.device) < 1 / 3
        x = jitter(torch.where(bad[:, None, None, None], degraded, x), g)
        crops, points = face_crops(x, pool.landmarks[i.to(pool.landmarks.device)].to(x), g)
        return F.smooth_l1_loss(net(crops).float(), points.flatten(1) - HALF_PIXEL, beta=0.02)

    return net, fit("landmarker", [net], loss_of, device=device, **options)
