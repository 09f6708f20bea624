"""All pictures of a study on one sheet: a small file that a recorded study keeps in place of its run folders."""

import numpy as np
from PIL import Image

from lib.errors import StudyFileError
from lib.paths import atomic_write, display_path
from lib.user_study.picture_sets import Item

REFERENCES = 2  # of each person, so many go along
QUALITY = 88  # of WebP


def save(items, arms, path):
    """The input, REFERENCES references and every arm of each item, a row each, as one WebP that is marked synthetic."""
    from lib.people.picture_files import XMP

    rows = [
        [item.input, *item.references[:REFERENCES], *(item.restored[arm] for arm in arms)] for item in items.values()
    ]
    picture = Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    with atomic_write(path) as part:
        picture.save(part, format="WEBP", quality=QUALITY, method=6, xmp=XMP.encode())


def load(path, names, arms):
    """The items of a sheet: dict of name to Item. Raises StudyFileError where the sheet is not of so many."""
    try:
        with Image.open(path, formats=["WEBP"]) as image:
            whole = np.array(image.convert("RGB"))
    except OSError as error:
        raise StudyFileError(f"No sheet of pictures: {display_path(path)}: {error}. Remedy: git restore it.") from None
    columns = 1 + REFERENCES + len(arms)
    if whole.shape[0] % len(names) or whole.shape[1] % columns:
        raise StudyFileError(f"Another sheet: {display_path(path)} is not {len(names)} rows of {columns} pictures.")
    tall, wide = whole.shape[0] // len(names), whole.shape[1] // columns
    cells = whole.reshape(len(names), tall, columns, wide, 3).swapaxes(1, 2)  # (rows, columns, tall, wide, 3)
    return {
        name: Item(name, row[0], list(row[1 : 1 + REFERENCES]), dict(zip(arms, row[1 + REFERENCES :])))
        for name, row in zip(names, cells)
    }
