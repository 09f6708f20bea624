"""A pivot on disk: what tuning changed in G and E, and `pivots.json`, which says of whom and of which base."""

import copy
import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lib.errors import PersonalWeightsError
from lib.models.system import FIELD
from lib.paths import atomic_write

REQUIRED = ("token", "class_noun", "prompt", "gamma", "steps", "seed", "base", "references", "changed", "files")


def hash_of(pictures):
    """First 16 hex digits of the SHA-256 of pictures (N, 3, H, W): which references a pivot was tuned on."""
    return hashlib.sha256(pictures.cpu().float().numpy().tobytes()).hexdigest()[:16]


def save(folder, B_p, base, facts):
    """Writes the pivot of `B_p` against its `base`: adapters as peft writes them, in half precision, or the full weights that changed.

    folder: written aside, then renamed; facts: token, class_noun, prompt, gamma, steps, seed, references (`hash_of`).
    Raises PersonalWeightsError where a fact is missing, NoSpaceError where the disk is full.
    """
    changed = [field for field in FIELD.values() if getattr(B_p, field) is not getattr(base, field)]
    facts = {**facts, "base": base.fingerprint(), "changed": changed, "files": {}}
    _check_facts(facts, folder)
    with atomic_write(folder) as aside:
        aside.mkdir()
        for name, field in FIELD.items():
            network = getattr(B_p, field)
            if isinstance(network, PeftModel):
                network.save_pretrained(
                    aside / name, state_dict={k: v.half() for k, v in network.state_dict().items() if "lora_" in k}
                )
            elif field in changed:
                save_file(_changed(network, getattr(base, field)), aside / f"{name}.safetensors")
        facts["files"] = _digests(aside)
        (aside / "pivot.json").write_text(json.dumps(facts, indent=1) + "\n")


def load(folder, base):
    """The base system with the pivot of `folder` in it, frozen, and the facts of its `pivots.json`.

    Raises PersonalWeightsError where there is none, a fact or file is missing or damaged, or it was tuned on another base.
    """
    folder, facts = Path(folder), facts_of(folder, base)
    parts = {
        field: _read(folder, name, getattr(base, field)).to(base.device)
        for name, field in FIELD.items()
        if field in facts["changed"]
    }
    return base.with_(**parts).freeze(), facts


def facts_of(folder, base):
    """The facts of a pivot folder's `pivots.json`, its files and its base checked. Raises PersonalWeightsError as `load` does."""
    folder = Path(folder)
    if not (folder / "pivot.json").is_file():
        raise PersonalWeightsError(
            f"no pivot: {folder} has no pivot.json. Remedy: give a folder that lib.models.personal_weights.save wrote."
        )
    with _reading(folder / "pivot.json") as file:
        facts = json.loads(file.read_text())
    _check_facts(facts, folder)
    if facts["files"] != (found := _digests(folder)):
        differ = sorted(str(name) for name in {*facts["files"], *found} if facts["files"].get(name) != found.get(name))
        raise PersonalWeightsError(
            f"damaged pivot: {folder}: not as it was saved: {', '.join(differ)}. Remedy: save the pivot again."
        )
    if facts["base"] != base.fingerprint():
        raise PersonalWeightsError(
            f"pivot made for another base: {folder} wants {facts['base']}, this system is {base.fingerprint()}. "
            "Remedy: load the system it was tuned on, or tune the person again."
        )
    return facts


def _check_facts(facts, folder):
    facts = facts if isinstance(facts, dict) else {}
    missing = [key for key in REQUIRED if key not in facts]
    if missing:
        raise PersonalWeightsError(
            f"incomplete pivot: {folder} lacks {', '.join(missing)}. Remedy: save it again with these facts."
        )
    if facts["changed"] not in (["G"], ["E"], ["G", "E"]) or not isinstance(facts["files"], dict):
        raise PersonalWeightsError(
            f"not a pivot: {folder} changes {facts['changed']!r}. Remedy: save a system whose G or E was tuned."
        )


def _digests(folder):
    """File -> SHA-256 of what a pivot folder holds besides its `pivots.json` and hidden files."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "pivot.json" and not file.name.startswith(".")
    ]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _changed(network, original):
    before = original.state_dict()
    return {
        k: v.contiguous().cpu() for k, v in network.state_dict().items() if not torch.equal(v.cpu(), before[k].cpu())
    }


def _read(folder, name, original):
    network = copy.deepcopy(original)
    if (folder / name).is_dir():
        with _reading(folder / name):
            return PeftModel.from_pretrained(network, str(folder / name))
    with _reading(folder / f"{name}.safetensors") as file:
        if strangers := network.load_state_dict(load_file(file), strict=False).unexpected_keys:
            raise ValueError(f"unknown tensors: {strangers[:3]}")
    return network


@contextmanager
def _reading(file):
    try:
        yield file
    except Exception as error:  # peft, safetensors, torch and json each raise their own
        raise PersonalWeightsError(f"damaged pivot: {file} ({str(error)[:160]}). Remedy: save the pivot again.") from error
