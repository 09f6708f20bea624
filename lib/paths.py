"""Absolute folders, from this file's own place, and the two guards of the file system."""

import os
import shutil
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from lib.errors import NoSpaceError, UnsafePathError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
SYSTEM = DATA / "system"
RESULTS = DATA / "results"
PARAMS = ROOT / "params"
RUNS = Path(os.environ.get("WORKBOOK_RUNS") or ROOT / "runs").resolve()


def display_path(path):
    """The path as a reader should see it: from the repository's root where it lies inside.

    Stored notebook outputs show only such paths, so they are the same on every machine.
    """
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def from_root(path):
    """A path as a person typed it: seen from the repository's root, whatever folder the kernel runs in."""
    return ROOT / Path(path).expanduser()


def child(folder, *names):
    """The path below `folder` that `names` lead to, links followed.

    Raises UnsafePathError where it would leave the folder (`..`, an absolute name, a link out).
    """
    base = Path(folder).resolve()
    path = base.joinpath(*names).resolve()
    if path == base or not path.is_relative_to(base):
        raise UnsafePathError(
            f"Path leaves its folder: {'/'.join(map(str, names))!r} from {display_path(base)}. "
            "Remedy: use a name inside the folder, without '..', '/' in front or links out of it."
        )
    return path


@contextmanager
def atomic_write(path):
    """A path to write aside; it takes the place of `path` only when the block ends well.

    A file or a folder may be written. After a failure, Ctrl-C included, nothing of it is left and
    an older `path` is untouched. Raises NoSpaceError where the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")  # the suffix stays: savers choose the format by it
    try:
        yield part
        if path.is_dir():
            shutil.rmtree(path)  # os.replace refuses a folder that holds something
        os.replace(part, path)
    except BaseException as error:
        remove(part)
        if disk_full(error):
            raise NoSpaceError(
                f"No space left: while writing {display_path(path)}. Nothing half-written is kept. "
                "Remedy: free some space (old runs lie in runs/) and run again."
            ) from error
        raise


def remove(path):
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disk_full(error):
    """Whether an exception says that the disk is full."""
    # safetensors reports the full disk in words, without an errno
    return getattr(error, "errno", None) in (ENOSPC, EDQUOT) or "No space left on device" in str(error)
