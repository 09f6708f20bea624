"""Folders of Stable Diffusion 2.1-base in diffusers' layout: the files that are needed, and how to fetch them."""

import threading
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from lib.errors import WeightsError
from lib.models.weight_files import BASE_ID, first_line

MIRRORS = (BASE_ID, "Manojb/stable-diffusion-2-1-base", "ModelScope: stabilityai/stable-diffusion-2-1-base")
FOLDER = {  # the files that are needed, with approximate sizes
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


def files_read(folder):
    """The files that are read of one part of a diffusers folder, such as `sd21/unet`.

    These are its small files and its weights: single precision where both precisions are there, else half.
    """
    small = [file for file in folder.iterdir() if file.suffix in (".json", ".txt")]
    names = [Path(name) for name in FOLDER if name.endswith(".safetensors")]
    weights = [folder / name.name for name in names if name.parent.name == folder.name]
    return sorted(small + [file if file.is_file() else file.with_suffix(".fp16.safetensors") for file in weights])


def missing_files(folder):
    """The names of FOLDER that a diffusers folder lacks. Weights in half precision and a one-file tokenizer count."""

    def present(path):
        alternatives = [path]
        if path.suffix == ".safetensors":
            alternatives.append(path.with_suffix(".fp16.safetensors"))
        if path.parent.name == "tokenizer":
            alternatives.append(path.with_name("tokenizer.json"))
        return any(file.is_file() for file in alternatives)

    return [name for name in FOLDER if not present(Path(folder, name))]


def from_hub(name, seconds=5):
    """The folder of a model on the hub, from the hub's cache on this machine or downloaded into it.

    Args: name, as `owner/model`; seconds, the time limit for the hub's first answer.
    Returns the folder in the cache. Raises WeightsError within 10 s where there is no network; it lists the missing
    files, their sizes and where to get them.
    """
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):  # ValueError: the name cannot be an id
        folder = Path("not in the cache")
    missing = missing_files(folder)
    if not missing:
        return folder
    if not _reachable(name, seconds):
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise WeightsError(
            f"no weights: {name} is no path here, not whole in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
            f"cannot be reached{offline}. {how_to_fetch(missing)}"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=[*FOLDER, "tokenizer/*"], etag_timeout=seconds))
    except Exception as error:  # the hub's client raises its own errors, its transport's and the disk's
        raise WeightsError(
            f"no weights: {name} could not be fetched ({first_line(error)}). {how_to_fetch(missing)}"
        ) from error


def _reachable(name, seconds):
    """Whether the hub answers a question about a model in time, be it by an error such as 'not found'."""
    answered = threading.Event()

    def ask():
        try:
            HfApi().model_info(name, timeout=seconds)
            answered.set()
        except HfHubHTTPError:
            answered.set()
        except Exception:  # no network: the client's, the transport's and the system's own errors
            pass

    # `timeout` does not bound the look-up of the host's name; leaving the thread behind does.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return answered.is_set()


def how_to_fetch(files):
    """A sentence on what to fetch, from where and where to put it. Args: files, names of FOLDER."""
    sizes = ", ".join(f"{name} ({FOLDER[name]})" for name in files)
    return (
        f"Missing: {sizes}. Remedy: fetch them from a mirror of SD 2.1-base ({'; '.join(MIRRORS)}; stabilityai's own "
        "is gone) into one folder, under these names, and give that folder. Or give v2-1_512-ema-pruned.safetensors "
        f"(5.2 GB) and the tokenizer folder. With a network, `hf download {BASE_ID} --local-dir weights/sd21` does it."
    )
