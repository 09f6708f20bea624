"""The run record: what was run, on what, for how long, and every metric of every picture.

Tables are made from records only.
"""

import json
import math
import platform
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from lib import paths
from lib.errors import RecordError
from lib.runs import folders, parameters

FILE = "record.json"
FRESH = Path("/proc/self/clear_refs")  # where Linux lets a process forget its peak
_forgotten = [0]  # peaks that were forgotten, the highest last
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "numpy",
    "pillow",
    "scikit-image",
    "insightface",
    "onnxruntime",
    "statsmodels",
    "choix",
)
KINDS = {"notebook": str, "parameters": dict, "commit": dict, "seconds": dict, "metrics": list}
FIELDS = ("notebook", "parameters", "seed", "device", "versions", "commit", "seconds", "peak_memory", "metrics")


class Record:
    """One run's record, filled while it runs and written last; `Record.here` begins it in a notebook.

    Args: notebook, its name without ending; parameters, dict of name to plain value; seed, int; device, the name of a
    torch device; folder, where the run writes; variables, the kernel's `globals()`, to notice changed parameters.
    """

    def __init__(self, notebook, parameters, seed, device, folder=None, variables=None):
        self.notebook, self.parameters, self.seed, self.device = notebook, dict(parameters), seed, device
        self._folder, self._variables = folder, variables
        self.seconds, self.metrics, self.loaded = {}, [], {}  # loaded: hashes of weights, the recipe

    @classmethod
    def here(cls, notebook, variables):
        """The record of the run that this kernel is in, with its folder made.

        The folder follows the parameters: `lib.run` names it, and a run by hand (JupyterLab, papermill, Voila) writes
        to `runs/live/<notebook>/<person>-<hash of the parameters>/`, so another person's results stay.

        Args: notebook, its name without ending; variables, its `globals()`. SEED and DEVICE are read from its
        parameters (0 and "cpu" where it has none). Raises NotebookError, RunError.
        """
        values = parameters.values(notebook, variables)
        folder = folders.here(notebook, values)
        return cls(notebook, values, values.get("SEED", 0), values.get("DEVICE", "cpu"), folder, variables)

    @property
    def folder(self):
        """Where this run writes, made if need be."""
        self._folder = Path(self._folder or folders.here(self.notebook, self.parameters))
        return self._folder

    @contextmanager
    def stage(self, name):
        """Adds the wall time of the block, in seconds, to the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.took({name: time.perf_counter() - start})

    def took(self, seconds):
        """Adds seconds to stages, stage -> seconds: those of people whom an earlier run computed count, too."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def add(self, **row):
        """Adds one row: what names the picture (person, image, arm, seed...) and its metrics, unrounded."""
        self.metrics.append(row)

    def emptied(self, name):
        """The folder `name` of this run, empty: pictures of an earlier run of the same parameters are not mixed in."""
        folder = paths.child(self.folder, name)
        paths.remove(folder)
        folder.mkdir(parents=True)
        return folder

    def write(self, folder=None):
        """Writes `record.json` into `folder` (the run's own unless given).

        Raises RecordError for NaN, infinity or a value that JSON does not have, and where a parameter was changed
        after the record was begun; NoSpaceError.
        """
        self._check_unchanged()
        own = {
            "notebook": self.notebook,
            "parameters": self.parameters,
            "seed": self.seed,
            "device": self.device,
            "versions": versions(),
            "commit": commit(),
            "loaded": self.loaded,
            "seconds": self.seconds,
            "peak_memory": peak_memory(),
            "metrics": self.metrics,
        }
        if self.device.startswith("cuda"):
            own["peak_memory_gpu"] = sys.modules["torch"].cuda.max_memory_allocated(self.device)
        write_json(Path(folder or self.folder) / FILE, own)

    def _check_unchanged(self):
        changed = [
            name for name in self.parameters if self._variables and self._variables[name] != self.parameters[name]
        ]
        if changed:
            raise RecordError(
                f"{changed[0]} is {self._variables[changed[0]]!r} now, and was {self.parameters[changed[0]]!r} "
                "when the record was begun. Remedy: run the whole notebook again (Run All)."
            )


def versions():
    """Versions of Python and of the packages that can change a number."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def peak_memory():
    """The most memory that this process ever held, in bytes."""
    return max(_forgotten[-1], _held_at_most())


def peak_during(work):
    """The most memory that this process held while `work()` ran, in bytes; 0 where the system cannot tell."""
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
        raise RecordError(
            f"Not a finite number: {value} at {where}. Remedy: find where it comes from; "
            "a value that does not exist is recorded as None."
        )
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise RecordError(
        f"Not a value of JSON: {type(value).__name__} at {where}. Remedy: record numbers, text, lists and dicts."
    )


def read(path):
    """The record in the file `path`, as a dict. Raises RecordError when it is missing, broken or incomplete."""
    path = Path(path)
    where = paths.display_path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise RecordError(
            f"No record: {where}. Remedy: run the notebook to its end; its last cell writes it."
        ) from None
    except (ValueError, RecursionError) as error:  # nested thousands deep
        raise RecordError(f"Record is not strict JSON: {where}: {error}. Remedy: run again with --force.") from None
    except OSError as error:
        raise RecordError(
            f"Cannot read the record: {where}: {error.strerror}. Remedy: run again with --force."
        ) from None
    if fault := _fault(found):
        raise RecordError(f"Record {fault}: {where}. Remedy: run again with --force.")
    return found


def _fault(found):
    """What a record lacks, in words; None where it is whole."""
    if not isinstance(found, dict):
        return "is no mapping"
    if missing := [name for name in FIELDS if name not in found]:
        return f"lacks {', '.join(missing)}"
    if odd := [name for name, kind in KINDS.items() if not isinstance(found[name], kind)]:
        return f"has another kind of {odd[0]}: {found[odd[0]]!r:.60}"
    if not isinstance(found["commit"].get("id"), str | None) or "id" not in found["commit"]:
        return "names no commit"
    if not all(isinstance(row, dict) for row in found["metrics"]):
        return "has a row that is no mapping"
    return None


def _refuse(constant):
    raise ValueError(f"{constant} is not a number of JSON")
