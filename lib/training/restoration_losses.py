"""Losses of a one-step restorer in pixels: eqs 8, 9, 12 and 13 of HonestFace, each a mean over the batch.

Every function takes pictures (N, 3, S, S) in [-1, 1] and `networks`, a LossNetworks; it returns a scalar.
"""

import torch
import torch.nn.functional as F

from lib.errors import RangeError

SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 4
GREY = torch.tensor([0.299, 0.587, 0.114])
DISTS_EPS = 1e-6


def identity_loss(networks, restored, target):
    """Eq. 8: the sum over the ensemble of 1 - cos between embeddings of x_H and of its restoration."""
    found = zip(networks.embeddings(target), networks.embeddings(restored))
    return sum((1 - F.cosine_similarity(a, b, dim=1)).mean() for a, b in found)


def lpips_like(networks, restored, target):
    """Squared distance of normalised features, as LPIPS without learned weights (Zhang et al. 2018)."""
    pairs = zip(networks.features(restored), networks.features(target))
    return sum((_unit(a) - _unit(b)).square().sum(1).mean() for a, b in pairs)


def dists_like(networks, restored, target):
    """1 - the mean similarity of texture (means) and structure (covariances) of features.

    Source: DISTS (Ding et al. 2020), eqs 6 to 8, with equal weights in place of learned ones.
    """
    pairs = zip(networks.features(restored), networks.features(target))
    return torch.stack([1 - (_texture(a, b) + _structure(a, b)).mean() / 2 for a, b in pairs]).mean()


def edge_aware(distance, networks, restored, target):
    """Eq. 9: a distance of the pictures plus the same distance of their Sobel maps S."""
    return distance(networks, restored, target) + distance(networks, sobel(restored), sobel(target))


def sobel(pictures):
    """Magnitude of the Sobel gradient of the grey picture, three times; (N, 3, S, S) in [0, 2 sqrt 2]."""
    grey = (pictures * GREY.to(pictures)[:, None, None]).sum(1, keepdim=True)  # (N, 1, S, S)
    kernels = torch.stack([SOBEL, SOBEL.T])[:, None].to(pictures)  # (2, 1, 3, 3)
    gradient = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernels)  # (N, 2, S, S)
    return (gradient.square().sum(1, keepdim=True) + 1e-8).sqrt().expand(-1, 3, -1, -1)


def masked(pictures, mask, background=0.0):
    """Eq. 12: M x + (1 - M) B with a neutral background B, mid-grey here; M (N, 1, S, S) in [0, 1]."""
    return mask * pictures + (1 - mask) * background


def mean_squared(networks, restored, target):
    """The mean squared error of pixels; `networks` is not used."""
    return F.mse_loss(restored, target)


DISTANCES = {"lpips": lpips_like, "dists": dists_like, "mse": mean_squared}


def distance_of(name):
    """A distance of DISTANCES by name. Raises RangeError."""
    if name not in DISTANCES:
        raise RangeError(f"no such distance: {name!r}. Remedy: give one of {', '.join(DISTANCES)}.")
    return DISTANCES[name]


def _unit(f):
    return f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _texture(a, b):
    """Similarity (N, C) of the means of features (N, C, h, w)."""
    a, b = a.mean((2, 3)), b.mean((2, 3))
    return (2 * a * b + DISTS_EPS) / (a.square() + b.square() + DISTS_EPS)


def _structure(a, b):
    """Similarity (N, C) of the variations of features (N, C, h, w)."""
    a, b = a - a.mean((2, 3), keepdim=True), b - b.mean((2, 3), keepdim=True)
    variances = a.square().mean((2, 3)) + b.square().mean((2, 3))
    return (2 * (a * b).mean((2, 3)) + DISTS_EPS) / (variances + DISTS_EPS)
