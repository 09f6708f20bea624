"""The untrained system at the tiny scale, and its tokenizer with a small vocabulary."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib.models.system import RARE_TOKEN, Cleaner, System, ddpm, encoder_from

TOKENS = 40  # enough for the longest caption and its two end marks


def build_tiny(words, seed=0, latent_channels=12):
    """Build an untrained system at the tiny scale: pictures of 128 px, latents of 16x16.

    Args: words, the vocabulary; seed, of the weights; latent_channels, of the autoencoder. Returns a System.
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(words)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    G = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=(96, 128, 144),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=(3, 4, 4),
        use_linear_projection=True,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        in_channels=48,
        out_channels=48,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        block_out_channels=(80, 144),
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=32,
    )
    return System(G, encoder_from(G), vae, text_encoder, tokenizer, ddpm(), build_cleaner())


def build_cleaner(widths=(48, 64, 80), groups=8):
    """An untrained stage-1 cleaner; widths, channels at 32, 16 and 8 px; groups, of its normalisations.

    Its weights, as those of `widened`, are drawn by torch's global generator: torch.manual_seed before.
    """
    return Cleaner(
        sample_size=32,
        in_channels=48,
        out_channels=48,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=groups,
        attention_head_dim=32,
    )


@torch.no_grad()
def widened(B, latent_channels):
    """The system with more latent channels: it computes the same, and its further channels are untrained.

    Args: B, a system of fewer channels; latent_channels. Returns a System, whose other parts are those of B.
    """
    C = {"in_channels": latent_channels, "out_channels": latent_channels}
    G = UNet2DConditionModel.from_config({**B.G.config, **C})
    E = type(B.E).from_config({**B.E.config, "in_channels": latent_channels})
    vae = AutoencoderKL.from_config({**B.vae.config, "latent_channels": latent_channels})
    for new, old in ((G, B.G), (E, B.E), (vae, B.vae)):
        for name, weight in new.state_dict().items():
            kept, moments = old.state_dict()[name], name.startswith(("encoder.conv_out", "quant_conv"))
            if moments:  # its rows are means, then logarithms of variances
                weight, kept = _by_moment(weight, latent_channels), _by_moment(kept, B.vae.config.latent_channels)
            weight[tuple(slice(side) for side in kept.shape[: 1 + moments])] = 0  # old rows ignore new channels
            weight[tuple(slice(side) for side in kept.shape)] = kept
    return B.with_(G=G, E=E, vae=vae)


def _by_moment(weight, channels):
    """A view in which every axis of twice the channels is split in two."""
    for axis in reversed(range(weight.ndim)):
        if weight.shape[axis] == 2 * channels:
            weight = weight.unflatten(axis, (2, channels))
    return weight


def build_tokenizer(words):
    """Build a CLIP tokenizer in which each of `words`, and the rare token "sks", is one token.

    Every byte is a symbol, too, so it can read any text.
    """
    symbols = [letter + end for end in ("", "</w>") for letter in sorted(ByteLevel.alphabet())]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[], model_max_length=TOKENS)
    longer = [word for word in (*words, RARE_TOKEN) if len(word) > 1]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in longer])
    return tokenizer
