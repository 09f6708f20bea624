"""The repository's folders as absolute paths, and safe ways to name, write and remove files."""

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
PHOTO_SYSTEM = DATA / "photo_system"
RESULTS = DATA / "results"
PARAMS = ROOT / "params"
LONGEST_NAME = 255  # bytes: what common file systems allow
RUNS = Path(os.environ.get("WORKBOOK_RUNS") or ROOT / "runs").resolve()


def display_path(path):
    """The path as a reader should see it, relative to the repository's root if it lies inside.

    Stored notebook outputs show only such paths, so that they are the same on every machine.
    """
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def from_root(path):
    """A path as a user typed it, relative to the repository's root whatever folder the kernel runs in.

    Raises UnsafePathError for a path that no file system takes: a name of more than LONGEST_NAME bytes, a NUL
    character, or "~name" of a user who does not exist.
    """
    try:
        found = ROOT / Path(path).expanduser()
    except RuntimeError as error:  # pathlib's own for an unknown user
        raise UnsafePathError(
            f"No such home folder: {str(path)[:80]!r}. Remedy: write the path without '~'."
        ) from error
    if "\0" in str(found) or any(len(os.fsencode(name)) > LONGEST_NAME for name in found.parts):
        raise UnsafePathError(
            f"Not a path: {str(path)[:80]!r}, which holds a name of more than {LONGEST_NAME} bytes or a NUL character. "
            "Remedy: check the path."
        )
    return found


def child(folder, *names):
    """The path of `names` below `folder`, with links followed.

    Raises UnsafePathError if it leaves the folder (`..`, an absolute name, a link out).
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
    """A temporary path beside `path` for a file or folder; it replaces `path` when the block ends without error.

    After a failure, Ctrl-C included, the temporary path is removed and an older `path` is untouched.
    Raises NoSpaceError when the disk is full.
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
