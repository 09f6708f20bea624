"""A small face detector for drawn people. It has the form of SCRFD (Guo et al. 2021), which insightface runs.

With people-r and people-l it makes the insightface pack `people`.
"""

import torch
from torch import nn

from lib.models.evaluation_networks import conv_block

STRIDES = (8, 16, 32, 64)  # pixels between the places of each level
EMPTY_STRIDE = 128  # SCRFD's files of this kind have a fifth level; ours never reports a face there


def _conv(cin, cout, stride=1):
    return conv_block(cin, cout, stride, norm="batch")


class Detector(nn.Module):
    """Score, box and five points at each place of four levels, for pictures (N, 3, H, W) in [-1, 1].

    Returns three lists over `STRIDES`: logits (N, P), distances to left, top, right, bottom (N, P, 4) and offsets of
    the five points (N, P, 10). Distances and offsets are in strides, from the place x = stride * column,
    y = stride * row.
    """

    def __init__(self, widths=(16, 24, 32, 48, 64, 64)):
        super().__init__()
        a, b, *levels = widths
        self.stem = nn.Sequential(_conv(3, a, 2), _conv(a, b, 2), _conv(b, b))  # H / 4
        self.levels = nn.ModuleList(
            nn.Sequential(_conv(c, d, 2), _conv(d, d), _conv(d, d)) for c, d in zip((b, *levels), levels)
        )
        self.heads = nn.ModuleList(nn.Sequential(_conv(w, w), nn.Conv2d(w, 15, 1)) for w in levels)
        for head in self.heads:
            nn.init.constant_(head[1].bias[:1], -4.0)  # most places hold no face

    def forward(self, pictures):
        x, outputs = self.stem(pictures), []
        for stride, level, head in zip(STRIDES, self.levels, self.heads):
            x = level(x)
            rows, columns = pictures.shape[2] // stride, pictures.shape[3] // stride  # insightface counts whole places
            outputs.append(head(x)[:, :, :rows, :columns].float().flatten(2).transpose(1, 2))  # (N, P, 15)
        return [o[..., 0] for o in outputs], [o[..., 1:5] for o in outputs], [o[..., 5:] for o in outputs]


class ScrfdOutputs(nn.Module):
    """A detector with the fifteen outputs of SCRFD's files of five levels, for one picture."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        scores, boxes, points = self.net(x)
        empty = x.new_zeros((x.shape[2] // EMPTY_STRIDE) * (x.shape[3] // EMPTY_STRIDE), 15)
        probabilities = [torch.sigmoid(s[0, :, None]) for s in scores]  # (P, 1) each
        boxes, points = [b[0] for b in boxes], [p[0] for p in points]  # (P, 4), (P, 10) each
        return (*probabilities, empty[:, :1], *boxes, empty[:, 1:5], *points, empty[:, 5:])
