"""Networks that evaluate restorations of drawn people: a face recogniser, a perceptual distance, a landmarker.

They are trained on procedural people and are used for evaluation: no loss that trains or guides a restoration has a
gradient through them. (The landmarker's heatmaps of the degraded picture make the mask of eq. 11 of HonestFace.)
`lib.models.export_onnx` writes them as ONNX files, two of which form an insightface pack with the detector.
"""

import torch
import torch.nn.functional as F
from torch import nn

ARCFACE_SIZE = 112  # pixels: the input side of insightface's ArcFaceONNX
INNER_FACE = ((20, 92), (30, 102))  # columns and rows of a crop of 112 px: from brows to chin, with little hair
HALF_PIXEL = 1 / 192  # of a crop of 192 px: for insightface, -1 is the centre of the first pixel, not its edge


def conv_block(cin, cout, stride=1, norm="group"):
    """A 3x3 convolution with GroupNorm and SiLU, or with norm="batch" BatchNorm and ReLU.

    The order of the layers is part of the layout of saved weights.
    """
    convolution = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
    if norm == "batch":
        return nn.Sequential(convolution, nn.BatchNorm2d(cout), nn.ReLU())
    return nn.Sequential(convolution, nn.GroupNorm(8, cout), nn.SiLU())


def resampling_matrix(span, scale, shift):
    """Interpolation weights that read pixels of an aligned crop from insightface's crop, along one axis.

    Args: span, (first, end) of the pixels u of the aligned crop; pixel u lies at scale * u + shift of insightface's.
    Returns float32 (end - first, 112), every row with sum 1.
    """
    at = scale * torch.arange(*span) + shift
    weights = (1 - (torch.arange(ARCFACE_SIZE) - at[:, None].clamp(0, ARCFACE_SIZE - 1)).abs() / scale).relu()
    return (weights / weights.sum(1, keepdim=True)).float()


class Recogniser(nn.Module):
    """A residual network from insightface's crops (N, 3, 112, 112) in [-1, 1] to embeddings (N, 128), not normalised.

    It reads the inner face only. Hair survives every degradation, so a recogniser that read it would accept a blurred
    face, and any restoration of it, as the right person.
    """

    def __init__(self, to_arcface, widths=(24, 40, 64, 96), dimension=128):
        super().__init__()
        ends = (*widths[1:], widths[-1])
        self.stem = conv_block(3, widths[0], 2)  # 36 px a side
        self.down = nn.ModuleList(conv_block(a, b, 2) for a, b in zip(widths, ends))  # 18, 9, 5, 3
        self.same = nn.ModuleList(nn.Sequential(conv_block(b, b), conv_block(b, b)) for b in ends)
        self.head = nn.Linear(widths[-1] * 9, dimension)
        for name, span, shift in zip(("columns", "rows"), INNER_FACE, to_arcface[:, 2]):
            matrix = resampling_matrix(span, float(to_arcface[0, 0]), float(shift))  # (72, 112)
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, x):
        x = self.stem(self.rows @ x @ self.columns.T)  # (N, C, 36, 36)
        for down, same in zip(self.down, self.same):
            x = down(x)
            x = x + same(x)
        return self.head(x.flatten(1))  # (N, 128)


class Features(nn.Module):
    """Four stages of features of pictures (N, 3, H, W) in [-1, 1], trained to predict genes, landmarks and noise."""

    def __init__(self, targets, widths=(24, 40, 64, 96)):
        super().__init__()
        self.stages = nn.ModuleList()
        for a, b in zip((3, *widths), widths):
            self.stages.append(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Conv2d(b, b, 3, 1, 1), nn.ReLU()))
        self.head = nn.Linear(widths[-1] * 64, targets)

    def forward(self, x):
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features, self.head(F.adaptive_avg_pool2d(x, 8).flatten(1))


class Perceptual(nn.Module):
    """Squared distance of normalised features, as LPIPS (Zhang et al. 2018) but without learned weights."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x, y):
        pairs = zip(self.features(x)[0], self.features(y)[0])
        return sum((_normalise(a) - _normalise(b)).square().sum(1).mean((1, 2)) for a, b in pairs)  # (N,)


def _normalise(f):
    """Features (N, C, H, W) of unit length at every place."""
    return f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt()


class Landmarker(nn.Module):
    """68 landmarks of face crops (N, 3, 192, 192) in [-1, 1], as (N, 136) x, y in [-1, 1].

    They are the centres of mass of 68 heatmaps. Input and output are those of insightface's landmark models, which crop
    a face box enlarged by 1.5.
    """

    def __init__(self, widths=(24, 32, 40, 56)):
        super().__init__()
        self.stem = nn.Sequential(conv_block(3, widths[0], 2), conv_block(widths[0], widths[0]))  # 48 px a side
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(a, b, 2), conv_block(b, b), conv_block(b, b)) for a, b in zip(widths, widths[1:])
        )  # 24, 12, 6
        self.up = nn.ModuleList(conv_block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))  # 12, 24, 48
        self.head = nn.Conv2d(widths[0], 68, 1)
        self.register_buffer("side", (torch.arange(48) + 0.5) / 24 - 1)

    def forward(self, x):
        levels = [self.stem(F.avg_pool2d(x, 2))]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), levels.pop()], 1))
        share = self.head(x).float().flatten(2).softmax(2).unflatten(2, (48, 48))  # (N, 68, 48, 48)
        points = torch.stack([(share.sum(2) * self.side).sum(2), (share.sum(3) * self.side).sum(2)], 2)  # (N, 68, 2)
        return points.flatten(1) - HALF_PIXEL
