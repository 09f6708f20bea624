"""Published weights to a system folder, once: `python -m lib.convert SOURCE... --to FOLDER`; afterwards `lib.models.system.load(FOLDER)` is all.

SOURCEs, in any order: Stable Diffusion 2.1-base as a diffusers folder, a hub id, or the original single file together with a tokenizer
folder; DiffBIR's E (v1_face.pth, v1_general.pth, v2.pth) and stage 1 (face_swinir_v1.ckpt, codeformer_swinir.ckpt), or both with their
base in face_full_v1.ckpt. Of two that hold the same part the first gives it. Nothing is written before everything has been checked.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
import transformers
from transformers import CLIPTokenizer

from lib import checks, paths
from lib.errors import RangeError, WeightsError, exit_status
from lib.models import checkpoint_layouts, download
from lib.models.system import FIELD, PARTS, System, ddpm

NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "control", "cleaner")
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
OTHER_PREDICTION = re.compile(r"diffbir_v2\.1|zsnr|768", re.IGNORECASE)  # the same shapes, so that only names tell
SCHEDULE = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass
class Source:
    """One SOURCE, opened: what it holds, as part -> tensors of the published layout, or the folder where diffusers keeps the part."""

    name: str
    root: Path  # the file, or the folder
    parts: dict
    taken: list = field(default_factory=list)  # the parts that come from it

    def record(self):
        """Names, sizes and SHA-256 of the files that were used."""
        files = (
            [self.root]
            if self.root.is_file()
            else [file for part in self.taken for file in download.used(self.parts[part])]
        )
        facts = [
            {"file": str(f.relative_to(self.root.parent)), "bytes": f.stat().st_size, "sha256": download.sha256(f)}
            for f in files
        ]
        return {"source": self.name, "parts": self.taken, "files": facts}


def convert(sources, folder, size=512, force=False):
    """Writes a system folder from published weights, whole or not at all.

    Args: sources, paths or hub ids as above; folder, new or empty, or with `force` a system folder to replace; size, the side of a
    picture in pixels, a multiple of 64 (what E was trained at: 512). Returns the System, as it was written.
    Raises WeightsError: a file missing, truncated, unsafe or of another architecture, a part that no source holds, a target in use;
    RangeError for another size; NoSpaceError.
    """
    checks.whole("size", size, least=64)
    if size % 64:
        raise RangeError(f"size out of range: {size}. Remedy: give a multiple of 64.")
    opened = [open_source(source) for source in sources]
    _check_target(Path(folder), opened, force)
    chosen = _choose(opened)
    system = _assemble(chosen, size)
    system.provenance = {
        "made": "by python -m lib.convert from published weights",
        "size": size,
        "sources": [source.record() for source in opened],
    }
    system.save(folder, torch.float32)  # single precision, whatever it came in: nothing is rounded
    return system


def open_source(name):
    """A Source of a path or hub id. Raises WeightsError."""
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(str(name), path, _folder_parts(path))
    if (
        not path.exists()
        and HUB_ID.fullmatch(str(name))
        and path.suffix not in (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
    ):
        folder = download.from_hub(str(name))
        return Source(f"{name} at {folder.name}", folder, _folder_parts(folder))
    _check_prediction(not OTHER_PREDICTION.search(path.name), path)
    found = checkpoint_layouts.parts(download.read(path), path.name)
    _check_hint_encoder(found.pop("hint encoder", {}), found.get("vae", {}), path)
    return Source(path.name, path, found)


def _folder_parts(folder):
    if not (folder / "unet").is_dir():
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise WeightsError(
                f"neither a diffusers folder nor a tokenizer: {folder}. {download.wanted(download.absent(folder))}"
            )
        return {"tokenizer": folder}
    if missing := download.absent(folder):
        raise WeightsError(f"an incomplete diffusers folder: {folder}. {download.wanted(missing)}")
    schedule = folder / "scheduler" / "scheduler_config.json"
    try:
        given = json.loads(schedule.read_text())
    except ValueError as error:
        raise WeightsError(f"unreadable: {schedule} ({error}). Remedy: fetch it again.") from error
    _check_prediction(all(given.get(key, value) == value for key, value in SCHEDULE.items()), schedule)
    return {part: folder / part for part in ("unet", "vae", "text_encoder", "tokenizer")}


def _check_prediction(right, path):
    if not right:
        raise WeightsError(
            f"weights of another architecture: {path} is of a model that predicts v or has another noise schedule. "
            "Remedy: E of DiffBIR v1 and v2 belongs to SD 2.1-base (512 px), which predicts the noise; give that."
        )


def _check_hint_encoder(hint, vae, path):
    """DiffBIR v1 keeps a frozen copy of the autoencoder's encoder for the hint; here one serves both."""
    if differs := [key for key, tensor in hint.items() if key not in vae or not torch.equal(tensor, vae[key])]:
        raise WeightsError(
            f"weights of another architecture: {path} encodes its hint by an autoencoder of its own (cond_encoder.{differs[0]} "
            "differs from first_stage_model). Remedy: give the original file."
        )


def _check_target(folder, sources, force):
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if used and not (force and all((folder / part).is_dir() for part in PARTS)):
        raise WeightsError(
            f"the target is in use: {folder}. Remedy: name a new folder; --force replaces one that is a system."
        )
    if inside := [source.name for source in sources if source.root.resolve().is_relative_to(folder.resolve())]:
        raise WeightsError(f"the target holds a source: {inside[0]} lies in {folder}. Remedy: name another folder.")


def _choose(sources):
    """Part -> the first source that holds it, as far as there is one. Raises WeightsError for a source that adds nothing."""
    chosen = {part: source for source in reversed(sources) for part in source.parts}
    for part in NEEDED:
        if part in chosen:
            chosen[part].taken.append(part)
    if idle := [source.name for source in sources if not source.taken]:
        raise WeightsError(
            f"a source that adds nothing: {idle[0]}. Remedy: leave it out, or name it before the others that hold its parts."
        )
    return chosen


def _where(missing):
    """Where the missing parts may be had."""
    files = {"control": "v1_face.pth", "cleaner": "face_swinir_v1.ckpt"}
    hints = [
        f"{part}: {files[part]} ({' at '.join(download.PUBLISHED[files[part]])})" for part in missing if part in files
    ]
    base = [name for name in download.FOLDER if name.split("/")[0] in missing]
    return " ".join(
        ([f"Remedy: give also {'; '.join(hints)}."] if hints else []) + ([download.wanted(base)] if base else [])
    )


def _assemble(chosen, size):
    """The System of the chosen sources. Raises WeightsError: what is there is checked before anything is said to be missing."""
    parts = {}
    for part in [part for part in PARTS if part in chosen]:  # G first: E is the copy of its encoder
        held = chosen[part].parts[part]
        if isinstance(held, Path):
            parts[part] = _pretrained(part, held)
        elif part != "control" or "unet" in parts:
            parts[part] = checkpoint_layouts.converted(part, held, chosen[part].name, parts.get("unet"))
    if missing := [part for part in NEEDED if part not in chosen]:
        raise WeightsError(f"parts without a source: {', '.join(missing)}. {_where(missing)}")
    tokenizer = _tokenizer(chosen["tokenizer"].parts["tokenizer"], parts["text_encoder"].config.max_position_embeddings)
    return fitted(parts, tokenizer, size)


def fitted(parts, tokenizer, size):
    """The System of checked parts (a dict by the names of a system folder), for pictures of `size`. Raises WeightsError where they do not fit."""
    G, vae, text = (parts[part].config for part in ("unet", "vae", "text_encoder"))
    for what, one, other in (
        ("latent channels of unet and vae", G.in_channels, vae.latent_channels),
        ("text width of unet and text_encoder", G.cross_attention_dim, text.hidden_size),
        ("words of tokenizer and text_encoder", len(tokenizer), text.vocab_size),
    ):
        if one != other:
            raise WeightsError(
                f"parts that do not belong together: {what} are {one} and {other}. Remedy: give all of SD 2.1-base."
            )
    # published folders give the sizes of other models, 96 and 768
    parts["unet"].register_to_config(sample_size=size >> len(vae.block_out_channels) - 1)
    parts["vae"].register_to_config(sample_size=size)
    return System(
        tokenizer=tokenizer, scheduler=ddpm(), **{FIELD.get(part, part): module for part, module in parts.items()}
    )


def _pretrained(part, folder):
    """A part of a diffusers folder, strictly. Raises WeightsError."""
    half = any(".fp16." in file.name for file in download.used(folder))
    lenient = (
        {"ignore_mismatched_sizes": True} if part == "text_encoder" else {}
    )  # transformers names the shapes only then
    try:
        module, info = PARTS[part].from_pretrained(
            folder,
            variant="fp16" if half else None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **lenient,
        )
    except Exception as error:  # diffusers, transformers and safetensors each raise their own
        raise WeightsError(
            f"unusable weights: {folder} ({str(error).split(' If you want')[0][:300]}). "
            "Remedy: fetch the folder again, from a mirror of SD 2.1-base."
        ) from error
    faults = [
        f"{word.removesuffix('_keys')} {', '.join(map(str, sorted(info[word])[:3]))}" for word in info if info[word]
    ]
    if faults:
        raise WeightsError(
            f"weights of another architecture: {folder} ({'; '.join(faults)}). Remedy: fetch it from a mirror of SD 2.1-base."
        )
    return _renamed(module) if part == "text_encoder" else module


def _renamed(module):
    """A text encoder that forgets under which names it was loaded: transformers would save it under those, which lib.models.system does not know."""
    plain = checkpoint_layouts.text_encoder(module.config)
    plain.load_state_dict(module.state_dict(), strict=True, assign=True)
    return plain


def _tokenizer(folder, length):
    """The tokenizer as SD 2.1's text encoder knows it: filled up with token 0, as OpenCLIP does, whatever its file says."""
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare ones
        raise WeightsError(f"unreadable tokenizer: {folder} ({error}). Remedy: fetch it again.") from error
    tokenizer.model_max_length, tokenizer.pad_token = length, tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _report(system, folder):
    for source in system.provenance["sources"]:
        for part in source["parts"]:
            count = (
                sum(p.numel() for p in system.modules()[part].parameters()) if part in PARTS else len(system.tokenizer)
            )
            print(f"{part:<13} {count:>11,} {'parameters' if part in PARTS else 'words     '}  from {source['source']}")
    print(f"system        {paths.display_path(Path(folder).resolve())}: pictures of {system.size} px")


def main(words=None):
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m lib.convert", description="Published weights to a system folder.")
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="diffusers folder, hub id, tokenizer folder or weights file"
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the system folder to write")
    parser.add_argument("--size", type=int, default=512, help="side of a picture in pixels")
    parser.add_argument("--force", action="store_true", help="replace a system folder that is there")
    given = parser.parse_args(words)
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()  # they warn of modules kept in single precision, naming none
    return exit_status(lambda: _report(convert(given.sources, given.to, given.size, given.force), given.to))


if __name__ == "__main__":
    sys.exit(main())
