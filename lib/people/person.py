"""One person's pictures: read from a folder of files, or drawn."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from lib import checks, paths
from lib.errors import MissingPicturesError, PersonCardError, PictureSizeError
from lib.images import to_tensor
from lib.people import alignment, insightface_packs, picture_folders, procedural
from lib.people.person_card import card_of_plain_folder, read_card
from lib.people.picture_files import load_picture, safe_name

FIRST_TARGET = 100  # number of the first shot of a procedural person that is not a reference


@dataclass(frozen=True, eq=False, repr=False)  # tensors do not compare or print in a line
class Person:
    """One person's pictures, aligned: references to learn from, inputs to restore, and their ground truth.

    All pictures are float32 in [-1, 1]. Nothing may be tuned on `targets`.
    """

    name: str
    class_noun: str  # what prompts call such people: "person", "man"
    source: str  # where the pictures come from
    terms: str  # on what terms they may be used
    real: bool  # whether the person exists
    references: torch.Tensor  # (R, 3, S, S)
    inputs: torch.Tensor | None = None  # (N, 3, S, S), degraded
    targets: torch.Tensor | None = None  # (N, 3, S, S), the ground truth, in the order of the inputs
    stems: list = field(default_factory=list)  # N names of the inputs and targets
    reference_captions: list | None = None  # R texts, where they are known
    captions: list | None = None  # N texts
    photographs: list | None = None  # N pairs: the file, and the (2, 3) matrix from its pixels to those of the crop
    scorer: str | None = None  # the recogniser that knows such faces; None for procedural people

    @property
    def scored(self):
        """Whether identity can be measured: always for drawn people, for real ones by a recogniser that is given."""
        return not self.real or self.scorer is not None

    def __repr__(self):
        counts = {part: getattr(self, part) for part in ("references", "inputs", "targets")}
        parts = [f"{len(pictures)} {part}" for part, pictures in counts.items() if pictures is not None]
        return f"Person({self.name!r}, {', '.join(parts)}, {self.references.shape[-1]} px)"


def procedural_person(name, size=128, references=10, inputs=4):
    """A drawn person by name, with the ground truth of test images that the caller degrades.

    Args: name, such as "people:1009"; size, pixels; references, how many shots 0, 1, ...; inputs, how many of the
    shots 100, 101, ..., which become `targets`.
    Returns a Person without inputs. Raises BadPersonError, MissingPicturesError (too few references), RangeError.
    """
    person = procedural.parse(name)
    picture_folders.check_reference_count(checks.whole("references", references), name)
    checks.whole("inputs", inputs, least=1)
    numbers = [*range(references), *range(FIRST_TARGET, FIRST_TARGET + inputs)]
    drawn = procedural.render([(person, person.shot(number)) for number in numbers], size)
    pictures, captions = to_tensor(drawn.pictures), drawn.captions
    return Person(
        name=person.name,
        class_noun="person",
        source="lib.people.procedural",
        terms="an invented person",
        real=False,
        references=pictures[:references],
        targets=pictures[references:],
        stems=[f"image{number}" for number in numbers[references:]],
        reference_captions=captions[:references],
        captions=captions[references:],
    )


def load_folder(
    folder,
    size=128,
    pack=None,
    choose="only",
    *,
    references=None,
    inputs=None,
    check_references=None,
    find_person=None,
    scorer=None,
    class_noun=None,
    source=None,
    terms=None,
    real=None,
    root=insightface_packs.INSIGHTFACE,
):
    """One person's photographs from a folder; every file is checked before the first is aligned.

    A person folder holds person.yaml, references/, and perhaps inputs/ and targets/ (the ground truth, with the
    stems of the inputs). In a plain folder the photographs lie directly; all of them are references.
    Args: folder (`paths.from_root`); size of the crops, pixels; pack, the insightface pack that aligns whole
    photographs, or None for square crops that are aligned already; root of named packs; choose, "only" or "largest"
    face of a photograph; references and inputs, at most so many in natural order, None for all; scorer, the
    recogniser that knows such faces, kept in the result; class_noun, source, terms and real, for a plain folder only;
    check_references, a function (references (R, 3, S, S), R file names) that raises if one shows somebody else;
    find_person, a function (photograph uint8 (H, W, 3), references (R, 3, S, S), file) -> (2, 3) matrix that finds the
    person among the faces of an input (lib.restoration.photographs.PersonFinder), or None to `choose` there, too.
    Returns a Person; a target is aligned as its input is. Raises the errors of `read_card`,
    `picture_folders.list_pictures`, `load_picture`, `alignment.align` and `find_person`; MissingPicturesError,
    PairingError, PictureSizeError, RangeError.
    """
    folder, size = paths.from_root(folder), checks.whole("size", size, least=32)
    limits = [count if count is None else checks.whole("pictures", count, least=1) for count in (references, inputs)]
    if not folder.is_dir():
        raise MissingPicturesError(
            f"No person folder: {folder}. Remedy: check the path, or name a procedural person, such as people:1009."
        )
    facts = {"class_noun": class_noun, "source": source, "terms": terms, "real": real}
    card, files = _card_and_files(folder, limits, facts)
    if pack is not None:
        insightface_packs.pack_folder(pack, root)
    picture_folders.check_files(files)
    reader = _Reader(size, pack, root, choose, find_person)
    crops = to_tensor([reader.align(file)[0] for file in files.references])  # (R, 3, size, size)
    if check_references is not None:
        check_references(crops, [file.name for file in files.references])
    return Person(**card, references=crops, scorer=scorer, **_inputs(files, reader, crops))


def with_inputs(person, files, pack=None, find_person=None, root=insightface_packs.INSIGHTFACE):
    """The same person with other pictures to restore, whose ground truth is not known.

    Args: person; files, Paths of pictures, each with another stem; the others as of `load_folder`, which reads a
    folder's own inputs the same way.
    Returns a Person. Raises UnsafePathError, PictureSizeError, and the errors of `load_picture`, `alignment.align` and
    `find_person`.
    """
    for file in files:
        safe_name(file.stem)
    listed = picture_folders.PersonFiles([], files)
    picture_folders.check_files(listed)
    reader = _Reader(person.references.shape[-1], pack, root, "only", find_person)
    return replace(person, captions=None, **_inputs(listed, reader, person.references))


def check_folder(folder, references=None, inputs=None):
    """Reads a person folder, its card and every picture, without aligning any. Raises as `load_folder`.

    Args: folder (`paths.from_root`); references and inputs, at most so many, None for all.
    Returns the card, a dict, and the PersonFiles.
    """
    folder = paths.from_root(folder)
    facts = dict.fromkeys(("class_noun", "source", "terms", "real"))
    card, files = _card_and_files(folder, (references, inputs), facts)
    picture_folders.check_files(files)
    return card, files


def _card_and_files(folder, limits, facts):
    """The facts about the person, and the PersonFiles, of a person folder or of a plain one."""
    if not (folder / "person.yaml").exists() and not (folder / "references").is_dir():
        files = picture_folders.list_plain_folder(folder, limits[0])
        card = card_of_plain_folder(folder, **{**facts, "real": facts["real"] is not False})
    else:
        given = [name for name, value in facts.items() if value is not None]
        if given:
            raise PersonCardError(
                f"Both arguments and a card: {', '.join(given)} for {folder}. Remedy: write them into its person.yaml."
            )
        card, files = read_card(folder), picture_folders.list_person_folder(folder, *limits)
    safe_name(card["name"])
    return card, files


def _inputs(files, reader, references):
    """The fields of a Person that a folder without inputs leaves at their defaults."""
    if not files.inputs:
        return {}
    crops, matrices = zip(*[reader.align_input(file, references) for file in files.inputs])
    pairs = zip(files.inputs, matrices) if files.targets else []
    targets = [reader.align_as(files.targets[file.stem], matrix) for file, matrix in pairs]
    return {
        "inputs": to_tensor(list(crops)),
        "targets": to_tensor(targets) if targets else None,
        "stems": [file.stem for file in files.inputs],
        "photographs": None if reader.pack is None else list(zip(files.inputs, matrices)),
    }


@dataclass(frozen=True)
class _Reader:
    """How the files of a folder become crops; the arguments are those of `load_folder`."""

    size: int
    pack: str | Path | None
    root: str | Path
    choose: str
    find_person: object

    def align(self, file):
        """The crop of a file, uint8 (size, size, 3), and the matrix that made it (None for an aligned crop)."""
        picture = load_picture(file)
        if self.pack is not None:
            return alignment.align(picture, self.pack, self.size, self.root, self.choose, where=file)
        if picture.shape[0] != picture.shape[1]:
            raise PictureSizeError(
                f"Not an aligned square crop: {file}, {picture.shape[1]}x{picture.shape[0]}. Remedy: give an "
                f"insightface pack (ALIGNER buffalo_l) so that it is found and aligned."
            )
        return alignment.resize(picture, self.size), None

    def align_input(self, file, references):
        """The same of an input, in whose photograph the person may have to be found by the references."""
        if self.pack is None or self.find_person is None:
            return self.align(file)
        picture = load_picture(file)
        matrix = np.asarray(self.find_person(picture, references, file))  # (2, 3)
        return alignment.warp(picture, matrix, self.size), matrix

    def align_as(self, file, matrix):
        """The crop of a file, aligned as its input was."""
        picture = load_picture(file)
        return alignment.resize(picture, self.size) if matrix is None else alignment.warp(picture, matrix, self.size)
