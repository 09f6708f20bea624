"""A small face detector for drawn people, of SCRFD's form (Guo et al. 2021), so that insightface runs it like its own.

With people-r and people-l it makes the pack `people`: what finds, aligns, measures and recognises drawn faces offline.
"""

from torch import nn

STRIDES = (8, 16, 32, 64)  # pixels between the places of each level


def conv(cin, cout, stride=1):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())


class Detector(nn.Module):
    """Score, box and five points at each place of four levels, for pictures (N, 3, H, W) in [-1, 1].

    Returns three lists over `STRIDES`: logits (N, P), distances to left, top, right, bottom (N, P, 4) and offsets of the five
    points (N, P, 10), from the place x = stride * column, y = stride * row, in units of the stride.
    """

    def __init__(self, widths=(16, 24, 32, 48, 64, 64)):
        super().__init__()
        a, b, *levels = widths
        self.stem = nn.Sequential(conv(3, a, 2), conv(a, b, 2), conv(b, b))  # H / 4
        self.levels = nn.ModuleList(
            nn.Sequential(conv(c, d, 2), conv(d, d), conv(d, d)) for c, d in zip((b, *levels), levels)
        )
        self.heads = nn.ModuleList(nn.Sequential(conv(w, w), nn.Conv2d(w, 15, 1)) for w in levels)
        for head in self.heads:
            nn.init.constant_(head[1].bias[:1], -4.0)  # most places hold no face

    def forward(self, pictures):
        x, found = self.stem(pictures), []
        for stride, level, head in zip(STRIDES, self.levels, self.heads):
            x = level(x)
            whole = head(x)[
                :, :, : pictures.shape[2] // stride, : pictures.shape[3] // stride
            ]  # insightface counts whole places alone
            found.append(whole.float().flatten(2).transpose(1, 2))  # (N, P, 15)
        return [f[..., 0] for f in found], [f[..., 1:5] for f in found], [f[..., 5:] for f in found]


class Exported(nn.Module):
    """A detector as SCRFD's files of five levels are: fifteen outputs for one picture. The fifth level, 128 px apart, never fires."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        scores, boxes, points = self.net(x)
        none = x.new_zeros((x.shape[2] // 128) * (x.shape[3] // 128), 15)
        scores = [*(s[0, :, None].sigmoid() for s in scores), none[:, :1]]  # (P, 1)
        return (*scores, *(b[0] for b in boxes), none[:, 1:5], *(p[0] for p in points), none[:, 5:])  # (P, 4), (P, 10)
