"""What a study keeps of each person in a file of its own, so that a rerun continues."""

import hashlib
import json
from pathlib import Path
from urllib.parse import quote

import numpy as np

from lib.images import to_tensor, to_uint8
from lib.paths import atomic_write, remove
from lib.runs.record import write_json

LONGEST = 120  # characters of a person's file; file systems allow 255 bytes


def file_of(folder, name):
    """The file of a person's result: the name, or its end and a hash where it is too long for a file."""
    plain = quote(name, safe="").replace("%3A", "-")
    if len(plain) > LONGEST:
        plain = f"{plain[-LONGEST:]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path(folder) / "people" / f"{plain}.json"


def read(file, key, pictures=False):
    """What the file keeps, or None where there is none, it is damaged, or its key is another.

    pictures: whether those of `write` must stand beside it.
    """
    if pictures and not file.with_suffix(".npz").is_file():
        return None
    try:
        found = json.loads(file.read_text())
        return found if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file, found, restored=None):
    """Keeps a result, a dict with its "key", and restorations (K, N, 3, S, S) by arm as 8-bit arrays, if given."""
    remove(file)  # an older result must not stand beside these pictures
    if restored is not None:
        with atomic_write(file.with_suffix(".npz")) as aside:
            arrays = {arm: to_uint8(pictures.flatten(0, 1)) for arm, pictures in restored.items()}  # (K * N, S, S, 3)
            counts = {arm: len(pictures) for arm, pictures in restored.items()}
            np.savez_compressed(aside, seeds=json.dumps(counts), **arrays)
    write_json(file, found)


def load_pictures(file):
    """arm -> restorations (K, N, 3, S, S) of a person, as they were kept."""
    with np.load(file.with_suffix(".npz")) as arrays:
        counts = json.loads(str(arrays["seeds"]))
        return {arm: to_tensor(arrays[arm]).unflatten(0, (count, -1)) for arm, count in counts.items()}
