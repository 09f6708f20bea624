"""The picture files of a folder, listed in natural order and paired by their stems; every name is checked first."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lib import paths
from lib.errors import MissingPicturesError, PairingError, PictureSizeError
from lib.people.picture_files import SUFFIXES, load_picture, safe_name, unreadable

FEWEST_REFERENCES = 3


@dataclass(frozen=True)
class PersonFiles:
    """The files of one person, each list in natural order; `targets` maps the stem of an input to its ground truth."""

    references: list
    inputs: list = field(default_factory=list)
    targets: dict = field(default_factory=dict)


def _natural(file):
    """A sorting key by which "i2" comes before "i10"."""
    return [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", file.name)]


def list_pictures(folder, part=""):
    """The picture files of a folder in natural order ("i2" before "i10"); hidden files are passed over.

    Args: folder; part, the subfolder "references", "inputs" or "targets" of a person folder, or "" for the folder
    itself, whose own subfolders are passed over.
    Returns a list of at least one Path. Raises MissingPicturesError, UnreadablePictureError (another suffix),
    UnsafePathError (a link that leads out, an unusable name), PairingError (the same stem twice).
    """
    files = [file for file in Path(folder, part).glob("*") if not file.name.startswith(".")]
    files = files if part else [file for file in files if not file.is_dir()]
    if not files:
        raise MissingPicturesError(
            f"No pictures: {Path(folder, part)} is missing or empty. Remedy: put photographs there."
        )
    found = {}
    for file in sorted(files, key=_natural):
        if not os.path.exists(file):  # a link to nothing or to itself, which cannot be followed
            raise unreadable(file, "Broken link")
        paths.child(folder, part, file.name)
        if file.suffix.lower() not in SUFFIXES:
            raise unreadable(file, "Not a picture file")
        stem = safe_name(file.stem).casefold()
        if stem in found:
            raise PairingError(
                f"The same stem twice: {found[stem]} and {file.name}. Remedy: rename one, or take it away."
            )
        found[stem] = file
    return list(found.values())


def list_plain_folder(folder, references=None):
    """The photographs that lie directly in a folder, as references only. Raises as `list_pictures`."""
    return _enough(PersonFiles(list_pictures(folder)[:references]), folder)


def list_person_folder(folder, references=None, inputs=None):
    """The files of a person folder with references/ and perhaps inputs/ and targets/.

    Args: folder; references and inputs, how many of each at most, in natural order, or None for all.
    Returns PersonFiles. Raises as `list_pictures`; PairingError where targets and inputs do not pair.
    """
    found = {
        part: list_pictures(folder, part)
        for part in ("references", "inputs", "targets")
        if part == "references" or Path(folder, part).exists()
    }
    degraded, targets = found.get("inputs", []), _paired(found.get("inputs", []), found.get("targets", []), folder)
    return _enough(PersonFiles(found["references"][:references], degraded[:inputs], targets), folder / "references")


def _enough(files, where):
    check_reference_count(len(files.references), where)
    return files


def check_reference_count(count, where):
    """Raises MissingPicturesError for fewer references than FEWEST_REFERENCES."""
    if count < FEWEST_REFERENCES:
        raise MissingPicturesError(
            f"Too few references: {count} in {where}, at least {FEWEST_REFERENCES} are needed (the paper "
            f"uses about 10). Remedy: add photographs of the person."
        )


def _paired(inputs, targets, folder):
    """The targets by stem, where every input has its target or none has."""
    unpaired = sorted({file.stem for file in targets} ^ {file.stem for file in inputs}) if targets else []
    if unpaired:
        raise PairingError(
            f"Targets and inputs do not pair: {unpaired} in {folder}. Remedy: give each input one "
            f"target of the same stem, or leave the targets folder out."
        )
    return {file.stem: file for file in targets}


def check_files(files):
    """Read every picture. Raises as `load_picture`; PictureSizeError if a target and its input differ in size."""
    for file in files.references:
        load_picture(file)
    for file in files.inputs:
        size = load_picture(file).shape
        target = files.targets.get(file.stem)
        other = load_picture(target).shape if target else size
        if other != size:
            raise PictureSizeError(
                f"Target of another size than its input: {target} {other[1::-1]}, {file} {size[1::-1]} (width, "
                "height). Remedy: give both the same size."
            )
