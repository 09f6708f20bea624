"""Photographs in: person folders checked whole, aligned and loaded; procedural people by name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from lib import checks, paths
from lib.errors import MissingPicturesError, PairingError, PersonCardError, PictureSizeError
from lib.images import to_tensor
from lib.people import alignment, insightface_packs, procedural
from lib.people.picture_files import SUFFIXES, load_picture, safe_name, unreadable
from lib.restoration import photographs

FEWEST_REFERENCES = 3
CARD = {"name": str, "class_noun": str, "source": str, "terms": str, "real": bool}


@dataclass(frozen=True)
class PersonFolder:
    """One person's pictures, aligned, in natural order of their file names."""

    name: str
    class_noun: str  # "person", "man"...: what prompts call them
    source: str
    terms: str
    real: bool
    references: torch.Tensor  # float32 (R, 3, S, S), [-1, 1]
    inputs: torch.Tensor | None  # float32 (N, 3, S, S), degraded; None for a procedural person
    targets: torch.Tensor | None  # float32 (N, 3, S, S), clean, in the order of inputs
    stems: list  # N names, of inputs and targets
    reference_captions: list | None = None  # R and N texts, where they are known
    captions: list | None = None
    photographs: list | None = (
        None  # N pairs where photographs were aligned: the file, and the (2, 3) array from it to the crop
    )


def read_card(folder):
    """The `person.yaml` of a person folder.

    Args: folder. Returns a dict of CARD's fields; source and terms are "" where an invented person gives none.
    Raises PersonCardError: missing, not YAML, a field missing, unknown or mistyped, a real person without source or terms.
    """
    file, remedy = Path(folder, "person.yaml"), f"Remedy: write the fields {', '.join(CARD)} (real: true or false)."
    if not file.is_file():
        raise PersonCardError(f"No person.yaml: {file}. {remedy}")
    try:
        card = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise PersonCardError(f"Not YAML: {file} ({error}). {remedy}") from error
    fault = _card_fault(card)
    if fault:
        raise PersonCardError(f"{fault}: {file}. {remedy}")
    return {"source": "", "terms": "", **card}


def _card_fault(card):
    if not isinstance(card, dict):
        return "Not a list of fields"
    if set(card) - set(CARD):
        return f"Unknown fields {sorted(map(str, set(card) - set(CARD)))}"
    for key, kind in CARD.items():
        if key not in card and (key not in ("source", "terms") or card["real"]):
            return f"Field {key!r} is missing"
    for key in card:
        if not isinstance(card[key], CARD[key]):
            return f"Field {key!r} is {type(card[key]).__name__}, not {CARD[key].__name__} (quote texts)"
    if card["real"] and not (card["source"].strip() and card["terms"].strip()):
        return "A real person needs a source and terms"
    if not re.fullmatch(r"[^\W_][\w '-]{0,39}", card["class_noun"]):
        return "Field 'class_noun' is not a plain noun of at most 40 letters"
    return None


def _natural(file):
    return [int(piece) if piece.isdecimal() else piece.casefold() for piece in re.split(r"(\d+)", file.name)]


def list_pictures(folder, part):
    """The picture files of one part of a person folder, in natural order ("i2" before "i10"); hidden files are passed over.

    Args: folder, a person folder; part, "references", "inputs" or "targets". Returns a list of at least one Path.
    Raises MissingPicturesError, UnreadablePictureError (no picture's suffix), UnsafePathError (a link that leads out,
    an unusable name), PairingError (the same stem twice).
    """
    found = {}
    files = [file for file in Path(folder, part).glob("*") if not file.name.startswith(".")]
    if not files:
        raise MissingPicturesError(
            f"No pictures: {Path(folder, part)} is missing or empty. Remedy: put photographs there."
        )
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


def _pair(inputs, targets):
    stems = [file.stem for file in inputs]
    lonely = sorted({file.stem for file in targets} ^ set(stems)) if targets else []
    if lonely:
        raise PairingError(
            f"Targets and inputs do not pair: {lonely} in {inputs[0].parents[1]}. Remedy: give each input one "
            f"target of the same stem, or leave the targets folder out."
        )
    return {file.stem: file for file in targets}


def _check_all(references, inputs, targets):
    shapes = {file: load_picture(file).shape for file in (*references, *inputs, *targets.values())}
    for file in inputs:
        target = targets.get(file.stem, file)
        if shapes[target] != shapes[file]:
            raise PictureSizeError(
                f"Target of another size than its input: {target} {shapes[target][1::-1]}, {file} "
                f"{shapes[file][1::-1]} (width, height). Remedy: give both the same size."
            )


def _crop(file, size, pack, root, choose):
    picture = load_picture(file)
    if pack is not None:
        return alignment.align(picture, pack, size, root, choose, where=file)
    if picture.shape[0] != picture.shape[1]:
        raise PictureSizeError(
            f"Not an aligned square crop: {file}, {picture.shape[1]}x{picture.shape[0]}. Remedy: give an "
            f"insightface pack (ALIGNER buffalo_l) so that it is found and aligned."
        )
    return alignment.resize(picture, size), None


def _input(file, references, size, pack, root, choose, scorer):
    """The crop of an input, and where it was cut; with `choose` "person", of the face that is the person by the references."""
    picture = load_picture(file)
    if choose != "person" or pack is None:
        return _crop(file, size, pack, root, choose)
    found = photographs.find(picture, to_tensor(references), pack, scorer, size, file, root)
    return alignment.warp(picture, found.matrices[found.person], size), found.matrices[found.person]


def load_person(folder, size=128, pack=None, choose="only", root=insightface_packs.INSIGHTFACE, scorer=None):
    """A person folder, checked whole before anything is aligned.

    Args: folder (`paths.from_root`) with references/*, inputs/*, targets/* (optional) and person.yaml; size of the crops; pack, None when
    the pictures are aligned square crops already, else the insightface pack (`insightface_packs.pack_folder`) that aligns whole
    photographs; choose, "only" or "largest" face, or in an input the "person", whom the recogniser `scorer` (the pack's own
    unless given) finds by the references; root of named packs. A target is aligned as its input is.
    Returns a PersonFolder. Raises the errors of `read_card`, `list_pictures`, `load_picture`, `alignment.align`, `photographs.find`;
    MissingPicturesError (folder, too few references), PairingError, PictureSizeError.
    """
    folder, size = paths.from_root(folder), checks.whole("size", size, least=32)
    if not folder.is_dir():
        raise MissingPicturesError(
            f"No person folder: {folder}. Remedy: check the path, or name a procedural person, such as people:1009."
        )
    card = read_card(folder)
    safe_name(card["name"])
    references, inputs = list_pictures(folder, "references"), list_pictures(folder, "inputs")
    _enough(len(references), folder / "references")
    targets = _pair(inputs, list_pictures(folder, "targets") if (folder / "targets").exists() else [])
    if pack is not None:
        insightface_packs.pack_folder(pack, root)
    _check_all(references, inputs, targets)
    faces = [_crop(file, size, pack, root, "only" if choose == "person" else choose)[0] for file in references]
    crops, matrices = zip(*[_input(file, faces, size, pack, root, choose, scorer) for file in inputs])
    clean = [_target(targets[file.stem], matrix, size) for file, matrix in zip(inputs, matrices)] if targets else None
    return PersonFolder(
        **card,
        references=to_tensor(faces),
        inputs=to_tensor(list(crops)),
        stems=[file.stem for file in inputs],
        targets=to_tensor(clean) if clean else None,
        photographs=None if pack is None else list(zip(inputs, matrices)),
    )


def _enough(count, where):
    if count < FEWEST_REFERENCES:
        raise MissingPicturesError(
            f"Too few references: {count} in {where}, at least {FEWEST_REFERENCES} are needed (the paper "
            f"uses about 10). Remedy: add photographs of the person."
        )


def _target(file, matrix, size):
    picture = load_picture(file)
    return alignment.resize(picture, size) if matrix is None else alignment.warp(picture, matrix, size)


def open_person(name, size=128, pack=None, references=10, inputs=4, **how):
    """A person by name: "people:1009" drawn by lib.people.procedural, anything else a folder for `load_person`.

    Args: name; size of the crops; pack as in `load_person`, with its further arguments; references and inputs, how many
    shots of a procedural person: 0, 1, ... as references, 100, 101, ... as targets, which the caller degrades.
    Returns a PersonFolder; that of a procedural person has captions and no inputs.
    Raises the errors of `load_person`, people.BadPersonError, MissingPicturesError for too few references.
    """
    if not str(name).startswith("people:"):
        return load_person(name, size, pack, **how)
    person = procedural.parse(name)
    _enough(references, name)
    shots = [*range(references), *range(100, 100 + inputs)]
    drawn = procedural.render([(person, person.shot(k)) for k in shots], size)
    pictures, captions = to_tensor(drawn.pictures), drawn.captions
    return PersonFolder(
        name=person.name,
        class_noun="person",
        source="lib.people.procedural",
        terms="an invented person",
        real=False,
        references=pictures[:references],
        reference_captions=captions[:references],
        inputs=None,
        targets=pictures[references:],
        captions=captions[references:],
        stems=[f"shot{k}" for k in shots[references:]],
    )
