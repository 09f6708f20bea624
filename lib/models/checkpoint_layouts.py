"""The published checkpoint layouts and how they become the system's parts: widths are read off the shapes, every key is accounted for.

SD 2.1 single files and DiffBIR's are in the names of the latent-diffusion code (ldm), the text encoder in OpenCLIP's, stage 1 in SwinIR's.
diffusers renames G, E and the autoencoder; what it would pass over in silence is found by renaming shapes first.
"""

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModel

from lib.errors import WeightsError
from lib.models.swinir import SwinIR, relative_index, shift_mask
from lib.models.system import LatentControlNet

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.model.",
    "control": "control_model.",
    "cleaner": "preprocess_model.",
    "hint encoder": "cond_encoder.",
}
BARE = {
    "control": "zero_convs.0.0.weight",
    "cleaner": "conv_first.1.weight",
}  # a key by which files of one part are known
HEAD = 64  # width of an attention head in SD 2.1 and its text encoder; no shape shows it
OPENCLIP = {
    "transformer.resblocks.": "encoder.layers.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_final.": "final_layer_norm.",
    "token_embedding.": "embeddings.token_embedding.",
    "positional_embedding": "embeddings.position_embedding.weight",
}


def parts(state, file):
    """The parts that a file holds, as part -> {name without its prefix: tensor}.

    Args: state, as `lib.models.download.read` gives it; file, its name for messages. Raises WeightsError where no layout is recognised.
    """
    found = {part: {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for part, p in PREFIXES.items()}
    found = {part: state for part, key in BARE.items() if key in state} or {
        part: held for part, held in found.items() if held
    }
    if not found:
        raise WeightsError(
            f"weights of an unknown layout: {file} (its first key is {next(iter(state))!r}). Remedy: give an original file of "
            "SD 2.1-base (model.diffusion_model.*), of DiffBIR v1 or v2 (zero_convs.*), or its SwinIR (conv_first.1.*)."
        )
    return found


def converted(part, weights, file, G=None):
    """A part as the system has it, from the weights of a published layout.

    Args: part, "unet", "control", "vae", "text_encoder" or "cleaner"; weights, its names to tensors, as `parts` gives them; file, for
    messages; G, of which "control" is the encoder's copy. Returns a module that holds the tensors themselves, none of them copied.
    Raises WeightsError for another architecture: keys missing or unexpected, shapes expected and found.
    """
    try:
        with torch.device("meta"):
            module = BUILDERS[part](weights, G)
        held = KEPT[part](weights) if part in KEPT else weights
        origins = trace(part, held, module)
        _check(module, held, origins)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise WeightsError(
            f"weights of another architecture: {file} is not the {part} of SD 2.1 and DiffBIR ({_said(error)}). "
            f"Remedy: give the original file, or one of the same layout."
        ) from error
    state = {name: tensor.contiguous() for name, tensor in NAMES[part](held, module).items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module


def trace(part, weights, module):
    """Which original key each of our keys comes from and with what shape: ours -> (original, shape); no weight is touched."""
    probes = {key: torch.empty(tensor.shape, device="meta") for key, tensor in weights.items()}
    keys = {id(probe): key for key, probe in probes.items()}
    renamed = {ours: probe for ours, probe in NAMES[part](probes, module).items() if probe is not None}
    # diffusers renames and slices: a slice knows what it is a part of
    return {
        ours: (keys[id(probe if probe._base is None else probe._base)], tuple(probe.shape))
        for ours, probe in renamed.items()
    }


def _check(module, weights, origins):
    expected = {ours: tuple(tensor.shape) for ours, tensor in module.state_dict().items()}
    used = {key for ours, (key, _) in origins.items() if ours in expected}
    faults = [
        f"{key} -> {ours}: expected {expected[ours]}, found {shape}"
        for ours, (key, shape) in origins.items()
        if ours in expected and expected[ours] != shape
    ]
    for word, keys in (
        ("missing", sorted(expected.keys() - origins.keys())),
        ("unexpected", sorted(weights.keys() - used)),
    ):
        faults += [f"{len(keys)} {word}: {', '.join(keys[:3])}"] if keys else []
    if faults:
        raise ValueError(
            f"{len(faults)} faults, such as {'; '.join(faults[:1] + faults[-2:])}"
            if len(faults) > 3
            else "; ".join(faults)
        )


def _said(error):
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


# ---- configurations ----


def unet_config(w):
    """Of G, from the shapes of its ldm weights: levels, layers, widths, which levels attend to the text, and the text's width."""
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
    """Of the autoencoder, from the shapes of its ldm weights."""
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
    """Of the text encoder, from the shapes of its OpenCLIP weights: all blocks but the last, as SD 2.1 takes the last but one."""
    vocabulary, width = w["token_embedding.weight"].shape
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=w["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=_blocks(w) - 1,
        num_attention_heads=width // min(HEAD, width),
        hidden_act="gelu",
        max_position_embeddings=w["positional_embedding"].shape[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
    )


def text_encoder(config):
    """A text encoder without storage for its weights; its positions, which are no weights, are there."""
    with torch.device("meta"):
        module = CLIPTextModel(config)
    module.embeddings.position_ids = torch.arange(config.max_position_embeddings, device="cpu")[None]
    return module


def _blocks(w):
    return 1 + max(int(k.split(".")[2]) for k in w if k.startswith("transformer.resblocks."))


def cleaner_config(w):
    """Of stage 1, from the shapes of its SwinIR weights."""
    width, folded = w["conv_first.1.weight"].shape[:2]
    table, heads = w["layers.0.residual_group.blocks.0.attn.relative_position_bias_table"].shape
    block = [
        tuple(k.split(".")[i] for i in (1, 4)) for k in w if k.startswith("layers.") and k.endswith("norm1.weight")
    ]
    groups = sorted({int(i) for i, _ in block})
    return dict(
        width=width,
        depths=[sum(int(i) == group for i, _ in block) for group in groups],
        heads=heads,
        window=(math.isqrt(table) + 1) // 2,
        mlp_width=w["layers.0.residual_group.blocks.0.mlp.fc1.weight"].shape[0],
        fold=math.isqrt(folded // 3),
        features=w["conv_last.weight"].shape[1],
    )


# ---- names ----


def unet_names(w, module):
    """G: diffusers' names for ldm's."""
    return convert_ldm_unet_checkpoint({PREFIXES["unet"] + k: v for k, v in w.items()}, module.config)


def vae_names(w, module):
    """The autoencoder: diffusers' names for ldm's, its 1x1 convolutions of attention as matrices."""
    return convert_ldm_vae_checkpoint(w, module.config)


def control_names(w, module):
    """E: the first convolution, over [x_t, hint], becomes the one on x_t and the bias-free one on the hint."""
    state = convert_controlnet_checkpoint(w, module.config)
    latents, both = module.config.in_channels, state.pop("conv_in.weight")
    if both.shape[1] != 2 * latents:
        raise ValueError(
            f"input_blocks.0.0.weight: expected {(len(both), 2 * latents, 3, 3)}, found {tuple(both.shape)}"
        )
    return state | {"conv_in.weight": both[:, :latents], "controlnet_cond_embedding.weight": both[:, latents:]}


def text_names(w, _):
    """OpenCLIP's names in transformers' words, its joint projection in three."""
    state = {}
    for key, tensor in w.items():
        for theirs, ours in OPENCLIP.items():
            key = key.replace(theirs, ours)
        thirds = zip("qkv", tensor.chunk(3)) if ".attn.in_proj_" in key else [("", tensor)]
        state |= {key.replace(".attn.in_proj_", f".self_attn.{one}_proj."): third for one, third in thirds}
    return state


# ---- what a file holds besides ----


def text_kept(w):
    """Without the last block and what only a comparison with pictures needs."""
    last = f"transformer.resblocks.{_blocks(w) - 1}."
    return {
        k: v
        for k, v in w.items()
        if not k.startswith(last) and k not in ("text_projection", "logit_scale", "attn_mask")
    }


def cleaner_kept(w):
    """Without the metric that was trained beside it, and without the buffers, once they are what lib.models.swinir computes."""
    side = cleaner_config(w)["window"]
    for key, tensor in w.items():
        if key.endswith(".relative_position_index") and not torch.equal(tensor, relative_index(side)):
            raise ValueError(f"{key} is not the offsets in windows of {side}")
        if key.endswith(".attn_mask"):
            length = math.isqrt(len(tensor)) * side  # of the square maps it was made for
            if tensor.shape[1] != side**2 or not torch.equal(tensor, shift_mask(length, length, side)):
                raise ValueError(f"{key} is not the mask of windows of {side} shifted by half")
    return {
        k: v
        for k, v in w.items()
        if not k.endswith((".relative_position_index", ".attn_mask")) and not k.startswith("lpips_metric.")
    }


BUILDERS = {
    "unet": lambda w, _: UNet2DConditionModel(**unet_config(w)),
    "vae": lambda w, _: AutoencoderKL(**vae_config(w)),
    "text_encoder": lambda w, _: text_encoder(text_config(w)),
    "cleaner": lambda w, _: SwinIR(**cleaner_config(w)),
    "control": lambda _, G: LatentControlNet.from_unet(G, load_weights_from_unet=False),
}
NAMES = {
    "unet": unet_names,
    "control": control_names,
    "vae": vae_names,
    "text_encoder": text_names,
    "cleaner": lambda w, _: dict(w),
}
KEPT = {"text_encoder": text_kept, "cleaner": cleaner_kept}
