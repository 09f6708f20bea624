"""Convert published weights to a system folder, once: `python -m lib.convert SOURCE... --to FOLDER`.

Sources, in any order:
- Stable Diffusion 2.1-base as a diffusers folder or a hub id, or its original single file and a tokenizer folder;
- DiffBIR's E (v1_face.pth, v1_general.pth, v2.pth) and stage 1 (face_swinir_v1.ckpt, codeformer_swinir.ckpt);
- face_full_v1.ckpt, which holds both and the base.
If two sources hold the same part, it is taken from the first. Everything is checked before anything is written.
Afterwards `lib.load_system(FOLDER)` is enough.
"""

import argparse
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch
import transformers
from transformers import CLIPTokenizer

from lib import checks, paths
from lib.errors import RangeError, WeightsError, exit_status
from lib.models import checkpoint_layouts, download
from lib.models.checkpoint_configs import build_text_encoder
from lib.models.published_sources import check_complete, choose, open_source
from lib.models.system import FIELD, PARTS, System, ddpm


def convert(sources, folder, size=512, force=False):
    """Write a system folder from published weights, whole or not at all.

    Args:
        sources: paths or hub ids, as listed above.
        folder: new or empty; with `force`, also a system folder to replace.
        size: side of a picture in pixels, a multiple of 64 (E was trained at 512).
    Returns the System as it was written. Raises WeightsError: a file that is missing, truncated, damaged, unsafe or of
    another architecture, a part that no source holds, a target in use; RangeError for another size; NoSpaceError.
    """
    checks.whole("size", size, least=64)
    if size % 64:
        raise RangeError(f"size out of range: {size}. Remedy: give a multiple of 64.")
    opened = [open_source(source) for source in sources]
    _check_target(Path(folder), opened, force)
    system = _assemble(choose(opened), size)
    system.provenance = {
        "made": "by python -m lib.convert from published weights",
        "size": size,
        "sources": [source.record() for source in opened],
    }
    system.save(folder, torch.float32)  # single precision whatever the source had, so that nothing is rounded
    return system


def _check_target(folder, sources, force):
    above = [path for path in folder.absolute().parents if path.exists() and not path.is_dir()]
    if above:
        raise WeightsError(f"the target lies below a file: {above[0]} is no folder. Remedy: name another folder.")
    used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if used and not (force and all((folder / part).is_dir() for part in PARTS)):
        raise WeightsError(
            f"the target is in use: {folder}. Remedy: name a new folder; --force replaces one that is a system."
        )
    inside = [source.name for source in sources if source.root.resolve().is_relative_to(folder.resolve())]
    if inside:
        raise WeightsError(f"the target holds a source: {inside[0]} lies in {folder}. Remedy: name another folder.")


def _assemble(chosen, size):
    """The System of the chosen sources. Raises WeightsError; damaged parts are named before missing ones."""
    parts = {}
    for part in [part for part in PARTS if part in chosen]:  # G comes first, because E copies its encoder
        held = chosen[part].parts[part]
        if isinstance(held, Path):
            parts[part] = _load_folder(part, held)
        elif part != "control" or "unet" in parts:
            parts[part] = checkpoint_layouts.convert_part(part, held, chosen[part].name, parts.get("unet"))
    check_complete(chosen)
    length = parts["text_encoder"].config.max_position_embeddings
    return fit_together(parts, _load_tokenizer(chosen["tokenizer"].parts["tokenizer"], length), size)


def fit_together(parts, tokenizer, size):
    """A System of converted parts.

    Args: parts, by the names of a system folder; tokenizer; size, side of a picture in pixels.
    Raises WeightsError where parts of different models were given.
    """
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
    fields = {FIELD.get(part, part): module for part, module in parts.items()}
    return System(tokenizer=tokenizer, scheduler=ddpm(), **fields)


def _load_folder(part, folder):
    """A part of a diffusers folder, with every key and shape checked. Raises WeightsError."""
    half = any(".fp16." in file.name for file in download.files_read(folder))
    options = {"variant": "fp16" if half else None, "use_safetensors": True, "local_files_only": True}
    if part == "text_encoder":
        options["ignore_mismatched_sizes"] = True  # transformers reports the shapes only then
    try:
        module, info = PARTS[part].from_pretrained(folder, output_loading_info=True, **options)
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
            f"weights of another architecture: {folder} ({'; '.join(faults)}). "
            "Remedy: fetch it from a mirror of SD 2.1-base."
        )
    checkpoint_layouts.check_finite(module.state_dict(), folder)
    return _with_our_names(module) if part == "text_encoder" else module


def _with_our_names(module):
    """The same text encoder, to be saved under today's names. transformers would save the names it was loaded with."""
    plain = build_text_encoder(module.config)
    plain.load_state_dict(module.state_dict(), strict=True, assign=True)
    return plain


def _load_tokenizer(folder, length):
    """The tokenizer of SD 2.1's text encoder, padded with token 0 as OpenCLIP does, whatever its file says.

    Token 0 is "!". transformers keeps a padding token apart from words, so "wow!" becomes "wow" and padding here; in
    OpenCLIP it ends with another token. The hub's own tokenizer files behave alike. Prompts should avoid "!".
    """
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare exceptions
        raise WeightsError(f"unreadable tokenizer: {folder} ({error}). Remedy: fetch it again.") from error
    tokenizer.model_max_length, tokenizer.pad_token = length, tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _report(system, folder):
    modules = system.modules()
    for source in system.provenance["sources"]:
        for part in source["parts"]:
            count, unit = len(system.tokenizer), "words     "
            if part in modules:
                count, unit = sum(p.numel() for p in modules[part].parameters()), "parameters"
            print(f"{part:<13} {count:>11,} {unit}  from {source['source']}")
    print(f"system        {paths.display_path(Path(folder).resolve())}: pictures of {system.size} px")


@contextmanager
def _terminated_cleanly():
    """Turns SIGTERM into SystemExit, so that a half-written folder is removed."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


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
    with _terminated_cleanly():
        return exit_status(lambda: _report(convert(given.sources, given.to, given.size, given.force), given.to))


if __name__ == "__main__":
    sys.exit(main())
