"""A system folder on disk: diffusers' own layout, opened strictly."""

import json
from contextlib import contextmanager

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib import checks
from lib.errors import WeightsError
from lib.models.system import FIELD, OTHERS, PARTS, System
from lib.paths import from_root


def load_system(folder="data/system", device="cpu"):
    """The system of a folder, frozen, in float32 on `device`.

    Args: folder, seen from the repository; device, a torch device's name. Returns a System.
    Raises WeightsError where a part is missing, truncated, not finite or of another architecture, DeviceError.
    """
    folder, device = from_root(folder), checks.device(str(device))
    parts = {FIELD.get(name, name): _load_part(cls, folder / name) for name, cls in PARTS.items()}
    for cls, file in ((CLIPTokenizer, "tokenizer/tokenizer.json"), (DDPMScheduler, "scheduler/scheduler_config.json")):
        with _reading(folder / file):
            parts[file.split("/")[0]] = cls.from_pretrained(folder / file.split("/")[0])
    with _reading(folder / "provenance.json") as file:
        provenance = json.loads(file.read_text())
    return System(provenance=provenance, **parts).to(device).freeze()


@contextmanager
def _reading(file):
    if not file.is_file():
        raise WeightsError(
            f"no weights: {file} is missing. Remedy: restore the folder with `git checkout -- data`, "
            "or point SYSTEM at a folder written by notebook 10 or by python -m lib.convert."
        )
    try:
        yield file
    except WeightsError:
        raise
    except Exception as error:  # diffusers, transformers and tokenizers each raise their own, bare Exception included
        raise WeightsError(
            f"unreadable weights: {file} ({error}). Remedy: the file is truncated or damaged; fetch it again."
        ) from error


def _load_part(cls, folder):
    """One network of a system folder; built without storage, so that the weights are in memory once."""
    with _reading(folder / "config.json"), torch.device("meta"):
        module = _built(cls, folder)
    try:
        module.load_state_dict(_tensors(folder), strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights of another architecture: {folder} ({str(error).splitlines()[1].strip()[:160]}). "
            "Remedy: config.json and the safetensors file must come from the same system."
        ) from error
    return module


def _built(cls, folder):
    if cls is CLIPTextModel:
        module = cls(CLIPTextConfig.from_pretrained(folder))
        length = module.config.max_position_embeddings
        module.embeddings.position_ids = torch.arange(length, device="cpu")[None]  # no weight, so no file holds it
        return module
    config = cls.load_config(folder)
    return OTHERS.get(config.get("_class_name"), cls).from_config(config)


def _tensors(folder):
    """name -> float32 tensor of every safetensors file of a part. Raises WeightsError."""
    state = {}
    for file in sorted(folder.glob("*.safetensors")) or [folder / "*.safetensors"]:
        with _reading(file):
            found = load_file(file)
        if twice := sorted(state.keys() & found.keys()):
            raise WeightsError(
                f"the same weights twice: {twice[0]} in {folder}. Remedy: leave one safetensors file there."
            )
        if wrong := [name for name, tensor in found.items() if not tensor.isfinite().all()]:
            raise WeightsError(f"weights that are not finite: {wrong[0]} in {file}. Remedy: fetch the file again.")
        state |= {name: tensor.float() for name, tensor in found.items()}
    return state
