"""What a worker of a batch does: one person at a time, each a run of the strict runner."""

import os
import threading
import time
from pathlib import Path

from lib import paths
from lib.errors import BusyError, NoSpaceError, WorkbookError
from lib.runs import kernels, runner

_one = threading.Lock()  # a run sets its process's working folder and environment


def run_person(notebook, values, limit=None):
    """Runs one person; returns what came of it: state, folder, when, seconds, and a failure's error and text.

    Args: notebook, path as text; values, every parameter; limit, seconds, or None.
    """
    start = time.perf_counter()
    found = {"folder": "", "error": "", "message": "", "ran": False, "started": round(time.time(), 3)}
    try:
        with _one:
            folder, found["ran"] = runner.run(Path(notebook), values, limit=limit, bar=False)
        found |= {"state": "finished", "folder": str(folder)}
    except BusyError as error:
        found |= {"state": "busy", "message": str(error)}
    except WorkbookError as error:
        full = NoSpaceError.__name__ in (type(error).__name__, _name(error))  # found by the runner, or by the notebook
        found |= {"state": "disk full" if full else "failed", "error": _name(error), "message": str(error)}
    return found | {"seconds": time.perf_counter() - start, "worker": os.getpid()}


def _name(error):
    """The name of the error that ended a run: that of the cell, where a cell raised it."""
    cause = error.__cause__
    return type(error).__name__ if cause is None else getattr(cause, "ename", None) or type(cause).__name__


def place():
    """Where this worker works: the repository, the folder of its runs, and what its notebooks are, to compare."""
    notebooks = {path.name: path.stat().st_size for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))}
    return {"root": str(paths.ROOT), "runs": str(paths.RUNS), "notebooks": notebooks}


def stop(folders):
    """Ends what this worker computes of these run folders."""
    kernels.end_all(folders, "its batch was stopped")
