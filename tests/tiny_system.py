"""A restorer of the same classes as the shipped one, smaller and untrained: 64 px pictures, 4-channel 8x8 latents."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib.models.system import Cleaner, System, ddpm, encoder_from
from lib.models.tiny import TOKENS, build_tokenizer
from lib.people.procedural import WORDS

SIZE, LATENT = 64, (4, 8, 8)


def unet(widths=(32, 64)):
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        use_linear_projection=True,
        norm_num_groups=8,
    )


def build(seed=0, stir=True):
    """The system, frozen. `stir` does what training would have done: E's zero convolutions are filled, text matters."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(WORDS)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        in_channels=48,
        out_channels=48,
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        sample_size=16,
    )
    cleaner = Cleaner(
        sample_size=16,
        in_channels=48,
        out_channels=48,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=8,
    )
    G = unet()
    for name, weight in G.named_parameters():
        if stir and "attn2.to_v" in name:
            weight.data *= 30  # untrained text hardly matters otherwise
    B = System(G, encoder_from(G), vae, text, tokenizer, ddpm(), cleaner, {"recipe": "tiny-heavy"})
    if stir:
        stir_(B)
    return B.freeze()


@torch.no_grad()
def stir_(B, size=0.05, seed=7):
    """Fills the zero convolutions of E."""
    g = torch.Generator().manual_seed(seed)
    for part in (B.E.controlnet_cond_embedding, B.E.controlnet_down_blocks, B.E.controlnet_mid_block):
        for weight in part.parameters():
            weight += size * torch.randn(weight.shape, generator=g)


def pictures(count, seed=0, size=SIZE):
    """Smooth coloured pictures (count, 3, size, size) in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=g) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def state(module):
    """A copy of every tensor of a module."""
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    """Whether two state dicts are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def changed(before, after):
    """Names of the networks of two systems, as of a system folder, that differ."""
    other = after.modules()
    return [name for name, one in before.modules().items() if not same(one.state_dict(), other[name].state_dict())]


def everything(B):
    """What tuning must leave as it is: weights, gradients, modes, settings, the scheduler's state."""
    weights = {name: [w for _, w in sorted(module.state_dict().items())] for name, module in B.modules().items()}
    sums = {name: [w.double().sum().item() for w in tensors] for name, tensors in weights.items()}
    dtypes = {w.dtype for tensors in weights.values() for w in tensors}
    flags = [(p.requires_grad, p.grad is None) for module in B.modules().values() for p in module.parameters()]
    modes = [
        (m.training, getattr(m, "gradient_checkpointing", None)) for one in B.modules().values() for m in one.modules()
    ]
    # a name with an underscore is a note of diffusers
    scheduler = {name: str(value) for name, value in vars(B.scheduler).items() if not name.startswith("_")}
    scheduler |= {name: value for name, value in B.scheduler.config.items() if not name.startswith("_")}
    return sums, dtypes, flags, modes, scheduler, B.vae.config.scaling_factor, B.personal
