"""Pictures that a browser uploaded, written to a folder: every name and every picture is checked."""

import hashlib
from pathlib import Path

from lib import paths
from lib.errors import MissingPicturesError, PairingError, WorkbookError
from lib.people.picture_files import load_picture, safe_name
from lib.people.picture_folders import list_pictures


def keep_uploads(uploads, home):
    """Uploaded pictures as a folder of `home`, which is named by their names and contents; all are kept, or none.

    Args: uploads, dicts with `name`, as the user's file is called, and `content`, its bytes (what ipywidgets'
    FileUpload holds); home, a folder, made if need be.
    Returns the Path of the folder, the same for the same pictures. Raises MissingPicturesError for no upload,
    UnsafePathError (a name that is a path), PairingError (a name twice), NoSpaceError, and the errors of
    `list_pictures` and `load_picture`, which name the uploaded file.
    """
    contents = {safe_name(one["name"]): bytes(one["content"]) for one in uploads}
    if not contents:
        raise MissingPicturesError("No pictures: nothing was uploaded. Remedy: upload photographs.")
    if len(contents) < len(uploads):
        names = sorted(one["name"] for one in uploads)
        raise PairingError(f"The same name twice: {', '.join(names)[:200]}. Remedy: rename one, or leave it out.")
    folder = Path(home) / _digest(contents)
    if not folder.is_dir():
        with paths.atomic_write(folder) as aside:
            _write(aside, contents)
    return folder


def _digest(contents):
    """16 hex digits of a SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _write(folder, contents):
    """Writes the files and reads them again as pictures; an error names the user's file, not where it lies."""
    folder.mkdir()
    try:
        for name, content in contents.items():
            paths.child(folder, name).write_bytes(content)
        for file in list_pictures(folder):
            load_picture(file)
    except WorkbookError as error:
        raise type(error)(str(error).replace(f"{folder}/", "")) from error
