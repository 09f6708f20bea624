"""Independent, plain versions of the published networks, under the published names, to test lib.convert against.

They are ldm's UNet and autoencoder and OpenCLIP's text encoder (Stable Diffusion 2.1), DiffBIR's control network and
its SwinIR. FULL has the published sizes, SMALL the same layouts with far fewer channels.
"""

import json
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

FULL = SimpleNamespace(
    unet=dict(base=320, context=1024),
    vae=128,
    text=dict(vocabulary=49408, width=1024, layers=24, length=77),
    swin=dict(width=180, depths=(6,) * 8, heads=6, window=8, mlp=360, fold=8, features=64, trained=64),
)
SMALL = SimpleNamespace(
    unet=dict(base=32, context=48),
    vae=32,
    text=dict(vocabulary=514, width=48, layers=3, length=77),
    swin=dict(width=12, depths=(2, 2), heads=2, window=4, mlp=24, fold=8, features=16, trained=8),
)
MULT, HEAD = (1, 2, 4, 4), 64


def conv(wide, out, size=3, stride=1):
    return nn.Conv2d(wide, out, size, stride, size // 2)


def holder(**modules):
    return nn.ModuleDict(modules)


# ---- ldm's UNet and DiffBIR's control network ----


class Res(nn.Module):
    def __init__(self, wide, out, time):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, wide), nn.SiLU(), conv(wide, out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, out))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0), conv(out, out))
        self.skip_connection = nn.Identity() if wide == out else conv(wide, out, 1)

    def forward(self, x, emb, _):
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Cross(nn.Module):
    def __init__(self, width, context, head):
        super().__init__()
        self.head = head
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = nn.Linear(context, width, bias=False), nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x, context):
        q, k, v = (
            y.unflatten(-1, (-1, self.head)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        weights = (q @ k.transpose(2, 3) / math.sqrt(self.head)).softmax(-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class Transformer(nn.Module):
    def __init__(self, width, context, head):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        feed = nn.Sequential(Gated(width), nn.Dropout(0), nn.Linear(4 * width, width))
        self.transformer_blocks = nn.ModuleList(
            [
                holder(
                    attn1=Cross(width, width, head),
                    ff=holder(net=feed),
                    attn2=Cross(width, context, head),
                    norm1=nn.LayerNorm(width),
                    norm2=nn.LayerNorm(width),
                    norm3=nn.LayerNorm(width),
                )
            ]
        )

    def forward(self, x, _, context):
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        block = self.transformer_blocks[0]
        y = block["norm1"](h)
        h = h + block["attn1"](y, y)
        h = h + block["attn2"](block["norm2"](h), context)
        h = h + block["ff"]["net"](block["norm3"](h))
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = conv(width, width, stride=2)

    def forward(self, x, *_):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x, *_):
        return self.conv(F.interpolate(x, scale_factor=2))


def run(modules, x, emb, context):
    for module in modules:
        x = module(x) if isinstance(module, nn.Conv2d) else module(x, emb, context)
    return x


class Encoder(nn.Module):
    """The part that UNet and control network share: time_embed, input_blocks, middle_block."""

    def __init__(self, base, context, channels):
        super().__init__()
        self.base, self.widths, time = base, [base * m for m in MULT], 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks, self.skips, at = nn.ModuleList([nn.ModuleList([conv(channels, base)])]), [base], base
        for level, width in enumerate(self.widths):
            for _ in range(2):
                attention = [Transformer(width, context, min(HEAD, base))] if level < 3 else []
                self.input_blocks.append(nn.ModuleList([Res(at, width, time), *attention]))
                at = width
                self.skips.append(at)
            if level < 3:
                self.input_blocks.append(nn.ModuleList([Down(at)]))
                self.skips.append(at)
        self.middle_block = nn.ModuleList(
            [Res(at, at, time), Transformer(at, context, min(HEAD, base)), Res(at, at, time)]
        )

    def embed(self, t):
        rates = torch.exp(-math.log(10000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = t[:, None].float() * rates
        return self.time_embed(torch.cat([angles.cos(), angles.sin()], -1))

    def encode(self, x, emb, context):
        kept = []
        for block in self.input_blocks:
            x = run(block, x, emb, context)
            kept.append(x)
        return kept, run(self.middle_block, x, emb, context)


class UNet(Encoder):
    def __init__(self, base, context):
        super().__init__(base, context, 4)
        self.output_blocks, at, skips = nn.ModuleList(), self.widths[-1], list(self.skips)
        for level in (3, 2, 1, 0):
            for k in range(3):
                width = self.widths[level]
                attention = [Transformer(width, context, min(HEAD, base))] if level < 3 else []
                up = [Up(width)] if k == 2 and level else []
                self.output_blocks.append(nn.ModuleList([Res(at + skips.pop(), width, 4 * base), *attention, *up]))
                at = width
        self.out = nn.Sequential(nn.GroupNorm(32, base), nn.SiLU(), conv(base, 4))

    def forward(self, x, t, context, control=None):
        emb = self.embed(t)
        kept, h = self.encode(x, emb, context)
        control = list(control or [0] * 13)
        h = h + control.pop()
        for block in self.output_blocks:
            h = run(block, torch.cat([h, kept.pop() + control.pop()], 1), emb, context)
        return self.out(h)


class Control(Encoder):
    def __init__(self, base, context):
        super().__init__(base, context, 8)
        self.zero_convs = nn.ModuleList(nn.Sequential(conv(width, width, 1)) for width in self.skips)
        self.middle_block_out = nn.Sequential(conv(self.widths[-1], self.widths[-1], 1))

    def forward(self, x, hint, t, context):
        """The 13 outputs, over the concatenation of x_t and hint."""
        kept, middle = self.encode(torch.cat([x, hint], 1), self.embed(t), context)
        return [zero(h) for zero, h in zip(self.zero_convs, kept)] + [self.middle_block_out(middle)]


# ---- ldm's autoencoder ----


class VaeRes(nn.Module):
    def __init__(self, wide, out):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, wide, eps=1e-6), conv(wide, out)
        self.norm2, self.conv2 = nn.GroupNorm(32, out, eps=1e-6), conv(out, out)
        if wide != out:
            self.nin_shortcut = conv(wide, out, 1)

    def forward(self, x):
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class VaeAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (conv(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (f(h).flatten(2) for f in (self.q, self.k, self.v))  # (N, C, places)
        weights = (q.transpose(1, 2) @ k / math.sqrt(x.shape[1])).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view(x.shape))


def middle(width):
    return holder(block_1=VaeRes(width, width), attn_1=VaeAttention(width), block_2=VaeRes(width, width))


class Vae(nn.Module):
    def __init__(self, base):
        super().__init__()
        widths, top = [base * m for m in MULT], base * MULT[-1]
        down, up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            before, after = widths[max(level - 1, 0)], widths[min(level + 1, 3)]
            down.append(holder(block=nn.ModuleList([VaeRes(before, width), VaeRes(width, width)])))
            up.append(holder(block=nn.ModuleList([VaeRes(after, width), VaeRes(width, width), VaeRes(width, width)])))
            if level < 3:
                down[level]["downsample"] = holder(conv=nn.Conv2d(width, width, 3, 2))
            if level:
                up[level]["upsample"] = holder(conv=conv(width, width))
        self.encoder = holder(
            conv_in=conv(3, base),
            down=down,
            mid=middle(top),
            norm_out=nn.GroupNorm(32, top, eps=1e-6),
            conv_out=conv(top, 8),
        )
        self.decoder = holder(
            conv_in=conv(4, top),
            mid=middle(top),
            up=up,
            norm_out=nn.GroupNorm(32, base, eps=1e-6),
            conv_out=conv(base, 3),
        )
        self.quant_conv, self.post_quant_conv = conv(8, 8, 1), conv(4, 4, 1)

    def moments(self, x):
        e = self.encoder
        h = e["conv_in"](x)
        for level in e["down"]:
            h = nn.Sequential(*level["block"])(h)
            h = level["downsample"]["conv"](F.pad(h, (0, 1, 0, 1))) if "downsample" in level else h
        h = nn.Sequential(*e["mid"].values())(h)
        return self.quant_conv(e["conv_out"](F.silu(e["norm_out"](h))))

    def decode(self, z):
        d = self.decoder
        h = nn.Sequential(*d["mid"].values())(d["conv_in"](self.post_quant_conv(z)))
        for level in reversed(d["up"]):
            h = nn.Sequential(*level["block"])(h)
            h = level["upsample"]["conv"](F.interpolate(h, scale_factor=2)) if "upsample" in level else h
        return d["conv_out"](F.silu(d["norm_out"](h)))


# ---- OpenCLIP's text encoder, up to the last block but one ----


class Text(nn.Module):
    def __init__(self, vocabulary, width, layers, length):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(length, width))
        self.text_projection, self.logit_scale = nn.Parameter(torch.zeros(width, width)), nn.Parameter(torch.zeros(()))
        self.transformer = holder(
            resblocks=nn.ModuleList(
                holder(
                    ln_1=nn.LayerNorm(width),
                    attn=nn.MultiheadAttention(width, width // min(HEAD, width), batch_first=True),
                    ln_2=nn.LayerNorm(width),
                    mlp=holder(c_fc=nn.Linear(width, 4 * width), c_proj=nn.Linear(4 * width, width)),
                )
                for _ in range(layers)
            )
        )
        self.ln_final = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.token_embedding(tokens) + self.positional_embedding
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        for block in self.transformer["resblocks"][:-1]:
            y = block["ln_1"](x)
            x = x + block["attn"](y, y, y, attn_mask=later, need_weights=False)[0]
            x = x + block["mlp"]["c_proj"](F.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        return self.ln_final(x)


# ---- SwinIR, on its bare weights ----


def swin_shapes(width, depths, heads, window, mlp, fold, features, trained):
    """name -> shape of the weights; the buffers are in swin_buffers."""

    def both(name, *shape):
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    shapes = both("conv_first.1", width, 3 * fold**2, 3, 3) | both("patch_embed.norm", width)
    for i, depth in enumerate(depths):
        for j in range(depth):
            at = f"layers.{i}.residual_group.blocks.{j}"
            shapes |= (
                both(f"{at}.norm1", width)
                | both(f"{at}.attn.qkv", 3 * width, width)
                | both(f"{at}.attn.proj", width, width)
            )
            shapes |= both(f"{at}.norm2", width) | both(f"{at}.mlp.fc1", mlp, width) | both(f"{at}.mlp.fc2", width, mlp)
            shapes[f"{at}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
        shapes |= both(f"layers.{i}.conv", width, width, 3, 3)
    shapes |= (
        both("norm", width)
        | both("conv_after_body", width, width, 3, 3)
        | both("conv_before_upsample.0", features, width, 3, 3)
    )
    for name in ("conv_up1", "conv_up2", "conv_up3", "conv_hr"):
        shapes |= both(name, features, features, 3, 3)
    return shapes | both("conv_last", 3, features, 3, 3)


def swin_buffers(depths, window, trained, **_):
    """The index and the masks, computed for each pair of places."""
    place = [(y, x) for y in range(window) for x in range(window)]
    index = torch.tensor(
        [[(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for b in place] for a in place]
    )

    def region(y, x):  # which of the nine pieces of the rolled map
        return tuple((at >= trained - window) + (at >= trained - window // 2) for at in (y, x))

    corners = [(y, x) for y in range(0, trained, window) for x in range(0, trained, window)]
    pieces = [[region(y + dy, x + dx) for dy, dx in place] for y, x in corners]
    mask = torch.tensor([[[0.0 if a == b else -100.0 for b in row] for a in row] for row in pieces])
    blocks = [(f"layers.{i}.residual_group.blocks.{j}", j) for i, depth in enumerate(depths) for j in range(depth)]
    return {f"{at}.attn.relative_position_index": index for at, _ in blocks} | {
        f"{at}.attn_mask": mask for at, j in blocks if j % 2
    }


def swin_block(w, x, heads, window, shift):
    """One window-attention block over maps x (N, H, W, C), as attention over the whole map, masked by windows."""
    n, h, width, c = x.shape
    y, z = torch.meshgrid(torch.arange(h), torch.arange(width), indexing="ij")
    y, z = ((at - shift) % length for at, length in ((y.flatten(), h), (z.flatten(), width)))  # after rolling
    came_around = [at >= length - shift if shift else at < 0 for at, length in ((y, h), (z, width))]
    apart = (y[:, None] // window != y // window) | (z[:, None] // window != z // window)
    for side in came_around:
        apart = apart | (side[:, None] != side)
    rows = (y[:, None] - y + window - 1) * (2 * window - 1) + z[:, None] - z + window - 1
    table = w["attn.relative_position_bias_table"]
    bias = table[rows.clamp(0, len(table) - 1)].permute(2, 0, 1).masked_fill(apart, -math.inf)

    def linear(name, v):
        return F.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, v):
        return F.layer_norm(v, (c,), w[f"{name}.weight"], w[f"{name}.bias"])

    x = x.view(n, -1, c)
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in linear("attn.qkv", norm("norm1", x)).chunk(3, -1)
    )
    weights = (q @ k.transpose(2, 3) / math.sqrt(c // heads) + bias).softmax(-1)
    x = x + linear("attn.proj", (weights @ v).transpose(1, 2).flatten(2))
    return (x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))).view(n, h, width, c)


def swin(w, x, depths, heads, window, fold, **_):
    """The network, for pictures x in [0, 1] and weights by name."""

    def conv2d(name, v):
        return F.conv2d(v, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def norm(name, v):
        return F.layer_norm(v, v.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    first = conv2d("conv_first.1", F.pixel_unshuffle(x - mean, fold))
    h = norm("patch_embed.norm", first.permute(0, 2, 3, 1))
    for i, depth in enumerate(depths):
        y = h
        for j in range(depth):
            at = f"layers.{i}.residual_group.blocks.{j}."
            y = swin_block(
                {k.removeprefix(at): v for k, v in w.items() if k.startswith(at)},
                y,
                heads,
                window,
                window // 2 * (j % 2),
            )
        h = h + conv2d(f"layers.{i}.conv", y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    h = first + conv2d("conv_after_body", norm("norm", h).permute(0, 3, 1, 2))
    h = F.leaky_relu(conv2d("conv_before_upsample.0", h), 0.01)
    for name in ("conv_up1", "conv_up2", "conv_up3"):
        h = F.leaky_relu(conv2d(name, F.interpolate(h, scale_factor=2)), 0.2)
    return conv2d("conv_last", F.leaky_relu(conv2d("conv_hr", h), 0.2)) + mean


# ---- files ----


def vocabulary():
    """A CLIP vocabulary of single bytes. As in the published one, token 0 is "!" and the last two are the end marks."""
    alphabet = sorted(ByteLevel.alphabet())
    return {
        symbol: i
        for i, symbol in enumerate([*alphabet, *(a + "</w>" for a in alphabet), "<|startoftext|>", "<|endoftext|>"])
    }


def write_tokenizer(folder):
    """A tokenizer as the mirrors have it, with another pad_token than OpenCLIP's."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    )
    return folder
