"""The folder of a run: one for each notebook, person and set of parameters, whoever runs it."""

import hashlib
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lib import paths
from lib.errors import BusyError, RunError

RUNNER = "WORKBOOK_RUN_FOLDER"  # the environment variable in which the runner names a kernel's folder
LIVE = "live"  # what is run by hand lies in runs/live, apart from the runner's finished runs
LOCKS = ".locks"  # in runs: a file for each run folder that was ever written
BLOCK, BLOCKS = 2**16, 64  # of a larger file so many bytes at so many places are read


def folder_of(notebook, values, live=False, seen=None):
    """The run folder of a notebook: `runs/[live/]<notebook>/<person>-<short hash>/`.

    The hash is of the parameters and of the files that they name: with another photograph in a person's folder, or
    after the system was trained again, it is another run.

    Args: notebook, its name without ending; values, dict of every parameter; live, for a run by hand; seen, a dict of
    fingerprints by path, for many folders in a row that name the same files.
    """
    seen = {} if seen is None else seen
    texts = [text for value in values.values() for text in (value if isinstance(value, list) else [value])]
    shipped = [paths.SYSTEM, paths.PHOTO_SYSTEM] if values.get("SYSTEM") == "" else []  # the run takes one of them
    named = [*map(named_path, texts), *shipped]
    for path in set(named) - {None} - set(seen):
        seen[path] = fingerprints(path)
    files = [seen[path] for path in named if path is not None]
    digest = hashlib.sha256("".join(json.dumps(what, sort_keys=True) for what in (values, *files)).encode())
    person = re.sub(r"\W+", "-", Path(str(values.get("PERSON") or "run")).name).strip("-")[:40] or "run"
    parts = (LIVE, notebook) if live else (notebook,)
    return paths.child(paths.RUNS, *parts, f"{person}-{digest.hexdigest()[:8]}")


def here(notebook, values):
    """The folder of the run that this kernel is in, made if need be: the runner's, or that of a run by hand."""
    named = os.environ.get(RUNNER)
    folder = Path(named) if named else folder_of(notebook, values, live=True)
    make(folder)
    return folder


def make(folder):
    """Makes a folder in `runs`. Raises RunError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        if paths.disk_full(error):
            raise
        raise RunError(
            f"Cannot write to {paths.display_path(folder)}: {error.strerror}. "
            f"Remedy: make {paths.display_path(paths.RUNS)} a folder that you may write to, "
            "or name another one in the environment variable WORKBOOK_RUNS."
        ) from None


@contextmanager
def held(folder):
    """Inside the block no other process runs into this folder; the system frees it when this process dies.

    Raises BusyError where another one does, RunError where the file system has no locks.
    """
    lock = FileLock(paths.RUNS / LOCKS / f"{folder.parent.name}-{folder.name}.lock")
    make(Path(lock.lock_file).parent)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise BusyError(
            f"Running already: {paths.display_path(folder)} is being written by another process. "
            "Remedy: wait for it; the same command then says that the run is finished."
        ) from None
    except NotImplementedError:
        raise RunError(
            f"No file locks on {paths.display_path(paths.RUNS)}, so two runs could write into one folder. "
            "Remedy: name a folder of another file system in the environment variable WORKBOOK_RUNS."
        ) from None
    try:
        yield
    finally:
        lock.release()


def named_path(text):
    """The file or folder that a parameter names, seen from the repository; None where it names none."""
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        path = paths.from_root(text)
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown ~user, a zero byte
        return None


def fingerprints(path):
    """Fingerprints of a file, or of the files in a folder and its subfolders: dict of relative name to text.

    Hidden files, links to nowhere, devices and what cannot be read are left out, and so is anything deeper.
    """
    base = path.parent if path.is_file() else path
    found = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
    names = {file.relative_to(base).as_posix(): file for file in found}
    visible = {name: file for name, file in names.items() if not any(part.startswith(".") for part in Path(name).parts)}
    sampled = {name: _fingerprint(file) for name, file in sorted(visible.items())}
    return {name: text for name, text in sampled.items() if text}


def _fingerprint(file):
    """SHA-256 of a file's size and bytes; of a large file, of blocks spread over it, so that 5 GB take no longer.

    Training moves every weight, so the blocks of a file that was trained again differ.
    """
    try:
        if not file.is_file():
            return None
        size = file.stat().st_size
        places = [0] if size <= BLOCK * BLOCKS else [i * (size - BLOCK) // (BLOCKS - 1) for i in range(BLOCKS)]
        digest = hashlib.sha256(str(size).encode())
        with file.open("rb") as stream:
            for place in places:
                stream.seek(place)
                digest.update(stream.read(min(size, BLOCK if len(places) > 1 else BLOCK * BLOCKS)))
        return digest.hexdigest()
    except OSError:
        return None
