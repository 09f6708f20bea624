"""The file of a user study: what is asked, of whom, about which pictures. Read and checked whole."""

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from lib.errors import ParameterError, StudyFileError
from lib.paths import display_path
from lib.runs import yaml_files

HEADER, VERSION = "user_study", 1  # the first line of such a file
KINDS = {"quality": "two restorations", "identity": "input, references and restorations"}  # Figs 14 and 16
LONGEST = {"title": 120, "question": 200, "guidelines": 2000, "consent": 10_000, "contact": 200}  # characters
MOST = {"participants": 10_000, "trials": 200, "practice": 5, "attention": 20, "repeats": 20, "references": 10}
PLAIN = re.compile(r"\w[\w +.-]{0,39}")  # names of parts and arms: an arm is part of a file's name
MOST_ARMS = 6  # more do not fit on one screen at equal size


@dataclass(frozen=True)
class Part:
    """One part of a study: a question, and the trials in which it is asked."""

    name: str
    kind: str  # of KINDS
    question: str
    guidelines: str
    arms: tuple
    trials: int  # items that each participant sees
    practice: int = 1  # obvious ones in front, never analysed
    attention: int = 1  # obvious ones in between, by which carelessness is noticed
    repeats: int = 0  # items shown once more, sides changed
    references: int = 0  # reference pictures shown (kind identity)


@dataclass(frozen=True)
class Exclusion:
    """The rule by which participants are left out, stated before anybody has answered."""

    failed: int = 0  # more failed attention checks than this
    seconds: float = 0.0  # a median response time below this


@dataclass(frozen=True)
class Study:
    """A whole study; `python -m lib.userstudy` serves it."""

    title: str
    consent: str
    contact: str  # whom a participant may ask
    pictures: tuple  # run folders, or patterns of them, seen from the repository
    participants: int  # how many are wanted
    parts: tuple
    exclusion: Exclusion
    seed: int = 0
    least_seconds: float = 0.3  # a choice before this is refused


def read(path):
    """The study in a YAML file.

    Everything is checked, and all faults are named at once. The pictures are looked for by `picture_sets.collect`.
    Raises StudyFileError.
    """
    try:
        found = yaml_files.mapping(Path(path))
    except ParameterError as error:
        raise StudyFileError(str(error)) from None
    if found.pop(HEADER, None) != VERSION:
        raise StudyFileError(
            f"Not a study file: {display_path(path)}. Remedy: begin it with `{HEADER}: {VERSION}`; "
            "params/user_study.yaml is an example."
        )
    study, faults = _study(found)
    if faults:
        raise StudyFileError(
            f"Study file with {len(faults)} faults: {display_path(path)}:\n  "
            + "\n  ".join(faults)
            + "\nRemedy: correct these lines; params/user_study.yaml is an example with every field."
        )
    return study


def _study(found):
    """The Study of a mapping, or None, and its faults in words."""
    faults = []
    parts, rule = found.pop("parts", None), found.pop("exclusion", {})
    if not isinstance(parts, dict) or not parts:
        faults.append("parts: missing; write `parts:` and below it a name and the fields of each part")
        parts = {}
    parts = {str(name): {"name": str(name), **_mapping(part)} for name, part in parts.items()}
    parts = [_filled(Part, part, f"part {name[:40]}", faults) for name, part in parts.items()]
    rule = _filled(Exclusion, _mapping(rule), "exclusion", faults)
    whole = _filled(Study, {**found, "parts": parts, "exclusion": rule}, "study", faults)
    for part in filter(None, parts):
        faults += _part_faults(part)
    return whole, faults


def _mapping(value):
    return value if isinstance(value, dict) else {"": value}


def _filled(kind, found, where, faults):
    """A dataclass from a mapping, every field typed and in range; None, and `faults` filled, where that fails."""
    before = len(faults)
    known = {field.name: field for field in fields(kind)}
    faults += [f"{where}: unknown field {str(name)[:60]!r}" for name in found if name not in known]
    needed = [name for name, field in known.items() if field.default is MISSING]
    faults += [f"{where}: {name} is missing" for name in needed if name not in found]
    good = {name: value for name, value in found.items() if name in known}
    values = {name: _value(name, known[name].type, value, where, faults) for name, value in good.items()}
    return kind(**values) if len(faults) == before else None


def _value(name, kind, value, where, faults):
    """One field's value, or None and a fault."""
    if name in ("parts", "exclusion"):
        return tuple(value) if name == "parts" else value
    fault = _tuple_fault(value) if kind is tuple else _scalar_fault(name, kind, value)
    if fault:
        faults.append(f"{where}: {name} {fault}, not {str(value)[:60]!r}")
        return None
    return tuple(value) if kind is tuple else value.strip() if kind is str else value


def _tuple_fault(value):
    texts = isinstance(value, list) and value and all(isinstance(one, str) and one.strip() for one in value)
    return None if texts and len(set(value)) == len(value) else "is a list of different texts"


def _scalar_fault(name, kind, value):
    if kind is str:
        longest = LONGEST.get(name, 60)
        fits = isinstance(value, str) and 0 < len(value.strip()) <= longest
        return None if fits else f"is a text of at most {longest} characters"
    if isinstance(value, bool) or not isinstance(value, (int,) if kind is int else (int, float)):
        return "is a whole number" if kind is int else "is a number"
    least, most = 1 if name in ("participants", "trials") else 0, MOST.get(name, 2**32 - 1 if kind is int else 60)
    return None if least <= value <= most else f"is a number from {least} to {most}"


def _part_faults(part):
    """What the fields of a part say against one another."""
    if part.kind not in KINDS:
        yield f"part {part.name}: kind is one of {', '.join(KINDS)}, not {part.kind!r}"
    most = 2 if part.kind == "quality" else MOST_ARMS
    if not 2 <= len(part.arms) <= most:
        yield f"part {part.name}: {part.kind} compares 2 to {most} arms, not {len(part.arms)}"
    for name in (part.name, *part.arms):
        if not PLAIN.fullmatch(name):
            yield f"part {part.name[:40]}: a name has letters, digits, spaces and + . - alone, not {name[:60]!r}"
    if part.kind == "identity" and not part.references:
        yield f"part {part.name}: identity shows references; write `references: 4`"
    if part.kind == "quality" and part.references:
        yield f"part {part.name}: quality shows no references; leave that field out"
    if part.repeats > part.trials:
        yield f"part {part.name}: more repeats ({part.repeats}) than trials ({part.trials})"


def part_of(study, kind):
    """The first part of a kind. Raises StudyFileError where there is none."""
    found = [part for part in study.parts if part.kind == kind]
    if not found:
        raise StudyFileError(f"No part of kind {kind} in this study. Remedy: add one, or call lib.user_study directly.")
    return found[0]
