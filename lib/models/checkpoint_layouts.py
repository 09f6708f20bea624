"""The published checkpoint layouts, and their conversion into the system's parts. Every key of a file is accounted for.

The files of SD 2.1 and DiffBIR use the names of the latent-diffusion code (ldm), OpenCLIP's for the text encoder and
SwinIR's for stage 1. diffusers renames G, E and the autoencoder. It ignores keys that it does not know, so renaming is
first tried on tensors without storage, and keys and shapes are compared.
"""

import math

import torch
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)

from lib.errors import WeightsError
from lib.models.checkpoint_configs import build, cleaner_config, text_blocks
from lib.models.swinir import relative_index, shift_mask

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.model.",
    "control": "control_model.",
    "cleaner": "preprocess_model.",
    "hint encoder": "cond_encoder.",
}
BARE = {"control": "zero_convs.0.0.weight", "cleaner": "conv_first.1.weight"}  # a key that identifies files of one part
# What else a Stable Diffusion checkpoint holds: the noise schedule and the bookkeeping of averaged weights.
SCHEDULE = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "logvar", "lvlb_weights")
UNUSED = (*SCHEDULE, "scale_factor", "model_ema.", "cond_stage_model.")
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


def split_parts(state, file):
    """The parts that a file holds, as part -> {name without its prefix: tensor}.

    Args: state, as `lib.models.weight_files.read` returns it; file, its name for messages.
    Raises WeightsError for an unknown layout and for keys that belong to no part.
    """
    bare = {part: state for part, key in BARE.items() if key in state}
    if bare:
        return bare
    held = {part: {k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for part, p in PREFIXES.items()}
    held = {part: weights for part, weights in held.items() if weights}
    if not held:
        raise WeightsError(
            f"weights of an unknown layout: {file} (its first key is {next(iter(state))!r}). Remedy: give an original "
            "file of SD 2.1-base (model.diffusion_model.*), of DiffBIR v1 or v2 (zero_convs.*), or its SwinIR "
            "(conv_first.1.*)."
        )
    unknown = [key for key in state if not key.startswith((*PREFIXES.values(), *UNUSED))]
    if unknown:
        raise WeightsError(
            f"weights of an unknown layout: {file} holds {len(unknown)} tensor(s) that belong to no part of SD 2.1 and "
            f"DiffBIR, such as {unknown[0]!r}. Remedy: give the original file."
        )
    return held


def convert_part(part, weights, file, G=None):
    """A part of the system, from the weights of a published layout.

    Args: part, "unet", "control", "vae", "text_encoder" or "cleaner"; weights, name -> tensor, as `split_parts` returns
    them; file, its name for messages; G, of which "control" copies the encoder.
    Returns a module that holds the tensors themselves, without a copy.
    Raises WeightsError: another architecture (keys missing or unexpected, shapes expected and found), values that are
    not finite, or an E that was never trained.
    """
    try:
        with torch.device("meta"):
            module = build(part, weights, G)
        held = kept(part, weights)
        _check_keys(module, held, trace_keys(part, held, module))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"weights of another architecture: {file} is not the {part} of SD 2.1 and DiffBIR ({reason}). "
            "Remedy: give the original file, or one of the same layout."
        ) from error
    check_finite(held, file)
    if part == "control":
        _check_trained(held, file)
    state = {name: tensor.contiguous() for name, tensor in RENAME[part](held, module).items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module


def trace_keys(part, weights, module):
    """Where each of our keys comes from: our name -> (original name, shape). No weight is read."""
    probes = {key: torch.empty(tensor.shape, device="meta") for key, tensor in weights.items()}
    originals = {id(probe): key for key, probe in probes.items()}
    renamed = {ours: probe for ours, probe in RENAME[part](probes, module).items() if probe is not None}
    # diffusers renames and slices; a slice refers to the tensor that it is a part of
    return {
        ours: (originals[id(probe if probe._base is None else probe._base)], tuple(probe.shape))
        for ours, probe in renamed.items()
    }


def _check_keys(module, weights, origins):
    expected = {ours: tuple(tensor.shape) for ours, tensor in module.state_dict().items()}
    used = {key for ours, (key, _) in origins.items() if ours in expected}
    faults = [
        f"{key} -> {ours}: expected {expected[ours]}, found {shape}"
        for ours, (key, shape) in origins.items()
        if ours in expected and expected[ours] != shape
    ]
    missing = sorted(_original_name(ours, origins) for ours in expected.keys() - origins.keys())
    for word, keys in (("missing", missing), ("unexpected", sorted(weights.keys() - used))):
        faults += [f"{len(keys)} {word}: {', '.join(keys[:3])}"] if keys else []
    if len(faults) > 3:
        raise ValueError(f"{len(faults)} faults, such as {'; '.join(faults[:1] + faults[-2:])}")
    if faults:
        raise ValueError("; ".join(faults))


def _original_name(ours, origins):
    """The name in the file of a key that is missing there, as far as its weight or bias shows it; else our own name."""
    for leaf, other in (("weight", "bias"), ("bias", "weight")):
        sibling, _ = origins.get(f"{ours.removesuffix(leaf)}{other}", ("", ()))
        if ours.endswith(leaf) and sibling.endswith(other):
            return sibling.removesuffix(other) + leaf
    return f"{ours} (diffusers' name)"


def check_finite(weights, file):
    """Raises WeightsError where a weight is NaN or infinite. Tensors without storage are passed over."""
    for name, tensor in weights.items():
        if not tensor.is_meta and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"damaged weights: {name} of {file} holds NaN or infinite values. Remedy: fetch the file again."
            )


def _check_trained(weights, file):
    """E begins with outgoing convolutions of zeros; where all of them still are, it has no effect on G."""
    outgoing = [tensor for name, tensor in weights.items() if name.startswith(("zero_convs.", "middle_block_out."))]
    if not any(tensor.is_meta or tensor.any() for tensor in outgoing):
        raise WeightsError(
            f"untrained weights: every outgoing convolution of E in {file} is zero, so E would have no effect. "
            "Remedy: give the trained file, such as v1_face.pth."
        )


# ---- names ----


def _rename_unet(w, module):
    """G: diffusers' names for ldm's."""
    return convert_ldm_unet_checkpoint({PREFIXES["unet"] + k: v for k, v in w.items()}, module.config)


def _rename_vae(w, module):
    """The autoencoder: diffusers' names for ldm's; the 1x1 convolutions of its attention become matrices."""
    return convert_ldm_vae_checkpoint(w, module.config)


def _rename_control(w, module):
    """E: the first convolution, over [x_t, hint], becomes the one on x_t and the bias-free one on the hint."""
    first, latents = w["input_blocks.0.0.weight"], module.config.in_channels
    if first.shape[1] != 2 * latents:
        expected = (len(first), 2 * latents, 3, 3)
        raise ValueError(f"input_blocks.0.0.weight: expected {expected}, found {tuple(first.shape)}")
    state = convert_controlnet_checkpoint(w, module.config)
    both = state.pop("conv_in.weight")  # (width, 2 * latents, 3, 3)
    return state | {"conv_in.weight": both[:, :latents], "controlnet_cond_embedding.weight": both[:, latents:]}


def _rename_text(w, _):
    """The text encoder: transformers' names for OpenCLIP's; the joint projection becomes three."""
    state = {}
    for key, tensor in w.items():
        for theirs, ours in OPENCLIP.items():
            key = key.replace(theirs, ours)
        if ".attn.in_proj_" not in key:
            state[key] = tensor
            continue
        for name, third in zip("qkv", tensor.chunk(3)):
            state[key.replace(".attn.in_proj_", f".self_attn.{name}_proj.")] = third
    return state


RENAME = {
    "unet": _rename_unet,
    "control": _rename_control,
    "vae": _rename_vae,
    "text_encoder": _rename_text,
    "cleaner": lambda w, _: dict(w),
}


# ---- what a file holds besides ----


def kept(part, weights):
    """The weights of a part without what the system does not use. Raises ValueError for an unknown buffer of SwinIR."""
    if part == "text_encoder":
        return _kept_of_text(weights)
    return _kept_of_cleaner(weights) if part == "cleaner" else weights


def _kept_of_text(w):
    """Without the last block, and without what is only needed to compare texts with pictures."""
    last = f"transformer.resblocks.{text_blocks(w) - 1}."
    unused = ("text_projection", "logit_scale", "attn_mask")
    return {k: v for k, v in w.items() if not k.startswith(last) and k not in unused}


def _kept_of_cleaner(w):
    """Without the metric it was trained with and its buffers, which must be those that lib.models.swinir computes."""
    side = cleaner_config(w)["window"]
    for key, tensor in w.items():
        if key.endswith(".relative_position_index") and not torch.equal(tensor, relative_index(side)):
            raise ValueError(f"{key} is not the offsets in windows of {side}")
        if key.endswith(".attn_mask"):
            length = math.isqrt(len(tensor)) * side  # of the square maps that the mask was made for
            if tensor.shape[1] != side**2 or not torch.equal(tensor, shift_mask(length, length, side)):
                raise ValueError(f"{key} is not the mask of windows of {side} shifted by half")
    buffers = (".relative_position_index", ".attn_mask")
    return {k: v for k, v in w.items() if not k.endswith(buffers) and not k.startswith("lpips_metric.")}
