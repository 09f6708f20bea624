"""A distance of colours that forgives small displacements: the form of MS-SWD (He et al. 2024), without its weights.

pyiqa's MS-SWD has learned weights and needs torchvision; this one needs neither, so its values are other ones.
"""

import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from lib.errors import PictureSizeError
from lib.images import check_pictures

SCALES, PATCH, PROJECTIONS = 4, 7, 64  # sizes (each half the one before), pixels of a patch's side, directions


def colour_distance(restored, ground_truth):
    """Sliced Wasserstein distance between the CIELAB patches of two pictures, the mean over directions and scales.

    Args: both (N, 3, S, S) in [-1, 1]. Returns (N,), 0 for the same picture; a constant shift of L by 1 along every
    direction costs at most 1. Raises PictureError, PictureSizeError.
    """
    a, b = (check_pictures(x) for x in (restored, ground_truth))
    least = PATCH * 2 ** (SCALES - 1)
    if a.shape != b.shape or min(a.shape[2:]) < least:
        raise PictureSizeError(
            f"shapes {tuple(a.shape)} and {tuple(b.shape)}. Remedy: give as many of one size, of at least {least} px."
        )
    a, b = _lab(a), _lab(b)  # (N, 3, S, S)
    directions = torch.randn(PROJECTIONS, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    directions /= directions.abs().sum((1, 2, 3), keepdim=True)
    found = []
    for _ in range(SCALES):
        sorted_a, sorted_b = (F.conv2d(x, directions).flatten(2).sort(2).values for x in (a, b))  # (N, K, P)
        found.append((sorted_a - sorted_b).abs().mean((1, 2)))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return torch.stack(found).mean(0)


def _lab(pictures):
    """CIELAB (N, 3, S, S) of pictures in [-1, 1]."""
    lab = rgb2lab(((pictures + 1) / 2).permute(0, 2, 3, 1).cpu().numpy())
    return torch.from_numpy(lab).float().permute(0, 3, 1, 2)
