"""`make lab`: JupyterLab on the whole repository, with working copies of the notebooks in `runs/lab`.

Running and saving a notebook changes its outputs, so the copies are what is opened: git stays clean, and `make test`
passes afterwards. A committed notebook that is opened by itself and saved is tidied on its way to the disk
(`tidy_before_saving`), so looking at it changes nothing.
"""

import json
import os
import sys
from pathlib import Path

import nbformat

from lib import paths
from lib.runs import pages

COPIES = Path("runs", "lab")  # below the repository, where git ignores it
NOTES = ".committed.json"  # beside the copies: the committed sources that each was made from
FIRST = "00_start_here.ipynb"


def refresh_copies(root):
    """Copies the notebooks of a repository to `runs/lab`, again where the committed one changed since.

    A copy whose cells were edited by then is kept beside it as `<name>.mine.ipynb`. Links lead where they led.
    Returns the folder of the copies.
    """
    folder = root / COPIES
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / NOTES
    before = json.loads(notes.read_text()) if notes.is_file() else {}
    committed = sorted((root / "notebooks").glob("*.ipynb"))
    beside = [path.name for path in committed]
    for path in committed:
        nb, copy = nbformat.read(path, 4), folder / path.name
        made_from = _sources(nb)
        moved = pages.relinked(nb, path.parent, folder, beside)
        if copy.is_file() and before.get(path.name) == made_from:
            continue
        if copy.is_file() and _sources(nbformat.read(copy, 4)) not in (
            _sources(moved),
            before.get(f"{path.name} copy"),
        ):
            os.replace(copy, copy.with_suffix(".mine.ipynb"))
            print(f"{path.name} changed in the repository; your edited copy is {copy.stem}.mine.ipynb")
        nbformat.write(moved, copy)
        before |= {path.name: made_from, f"{path.name} copy": _sources(moved)}
    notes.write_text(json.dumps(before))
    return folder


def _sources(nb):
    return [cell.source for cell in nb.cells]


def tidy_before_saving(model, path, **_):
    """Jupyter's pre-save hook: a notebook in `notebooks/` goes to the disk as it is committed."""
    if model["type"] == "notebook" and Path(path.strip("/")).parent == Path("notebooks"):
        model["content"] = pages.tidied(nbformat.from_dict(model["content"]))


def command(root, words=()):
    """The command line of JupyterLab on a repository; `words` are further options."""
    tree = f"/lab/tree/{COPIES.as_posix()}/{FIRST}"
    return [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", f"--LabApp.default_url={tree}", *words]


def environment():
    """The environment variables of JupyterLab: its own configuration, and ours beside it."""
    places = [str(Path(__file__).parent), os.environ.get("JUPYTER_CONFIG_PATH")]
    return os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, places))}


def main():
    """Refreshes the copies and becomes JupyterLab; words of the command line are its options (`--no-browser`)."""
    refresh_copies(paths.ROOT)
    line = command(paths.ROOT, sys.argv[1:])
    os.execve(line[0], line, environment())


if __name__ == "__main__":
    main()
