"""The small judges of the tiny world: a face recogniser, a perceptual distance, a landmarker, trained on procedural people.

They judge only: no loss that trains or guides a restoration sees them. lib.models.export_onnx writes them as what insightface opens.
"""

import torch
import torch.nn.functional as F
from torch import nn

FACE = 112  # pixels: the input of insightface's ArcFaceONNX
INNER = (
    (20, 92),
    (30, 102),
)  # columns and rows that the recogniser looks at, of a whole crop of 112 px: from brows to chin, little hair


def conv(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.GroupNorm(8, cout), nn.SiLU())


def sampling(span, scale, shift):
    """Weights (places of `span`, 112) that read places u of a whole crop at scale * u + shift of insightface's, each sum 1."""
    at = scale * torch.arange(*span) + shift
    weights = (1 - (torch.arange(FACE) - at[:, None].clamp(0, FACE - 1)).abs() / scale).relu()
    return (weights / weights.sum(1, keepdim=True)).float()


class Recogniser(nn.Module):
    """A residual network from insightface's crops (N, 3, 112, 112) in [-1, 1] to 128-d embeddings (not normalised).

    It sees the inner face alone: hair survives every degradation, so a recogniser that reads it would call
    a blurred face, and any restoration of it, the right person.
    """

    def __init__(self, to_arcface, widths=(24, 40, 64, 96), dimension=128):
        super().__init__()
        self.stem = conv(3, widths[0], 2)  # 36
        self.down = nn.ModuleList(conv(a, b, 2) for a, b in zip(widths, (*widths[1:], widths[-1])))  # 18, 9, 5, 3
        self.same = nn.ModuleList(nn.Sequential(conv(b, b), conv(b, b)) for b in (*widths[1:], widths[-1]))
        self.head = nn.Linear(widths[-1] * 9, dimension)
        for name, span, shift in zip(("columns", "rows"), INNER, to_arcface[:, 2]):
            self.register_buffer(name, sampling(span, float(to_arcface[0, 0]), float(shift)), persistent=False)  # (72, 112)

    def forward(self, x):
        x = self.stem(self.rows @ x @ self.columns.T)
        for down, same in zip(self.down, self.same):
            x = down(x)
            x = x + same(x)
        return self.head(x.flatten(1))  # (N, 128)


class Features(nn.Module):
    """Four stages of features, trained to read genes, landmarks and noise off a picture (N, 3, H, W) in [-1, 1]."""

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
    """Distance of LPIPS's form (Zhang et al. 2018) without learned weights: squared difference of unit features."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, x, y):
        unit = lambda f: f / (f.square().sum(1, keepdim=True) + 1e-8).sqrt()  # noqa: E731
        pairs = zip(self.features(x)[0], self.features(y)[0])
        return sum((unit(a) - unit(b)).square().sum(1).mean((1, 2)) for a, b in pairs)  # (N,)


HALF = 1 / 192  # half a pixel of the crop: insightface reads -1 as the middle of its first pixel, not as its edge


class Landmarker(nn.Module):
    """68 heatmaps of a face crop (N, 3, 192, 192) in [-1, 1], read off by their centre of mass: (N, 136) x, y in [-1, 1].

    Size and output are those of insightface's landmark models, which crop a face box enlarged by 1.5.
    """

    def __init__(self, widths=(24, 32, 40, 56)):
        super().__init__()
        self.stem = nn.Sequential(conv(3, widths[0], 2), conv(widths[0], widths[0]))  # 48
        self.down = nn.ModuleList(
            nn.Sequential(conv(a, b, 2), conv(b, b), conv(b, b)) for a, b in zip(widths, widths[1:])
        )  # 24, 12, 6
        self.up = nn.ModuleList(conv(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1]))  # 12, 24, 48
        self.head = nn.Conv2d(widths[0], 68, 1)
        side = (torch.arange(48) + 0.5) / 24 - 1
        self.register_buffer("side", side)

    def forward(self, x):
        levels = [self.stem(F.avg_pool2d(x, 2))]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), levels.pop()], 1))
        share = self.head(x).float().flatten(2).softmax(2).unflatten(2, (48, 48))  # (N, 68, 48, 48)
        points = torch.stack([(share.sum(2) * self.side).sum(2), (share.sum(3) * self.side).sum(2)], 2)  # (N, 68, 2)
        return points.flatten(1) - HALF
