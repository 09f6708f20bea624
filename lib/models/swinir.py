"""DiffBIR's stage 1 at full size: a SwinIR that removes noise and blur and invents nothing.

Parameters bear the names of the published checkpoints, whose two kinds of buffer (`relative_position_index`, `attn_mask`) follow from
sizes alone and are computed instead. Ours, because spandrel 0.4.2 knows no SwinIR whose first convolution follows an unshuffling.
Source: Liang et al. 2021 (SwinIR), as DifFace and DiffBIR set it up (swinir.yaml).
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)  # of RGB in 0..1; the published networks were trained on what is left


def conv(wide, out):
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(wide, out, 3, padding=1)


def windows(x, side):
    """Windows of `side` x `side` of maps (N, H, W, C), row by row, a picture's own in succession: (N windows, side * side, C)."""
    n, h, w, c = x.shape
    return x.view(n, h // side, side, w // side, side, c).transpose(2, 3).reshape(-1, side * side, c)


def joined(x, side, h, w):
    """Undoes `windows`: maps (N, h, w, C) of (N windows, side * side, C)."""
    return x.view(-1, h // side, w // side, side, side, x.shape[-1]).transpose(2, 3).reshape(-1, h, w, x.shape[-1])


def relative_index(side):
    """Which row of the bias table holds for a pair of places in a window: whole numbers (side^2, side^2), by their offset."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))  # (side^2, 2)
    offset = place[:, None] - place[None] + side - 1
    return offset[..., 0] * (2 * side - 1) + offset[..., 1]


def shift_mask(h, w, side):
    """What keeps apart places that only the cyclic shift brought into one window: 0 or -100, (windows, side^2, side^2)."""

    def band(length):  # 0 inside, 1 and 2 on the two sides of the seam
        at = torch.arange(length)
        return (at >= length - side).long() + (at >= length - side // 2).long()

    region = windows((3 * band(h)[:, None] + band(w)).view(1, h, w, 1), side)[..., 0]
    return (region[:, None] != region[:, :, None]) * -100.0


class Attention(nn.Module):
    """Self-attention within windows, with a learned bias for each offset (Swin transformer)."""

    def __init__(self, width, heads, side):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, index, mask=None):
        """x: (N windows, T, width); index: (T, T) rows of the table; mask: (windows, T, T), added. Returns the shape of x."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (N windows, heads, T, width / heads)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(len(x) // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Window attention and two linear layers, each on what is left after normalising; every second block shifts its windows by half."""

    def __init__(self, width, heads, side, mlp_width, shift):
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, side)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, mlp_width), act=nn.GELU(), fc2=nn.Linear(mlp_width, width))
        )

    def forward(self, x, index, mask):
        """x: (N, H, W, width), H and W multiples of the window's side; the same shape."""
        y = self.norm1(x).roll((-self.shift, -self.shift), (1, 2))
        y = self.attn(windows(y, self.side), index, mask if self.shift else None)
        x = x + joined(y, self.side, *x.shape[1:3]).roll((self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Group(nn.Module):
    """Blocks and a convolution around which the group's input is added."""

    def __init__(self, width, heads, side, mlp_width, depth):
        super().__init__()
        blocks = [Block(width, heads, side, mlp_width, shift=side // 2 * (j % 2)) for j in range(depth)]
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.conv = conv(width, width)

    def forward(self, x, index, mask):
        """x: (N, H, W, width); the same shape."""
        y = x
        for block in self.residual_group["blocks"]:
            y = block(y, index, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(ModelMixin, ConfigMixin):
    """The network, on pictures folded by `fold`; the defaults are the published size, 15.79 M parameters."""

    @register_to_config
    def __init__(self, width=180, depths=(6,) * 8, heads=6, window=8, mlp_width=360, fold=8, features=64):
        super().__init__()
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(fold), conv(3 * fold**2, width))
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(width)})
        self.layers = nn.ModuleList(Group(width, heads, window, mlp_width, depth) for depth in depths)
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = conv(width, width)
        self.conv_before_upsample = nn.Sequential(conv(width, features))
        for k in range(int(math.log2(fold))):
            setattr(self, f"conv_up{k + 1}", conv(features, features))
        self.conv_hr, self.conv_last = conv(features, features), conv(features, 3)

    def forward(self, x):
        """x: (N, 3, H, W) RGB in [0, 1], H and W multiples of fold * window; the same shape, not clamped."""
        mean = torch.tensor(MEAN).view(1, 3, 1, 1).to(x)
        shallow = self.conv_first(x - mean)
        y = self.conv_before_upsample(shallow + self.conv_after_body(self._deep(shallow)))
        y = F.leaky_relu(y)  # with torch's slope of 0.01 here, 0.2 below, as published
        for k in range(int(math.log2(self.config.fold))):
            y = F.leaky_relu(getattr(self, f"conv_up{k + 1}")(F.interpolate(y, scale_factor=2)), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(y), 0.2)) + mean

    def _deep(self, shallow):
        side, (h, w) = self.config.window, shallow.shape[2:]
        index, mask = relative_index(side).to(shallow.device), shift_mask(h, w, side).to(shallow)
        x = self.patch_embed["norm"](shallow.permute(0, 2, 3, 1))  # (N, H, W, width)
        for layer in self.layers:
            x = layer(x, index, mask)
        return self.norm(x).permute(0, 3, 1, 2)

    def clean(self, pictures):
        """The cleaned pictures; `pictures` (N, 3, H, W) in [-1, 1] of any size; the same shape.

        Not clamped: DiffBIR encodes the hint of what comes out as it is, in training and in use. Black fills up to whole windows, as there.
        """
        (h, w), side = pictures.shape[-2:], self.config.fold * self.config.window
        padded = F.pad((pictures + 1) / 2, (0, -w % side, 0, -h % side))
        return self(padded)[..., :h, :w] * 2 - 1
