"""The sources of a conversion: which parts of a system each file or folder of published weights holds."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lib.errors import WeightsError
from lib.models import checkpoint_layouts, download, weight_files

NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "control", "cleaner")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
# Models that predict v have the same shapes as SD 2.1-base, so a single file shows it by its name only.
OTHER_PREDICTION = re.compile(r"diffbir_v2\.1|zsnr|768", re.IGNORECASE)
SCHEDULE = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass
class Source:
    """One opened source.

    Fields: name, for messages; root, the file or folder; parts, part -> its tensors in the published layout, or the
    folder where diffusers keeps the part; taken, the parts that the system takes from it.
    """

    name: str
    root: Path
    parts: dict
    taken: list = field(default_factory=list)

    def record(self):
        """Names, sizes and SHA-256 of the files that were used. Raises WeightsError for a damaged file of the hub."""
        files = [self.root]
        if self.root.is_dir():
            files = [file for part in self.taken for file in download.files_read(self.parts[part])]
        facts = [
            {
                "file": str(file.relative_to(self.root.parent)),
                "bytes": file.stat().st_size,
                "sha256": weight_files.check_digest(file),
            }
            for file in files
        ]
        return {"source": self.name, "parts": self.taken, "files": facts}


def open_source(name):
    """A Source of a path or hub id. Raises WeightsError."""
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(str(name), path, _parts_of_folder(path))
    if not path.exists() and HUB_ID.fullmatch(str(name)) and path.suffix not in FILE_SUFFIXES:
        folder = download.from_hub(str(name))
        return Source(f"{name} at {folder.name}", folder, _parts_of_folder(folder))
    _check_prediction(not OTHER_PREDICTION.search(path.name), path)
    parts = checkpoint_layouts.split_parts(weight_files.read(path), path.name)
    _check_hint_encoder(parts.pop("hint encoder", {}), parts.get("vae", {}), path)
    return Source(path.name, path, parts)


def _parts_of_folder(folder):
    missing = download.missing_files(folder)
    if not (folder / "unet").is_dir():
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return {"tokenizer": folder}
        raise WeightsError(f"neither a diffusers folder nor a tokenizer: {folder}. {download.how_to_fetch(missing)}")
    if missing:
        raise WeightsError(f"an incomplete diffusers folder: {folder}. {download.how_to_fetch(missing)}")
    schedule = folder / "scheduler" / "scheduler_config.json"
    try:
        found = json.loads(schedule.read_text())
    except ValueError as error:
        raise WeightsError(f"unreadable: {schedule} ({error}). Remedy: fetch it again.") from error
    _check_prediction(all(found.get(key, value) == value for key, value in SCHEDULE.items()), schedule)
    return {part: folder / part for part in ("unet", "vae", "text_encoder", "tokenizer")}


def _check_prediction(right, path):
    if not right:
        raise WeightsError(
            f"weights of another architecture: {path} is of a model that predicts v or has another noise schedule. "
            "Remedy: E of DiffBIR v1 and v2 belongs to SD 2.1-base (512 px), which predicts the noise; give that."
        )


def _check_hint_encoder(hint, vae, path):
    """DiffBIR v1 keeps a second copy of the autoencoder's encoder for the hint. The system uses one for both."""
    differs = [key for key, tensor in hint.items() if key not in vae or not torch.equal(tensor, vae[key])]
    if differs:
        raise WeightsError(
            f"weights of another architecture: {path} encodes its hint by an autoencoder of its own "
            f"(cond_encoder.{differs[0]} differs from first_stage_model). Remedy: give the original file."
        )


def choose(sources):
    """Part -> the first source that holds it; parts that no source holds are left out.

    Every Source is told in `taken` which parts come from it. Raises WeightsError for a source that adds nothing.
    """
    chosen = {part: source for source in reversed(sources) for part in source.parts}
    for part in NEEDED:
        if part in chosen:
            chosen[part].taken.append(part)
    missing = [part for part in NEEDED if part not in chosen]
    for source in sources:
        if not source.taken:
            others = ", ".join(f"{part} (from {chosen[part].name})" for part in source.parts)
            wanted = f" Still without a source: {', '.join(missing)}. {_where_to_get(missing)}" if missing else ""
            raise WeightsError(
                f"a source that adds nothing: {source.name} holds only what another source gives: {others}. Remedy: "
                f"leave it out, or name it before the others that hold its parts.{wanted}"
            )
    return chosen


def check_complete(chosen):
    """Raises WeightsError that says where missing parts are published."""
    missing = [part for part in NEEDED if part not in chosen]
    if missing:
        raise WeightsError(f"parts without a source: {', '.join(missing)}. {_where_to_get(missing)}")


def _where_to_get(missing):
    files = {"control": "v1_face.pth", "cleaner": "face_swinir_v1.ckpt"}
    published = {name: weight_files.PUBLISHED[name] for name in files.values()}
    hints = [f"{part}: {files[part]} ({' at '.join(published[files[part]])})" for part in missing if part in files]
    sentences = [f"Remedy: give also {'; '.join(hints)}."] if hints else []
    base = [name for name in download.FOLDER if name.split("/")[0] in missing]
    return " ".join(sentences + ([download.how_to_fetch(base)] if base else []))
