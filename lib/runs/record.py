"""The run record: what was run, on what, for how long, and every metric of every picture. Tables are made from records only."""
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from lib import paths
from lib.errors import RecordError

FILE = "record.json"
FRESH = Path("/proc/self/clear_refs")  # where Linux lets a process forget its peak
_forgotten = [0]  # peaks that were forgotten, the highest last
PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow", "scikit-image", "insightface", "onnxruntime")
FIELDS = ("notebook", "parameters", "seed", "device", "versions", "commit", "seconds", "peak_memory", "metrics")


class Record:
    """One run's record, filled while it runs and written last.

    Args: `notebook` its name without ending; `parameters` dict of name to plain value (`lib.runs.parameters.values`);
    `seed` int; `device` a torch device's name.
    """

    def __init__(self, notebook, parameters, seed, device):
        self.notebook, self.parameters, self.seed, self.device = notebook, dict(parameters), seed, device
        self.seconds, self.metrics, self.loaded = {}, [], {}  # loaded: name -> hash of the weights that were used

    @contextmanager
    def stage(self, name):
        """Adds the wall time of the block, in seconds, to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def add(self, **row):
        """Adds one row: what names the picture (person, shot, arm, seed...) and its metrics, unrounded."""
        self.metrics.append(row)

    def write(self, folder=None):
        """Writes `record.json` into `folder` (the run folder unless given).

        Raises RecordError for NaN, infinity or a value that JSON does not have, NoSpaceError.
        """
        own = {"notebook": self.notebook, "parameters": self.parameters, "seed": self.seed, "device": self.device,
               "versions": versions(), "commit": commit(), "loaded": self.loaded,
               "seconds": self.seconds, "peak_memory": peak_memory(), "metrics": self.metrics}
        write_json(Path(folder or run_folder(self.notebook)) / FILE, own)


def run_folder(notebook):
    """The folder of this run, made if need be: what `lib.run` named, or `runs/live/<notebook>/` for a run by hand."""
    named = os.environ.get("WORKBOOK_RUN_FOLDER")
    folder = Path(named) if named else paths.child(paths.RUNS, "live", notebook)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def versions():
    """Versions of Python and of the packages that can change a number."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def peak_memory():
    """The most memory that this process ever held, in bytes."""
    return max(_forgotten[-1], _held_at_most())


def peak_during(work):
    """The most memory that this process held while `work()` ran, in bytes; 0 where the system cannot tell (it is not Linux)."""
    _forgotten.append(peak_memory())
    try:
        FRESH.write_text("5")
    except OSError:
        work()
        return 0
    work()
    return _held_at_most()


def _held_at_most():
    if sys.platform == "linux":  # whose ru_maxrss starts from what the parent held
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def commit():
    """The commit of the code: `{"id", "dirty"}`, or `{"id": None, "reason"}` where git cannot tell."""
    try:
        head = _git("rev-parse", "HEAD")
        return {"id": head, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except FileNotFoundError:
        return {"id": None, "reason": "git is not installed"}
    except subprocess.CalledProcessError as error:
        return {"id": None, "reason": error.stderr.strip().splitlines()[0]}


def _git(*words):
    done = subprocess.run(["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_json(path, value):
    """Strict JSON, written aside and then renamed. Raises RecordError, NoSpaceError."""
    text = json.dumps(_plain(value, Path(path).name), indent=1, ensure_ascii=False, allow_nan=False)
    with paths.atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _plain(value, where):
    """The value in JSON's own types; numbers of numpy and torch become Python's."""
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise RecordError(f"Key is not text: {odd[0]!r} in {where}. Remedy: use text as keys of a record.")
        return {key: _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"Not a finite number: {value} at {where}. Remedy: find where it comes from; "
                          "a value that does not exist is recorded as None.")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise RecordError(f"Not a value of JSON: {type(value).__name__} at {where}. Remedy: record numbers, text, lists and dicts.")


def read(path):
    """The record in the file `path`, as a dict. Raises RecordError when it is missing, broken or incomplete."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise RecordError(f"No record: {paths.display_path(path)}. Remedy: run the notebook to its end; its last cell writes it.") from None
    except ValueError as error:
        raise RecordError(f"Record is not strict JSON: {paths.display_path(path)}: {error}. Remedy: run again with --force.") from None
    missing = [name for name in FIELDS if not isinstance(found, dict) or name not in found]
    if missing:
        raise RecordError(f"Record lacks {', '.join(missing)}: {paths.display_path(path)}. Remedy: run again with --force.")
    return found


def _refuse(constant):
    raise ValueError(f"{constant} is not a number of JSON")


def gather(folder, pattern=f"**/{FILE}"):
    """A table of all records below `folder`: one row for each picture, the run's own columns in front.

    Columns: run (its folder, below `folder`), notebook, device, commit, every parameter, then the row's own
    (a row's own value wins over a parameter of the same name). Raises RecordError where there is no record.
    """
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise RecordError(f"No records: {paths.display_path(folder)}/{pattern}. Remedy: run a notebook with `python -m lib.run` first.")
    rows = []
    for path in found:
        one = read(path)
        run = {"run": path.parent.relative_to(folder).as_posix(), "notebook": one["notebook"], "seed": one["seed"],
               "device": one["device"], "commit": one["commit"]["id"]} | one["parameters"]
        rows += [run | row for row in one["metrics"] or [{}]]
    return pd.DataFrame(rows)


def compare(a, b, tolerance):
    """A table of the metrics in which two records differ by more than `tolerance`; empty where they agree.

    Args: `a`, `b` records as `read` gives them; `tolerance` one number, or a dict of metric name to number
    (0 for one not named). Rows are compared in order; what is not a float must be equal.
    Raises RecordError where the records are not of the same rows.
    """
    pairs = list(zip(a["metrics"], b["metrics"]))
    if len(a["metrics"]) != len(b["metrics"]) or any(_names(x) != _names(y) for x, y in pairs):
        raise RecordError(f"Records of different rows: {a['notebook']} against {b['notebook']}. "
                          "Remedy: compare runs of the same pictures, in the same order.")
    differences = [{"row": i, "metric": name, "a": x[name], "b": y[name], "difference": abs(x[name] - y[name])}
                   for i, (x, y) in enumerate(pairs) for name in x if isinstance(x[name], float)]
    table = pd.DataFrame(differences, columns=["row", "metric", "a", "b", "difference"])
    allowed = table["metric"].map(lambda name: tolerance.get(name, 0.0) if isinstance(tolerance, dict) else tolerance)
    return table[table["difference"] > allowed].reset_index(drop=True)


def _names(row):
    """A row without the values of its metrics: what must be equal for two rows to be of the same picture."""
    return {name: float if isinstance(value, float) else value for name, value in row.items()}
