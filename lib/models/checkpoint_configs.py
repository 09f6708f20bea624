"""The configuration of each part of a published checkpoint, read from the shapes of its weights."""

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib.models.swinir import SwinIR
from lib.models.system import LatentControlNet

HEAD = 64  # width of an attention head in SD 2.1 and its text encoder; shapes do not show it


def build(part, weights, G=None):
    """An empty module for a part, as its weights need it; call it on the meta device.

    Args: part, "unet", "control", "vae", "text_encoder" or "cleaner"; weights, names in the published layout to
    tensors; G, of which "control" copies the encoder.
    Raises KeyError, IndexError, ValueError or TypeError where the weights are of another architecture.
    """
    if part == "control":
        return LatentControlNet.from_unet(G, load_weights_from_unet=False)
    if part == "text_encoder":
        return build_text_encoder(text_config(weights))
    kind, config = {
        "unet": (UNet2DConditionModel, unet_config),
        "vae": (AutoencoderKL, vae_config),
        "cleaner": (SwinIR, cleaner_config),
    }[part]
    return kind(**config(weights))


def build_text_encoder(config):
    """A text encoder without storage for its weights. Its position ids are no weights and have storage."""
    with torch.device("meta"):
        module = CLIPTextModel(config)
    module.embeddings.position_ids = torch.arange(config.max_position_embeddings, device="cpu")[None]
    return module


def unet_config(w):
    """Of G: levels, layers, widths, the levels that attend to the text, and the text's width."""
    ends = sorted(int(k.split(".")[1]) for k in w if k.startswith("input_blocks.") and k.endswith(".0.op.weight"))
    layers = ends[0] - 1
    firsts = [1 + level * (layers + 1) for level in range(len(ends) + 1)]
    widths = [w[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts]
    attends = [f"input_blocks.{i}.1.norm.weight" in w for i in firsts]
    text = w[f"input_blocks.{firsts[attends.index(True)]}.1.transformer_blocks.0.attn2.to_k.weight"]
    return dict(
        in_channels=w["input_blocks.0.0.weight"].shape[1],
        out_channels=w["out.2.weight"].shape[0],
        layers_per_block=layers,
        block_out_channels=widths,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        cross_attention_dim=text.shape[1],
        attention_head_dim=[width // min(HEAD, widths[0]) for width in widths],
        use_linear_projection=True,
    )


def vae_config(w):
    """Of the autoencoder."""
    levels = 1 + max(int(k.split(".")[2]) for k in w if k.startswith("encoder.down."))
    widths = [w[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    return dict(
        in_channels=w["encoder.conv_in.weight"].shape[1],
        out_channels=w["decoder.conv_out.weight"].shape[0],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=widths,
        layers_per_block=len({k.split(".")[4] for k in w if k.startswith("encoder.down.0.block.")}),
        latent_channels=w["decoder.conv_in.weight"].shape[1],
        norm_num_groups=32,
        scaling_factor=0.18215,
    )


def text_config(w):
    """Of the text encoder: all blocks but the last, because SD 2.1 reads the last but one."""
    vocabulary, width = w["token_embedding.weight"].shape
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=w["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=text_blocks(w) - 1,
        num_attention_heads=width // min(HEAD, width),
        hidden_act="gelu",
        max_position_embeddings=w["positional_embedding"].shape[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
    )


def text_blocks(w):
    """The number of blocks of an OpenCLIP text encoder."""
    return 1 + max(int(k.split(".")[2]) for k in w if k.startswith("transformer.resblocks."))


def cleaner_config(w):
    """Of the stage-1 cleaner, a SwinIR."""
    width, folded = w["conv_first.1.weight"].shape[:2]
    table, heads = w["layers.0.residual_group.blocks.0.attn.relative_position_bias_table"].shape
    blocks = [k.split(".") for k in w if k.startswith("layers.") and k.endswith("norm1.weight")]
    groups = sorted({int(names[1]) for names in blocks})
    return dict(
        width=width,
        depths=[sum(int(names[1]) == group for names in blocks) for group in groups],
        heads=heads,
        window=(math.isqrt(table) + 1) // 2,
        mlp_width=w["layers.0.residual_group.blocks.0.mlp.fc1.weight"].shape[0],
        fold=math.isqrt(folded // 3),
        features=w["conv_last.weight"].shape[1],
    )
