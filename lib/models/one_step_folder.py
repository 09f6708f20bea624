"""A one-step restorer on disk: adapters in diffusers' and OSDFace's layout, its networks, and a JSON card."""

import copy
import json
from pathlib import Path

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lib import checks
from lib.errors import WeightsError
from lib.models.identity_embedder import IdentityEmbedder, Shape
from lib.models.loss_networks import LossNetworks, VisualTokenizer, tiny_vq
from lib.models.one_step import OneStep
from lib.models.weight_files import read
from lib.paths import atomic_write, from_root

CARD, ADAPTERS = "onestep.json", "pytorch_lora_weights.safetensors"
ENCODER = "encoder_lora_weights.safetensors"  # only of a restorer with adapters in the encoder
NETWORKS = ("embedder", "tokenizer", "networks")
OPTIONS = ("T_L", "cleaned", "recogniser")  # fields of OneStep that the card holds
DOWN_UP = {".down.weight", ".up.weight"}  # the older names of a pair
REMEDY = "Remedy: restore the folder with `git checkout -- data`, or train one with notebook 06."


def save_one_step(folder, one):
    """Write a one-step restorer in half precision, whole or not at all; the base is named by its fingerprint.

    Raises WeightsError for a restorer whose adapters are merged.
    """
    if not getattr(one.G, "peft_config", {}):
        raise WeightsError(f"no adapters in G: {folder}. Remedy: save the restorer before its adapters are merged.")
    card = {name: getattr(one, name) for name in OPTIONS}
    card |= {"encoder": one.vae is not None, "base": one.B.fingerprint(), "shape": one.embedder.config()}
    with atomic_write(from_root(folder)) as aside:
        aside.mkdir()
        save_adapters(aside / ADAPTERS, one.G)
        if one.vae is not None:
            save_adapters(aside / ENCODER, one.vae, prefix="vae")
        for name in NETWORKS:
            save_file(_halves(getattr(one, name).state_dict()), aside / f"{name}.safetensors")
        (aside / CARD).write_text(json.dumps(card | {"provenance": one.provenance}, indent=1) + "\n")


def save_adapters(file, network, name="default", prefix="unet"):
    """Write one adapter of a network as diffusers does, in half precision: keys `unet.<layer>.lora_A.weight`."""
    state = get_peft_model_state_dict(network, adapter_name=name)
    save_file(_halves({f"{prefix}.{key}": value for key, value in state.items()}), file)


def _halves(state):
    return {key: value.detach().half().cpu().contiguous() for key, value in state.items()}


def load_one_step(folder, B):
    """The one-step restorer of a folder on the base B, frozen.

    Args: folder, seen from the repository; B, the System that it was trained on.
    Returns a OneStep. Raises WeightsError: a missing or damaged file, or another base.
    """
    folder = from_root(folder)
    card = _card(folder / CARD)
    if card["base"] != B.fingerprint():
        raise WeightsError(
            f"weights of another base: {folder} was trained on {card['base']}, this system is {B.fingerprint()}. "
            "Remedy: open the system that it was trained on, or train a restorer on this one (notebook 06)."
        )
    parts = IdentityEmbedder(card["shape"]), VisualTokenizer(tiny_vq()), LossNetworks()
    for name, module in zip(NETWORKS, parts):
        load_strictly(module, folder / f"{name}.safetensors")
        module.requires_grad_(False).eval()
    G = load_adapters(B.G, folder / ADAPTERS)
    vae = load_adapters(B.vae, folder / ENCODER, prefix="vae") if card["encoder"] else None
    options = {name: card[name] for name in (*OPTIONS, "provenance")}
    return OneStep(B, G, *parts, vae=vae, **options).to(B.device)


def _card(file):
    try:
        card = json.loads(file.read_text())
        shape = Shape(**card["shape"])
        checks.whole("T_L", card["T_L"])
        return {key: card[key] for key in (*OPTIONS, "encoder", "base", "provenance")} | {"shape": shape}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"no one-step restorer: {file} ({type(error).__name__}: {error}). {REMEDY}") from error


def load_strictly(module, file):
    """Load every weight of a module from a safetensors file; in place. Raises WeightsError."""
    if not Path(file).is_file():
        raise WeightsError(f"no weights: {file} is missing. {REMEDY}")
    try:
        state = {key: value.float() for key, value in load_file(file).items()}
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError("a weight is not finite")
        module.load_state_dict(state, strict=True)
    except Exception as error:  # safetensors and torch each raise their own
        raise WeightsError(f"unreadable weights: {file} ({str(error)[:160]}). {REMEDY}") from error


def load_adapters(G, file, name="default", prefix="unet"):
    """A copy of G with the adapters of a file, frozen: targets and ranks are read from the tensors.

    The layouts are those of diffusers: `unet.` in front or not, `lora_A`/`lora_B` or `lora.down`/`lora.up`, linear
    layers and convolutions; alpha is the rank, as OSDFace's (16 and 16).
    Args: G, a UNet or an autoencoder; file; name of the adapter; prefix of the keys.
    Raises WeightsError: missing, unreadable, or of another architecture.
    """
    state = {key.removeprefix(f"{prefix}."): value.float() for key, value in read(file).items()}
    G, layers = copy.deepcopy(G), dict(G.named_modules())
    if what := _wrong(state, layers):
        raise WeightsError(f"not adapters of this network: {file} ({what}). Remedy: use the base they were trained on.")
    try:
        G.load_lora_adapter(state, prefix=None, adapter_name=name)
    except Exception as error:  # diffusers, peft and torch each raise their own
        raise WeightsError(
            f"not adapters of this network: {file} ({str(error)[:160]}). Remedy: use the base they were trained on."
        ) from error
    return G.requires_grad_(False).eval()


def _wrong(state, layers):
    """What is wrong with the tensors of an adapter file for these layers, or ""."""
    pairs = {}
    for key, value in state.items():
        layer, _, half = key.partition(".lora")
        if layer not in layers:
            return f"{key} is no layer of it"
        if not value.isfinite().all():
            return f"{key} is not finite"
        pairs.setdefault(layer, set()).add(half)
    alone = [layer for layer, halves in pairs.items() if halves not in ({"_A.weight", "_B.weight"}, DOWN_UP)]
    return f"{alone[0]} has no pair of tensors" if alone else "" if pairs else "no adapter in it"


def merged(one):
    """The restorer with its adapters added to copies of its weights: the same restorations without their cost."""
    vae = None if one.vae is None else _merged(one.vae)
    return one.with_(G=_merged(one.G), vae=vae)


def _merged(network):
    network = copy.deepcopy(network)
    with torch.no_grad():
        network.fuse_lora()
    network.unload_lora()
    return network.requires_grad_(False).eval()
