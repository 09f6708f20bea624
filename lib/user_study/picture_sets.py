"""The pictures of a user study: found in run folders, held against one another, and made ready to be shown.

A folder holds restored/<input>-<arm>.png or restored/<arm>/<input>.png, inputs/<input>.png, references/*.png and
perhaps targets/<input>.png. A run of notebook 00 leaves such a folder. Those of one person are put together.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lib import paths
from lib.errors import RecordError, StudyFileError, WorkbookError
from lib.runs import record

SAME = 2.0  # levels of 255: below this mean difference, two files hold the same picture from two runs
MOSAIC = 10  # blocks a side of a spoiled picture
REMEDY = "Remedy: a run folder of notebook 00 has all of it; `make userstudy` makes those of the example."


@dataclass
class Item:
    """One degraded input of one person, and what was made of it; uint8 (H, W, 3), all of one size."""

    name: str  # "people:1009 2"
    input: np.ndarray
    references: list
    restored: dict = field(default_factory=dict)  # arm -> picture
    target: np.ndarray | None = None


def collect(study):
    """The items of a study, dict of name to Item, each with every arm that a part asks for.

    Raises StudyFileError where a folder, an arm or a reference is missing, where two runs of one person disagree, or
    where pictures that are compared differ in size.
    """
    arms = list(dict.fromkeys(arm for part in study.parts for arm in part.arms))
    items = {}
    for folder in _folders(study.pictures):
        _add_folder(items, folder, arms)
    _check_arms(items, arms)
    for part in study.parts:
        if part.trials > len(items):
            raise StudyFileError(
                f"Too few items: part {part.name} shows {part.trials} to each participant, there are {len(items)}. "
                "Remedy: fewer trials, or pictures of more people."
            )
        if few := [item.name for item in items.values() if len(item.references) < part.references]:
            raise StudyFileError(f"Too few references: {few[0]} for part {part.name}. {REMEDY}")
    return items


def _folders(patterns):
    found = []
    for pattern in patterns:
        base = paths.from_root(pattern)
        start = Path(base.anchor)
        some = [path for path in sorted(start.glob(str(base.relative_to(start)))) if (path / "restored").is_dir()]
        if not some:
            raise StudyFileError(f"No folder with restored pictures: {pattern!r:.200}. {REMEDY}")
        found += [path for path in some if path not in found]
    return found


def _add_folder(items, folder, arms):
    """The items of one folder, put together with those that are there."""
    person = _person_of(folder)
    references = [_read(file) for file in _files(folder, "references")]
    targets = {file.stem: file for file in (folder / "targets").glob("*.*")}
    for file in _files(folder, "inputs"):
        name = f"{person} {file.stem}"
        own = Item(name, _read(file), references)
        own.target = _read(targets[file.stem]) if file.stem in targets else None
        own.restored = {arm: _read(one) for arm in arms if (one := _restored(folder, file.stem, arm))}
        items[name] = _together(items[name], own, folder) if name in items else own
        _check_sizes(items[name], folder)


def _person_of(folder):
    """The person of a run folder by its record; of another folder, its name."""
    if not (folder / record.FILE).exists():
        return folder.name
    try:
        return Path(str(record.read(folder / record.FILE)["parameters"].get("PERSON") or folder.name)).name
    except RecordError as error:
        raise StudyFileError(f"{error} (among the pictures of the study)") from None


def _files(folder, part):
    from lib.people.picture_folders import list_pictures  # torch, two seconds that --help need not wait for

    try:
        return list_pictures(folder, part)
    except WorkbookError as error:
        raise StudyFileError(f"{paths.display_path(folder)} lacks {part}: {error} {REMEDY}") from None


def _read(file):
    from lib.people.picture_files import load_picture

    try:
        return load_picture(file)
    except WorkbookError as error:
        raise StudyFileError(f"Picture of the study: {error}") from None


def _restored(folder, stem, arm):
    """The file of an arm's restoration of an input, or None."""
    plain, restored = arm.replace(" ", "-"), folder / "restored"
    places = (restored / f"{stem}-{plain}.png", restored / plain / f"{stem}.png")
    return next((place for place in places if place.is_file()), None)


def _together(there, own, folder):
    """Two folders of one person: the inputs must be the same, and so an arm that both have."""
    for what, mine, theirs in [("input", own.input, there.input)] + [
        (f"arm {arm}", picture, there.restored[arm]) for arm, picture in own.restored.items() if arm in there.restored
    ]:
        if mine.shape != theirs.shape or np.abs(mine.astype(int) - theirs).mean() > SAME:
            raise StudyFileError(
                f"Two runs disagree: {what} of {own.name} in {paths.display_path(folder)} is another picture than in "
                "a folder before it. Remedy: name the one folder that you mean in `pictures`."
            )
    there.restored = own.restored | there.restored
    return there


def _check_sizes(item, folder):
    shown = {"input": item.input, **item.restored} | {f"reference {i}": x for i, x in enumerate(item.references, 1)}
    for what, picture in shown.items():
        if picture.shape != item.input.shape:
            raise StudyFileError(
                f"Not one size: {what} of {item.name} in {paths.display_path(folder)} is {picture.shape[1]}x"
                f"{picture.shape[0]}, its input {item.input.shape[1]}x{item.input.shape[0]}. Remedy: give pictures of "
                "one size, so that no arm is shown larger or rescaled."
            )


def _check_arms(items, arms):
    for item in items.values():
        if missing := [arm for arm in arms if arm not in item.restored]:
            raise StudyFileError(f"Arm not restored: {missing[0]} of {item.name}. {REMEDY}")


def spoiled(picture):
    """A picture that is plainly worse: a mosaic of MOSAIC blocks a side. For practice and attention trials."""
    image, size = Image.fromarray(picture), picture.shape[1::-1]
    small = image.resize((MOSAIC, round(MOSAIC * size[1] / size[0])), Image.Resampling.BOX)
    return np.asarray(small.resize(size, Image.Resampling.NEAREST))


def encoded(picture):
    """The PNG bytes of a picture's pixels alone: no mark, no date and no profile of its file goes along."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def fingerprint(study, items):
    """A hash, 16 hexadecimal digits, of the study and of every pixel: answers belong to one such whole."""
    digest = hashlib.sha256(repr(study).encode())
    for name in sorted(items):
        item = items[name]
        digest.update(json.dumps([name, sorted(item.restored)]).encode())
        for picture in [item.input, *item.references, *(item.restored[arm] for arm in sorted(item.restored))]:
            digest.update(np.ascontiguousarray(picture))
    return digest.hexdigest()[:16]
