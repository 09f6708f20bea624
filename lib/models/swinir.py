"""The stage-1 cleaner of DiffBIR at full size: a SwinIR, trained to remove noise and blur.

Parameters have the names of the published checkpoints. Their buffers (`relative_position_index`, `attn_mask`) depend on
sizes only and are computed. The module is written here because spandrel 0.4.2 has no SwinIR whose first convolution
follows a pixel unshuffling. Source: Liang et al. 2021 (SwinIR), with the settings of DifFace and DiffBIR (swinir.yaml).
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)  # of RGB in 0..1; the published networks expect pictures without it


def _conv(wide, out):
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(wide, out, 3, padding=1)


def split_windows(x, side):
    """Split maps (N, H, W, C) into windows of `side` x `side`, row by row: (N * windows, side * side, C)."""
    n, h, w, c = x.shape
    return x.view(n, h // side, side, w // side, side, c).transpose(2, 3).reshape(-1, side * side, c)


def merge_windows(x, side, h, w):
    """Undo `split_windows`: maps (N, h, w, C) of (N * windows, side * side, C)."""
    return x.view(-1, h // side, w // side, side, side, x.shape[-1]).transpose(2, 3).reshape(-1, h, w, x.shape[-1])


def relative_index(side):
    """The row of the bias table for each pair of places in a window, by their offset: integers (side^2, side^2)."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))  # (side^2, 2)
    offset = place[:, None] - place[None] + side - 1
    return offset[..., 0] * (2 * side - 1) + offset[..., 1]


def shift_mask(h, w, side):
    """Attention mask, -100 between places that only the cyclic shift joins, else 0: (windows, side^2, side^2)."""

    def band(length):  # 0 inside, 1 and 2 on the two sides of the seam
        at = torch.arange(length)
        return (at >= length - side).long() + (at >= length - side // 2).long()

    region = split_windows((3 * band(h)[:, None] + band(w)).view(1, h, w, 1), side)[..., 0]
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
        """Attend within windows.

        Args: x, (N * windows, T, width); index, (T, T) rows of the table; mask, (windows, T, T), added to the scores.
        Returns the shape of x.
        """
        joint = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (N * windows, T, 3, heads, width / heads)
        q, k, v = joint.permute(2, 0, 3, 1, 4)  # (N * windows, heads, T, width / heads) each
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(len(x) // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Window attention and two linear layers, each after normalisation.

    Every second block of a group shifts its windows by half their side.
    """

    def __init__(self, width, heads, side, mlp_width, shift):
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads, side)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, mlp_width), act=nn.GELU(), fc2=nn.Linear(mlp_width, width))
        )

    def forward(self, x, index, mask):
        """Apply the block to maps (N, H, W, width), H and W multiples of the window's side. Returns the same shape."""
        y = self.norm1(x).roll((-self.shift, -self.shift), (1, 2))
        y = self.attn(split_windows(y, self.side), index, mask if self.shift else None)
        x = x + merge_windows(y, self.side, *x.shape[1:3]).roll((self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Group(nn.Module):
    """Blocks and a convolution, with a residual connection around both."""

    def __init__(self, width, heads, side, mlp_width, depth):
        super().__init__()
        blocks = [Block(width, heads, side, mlp_width, shift=side // 2 * (j % 2)) for j in range(depth)]
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.conv = _conv(width, width)

    def forward(self, x, index, mask):
        """Apply the group to maps (N, H, W, width). Returns the same shape."""
        y = x
        for block in self.residual_group["blocks"]:
            y = block(y, index, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(ModelMixin, ConfigMixin):
    """The network, on pictures unshuffled by `fold`. The defaults are the published size, 15.79 M parameters."""

    @register_to_config
    def __init__(self, width=180, depths=(6,) * 8, heads=6, window=8, mlp_width=360, fold=8, features=64):
        super().__init__()
        self.conv_first = nn.Sequential(nn.PixelUnshuffle(fold), _conv(3 * fold**2, width))
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(width)})
        self.layers = nn.ModuleList(Group(width, heads, window, mlp_width, depth) for depth in depths)
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = _conv(width, width)
        self.conv_before_upsample = nn.Sequential(_conv(width, features))
        for k in range(int(math.log2(fold))):
            setattr(self, f"conv_up{k + 1}", _conv(features, features))
        self.conv_hr, self.conv_last = _conv(features, features), _conv(features, 3)

    def forward(self, x):
        """Clean pictures whose sides are multiples of fold * window.

        Args: x, (N, 3, H, W) RGB in [0, 1]. Returns the same shape, not clamped.
        """
        mean = torch.tensor(MEAN).view(1, 3, 1, 1).to(x)
        shallow = self.conv_first(x - mean)
        y = self.conv_before_upsample(shallow + self.conv_after_body(self._deep(shallow)))
        y = F.leaky_relu(y)  # a slope of 0.01 here and 0.2 below, as published
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
        """Clean pictures.

        Args: pictures, (N, 3, H, W) in [-1, 1], of any size; black fills them up to whole windows, as in DiffBIR.
        Returns the same shape, not clamped, because DiffBIR encodes the unclamped result as the hint.
        """
        (h, w), side = pictures.shape[-2:], self.config.fold * self.config.window
        padded = F.pad((pictures + 1) / 2, (0, -w % side, 0, -h % side))
        return self(padded)[..., :h, :w] * 2 - 1
