"""Who a batch runs: a CSV file, a folder of person folders or a glob, checked whole before anything runs."""

import csv
import glob
from dataclasses import dataclass
from pathlib import Path

from lib import paths
from lib.errors import BatchError, WorkbookError
from lib.runs import folders, parameters, ranges

LARGEST_TABLE = 2**26  # bytes of a CSV file


@dataclass(frozen=True)
class Job:
    """One run of a batch: where it stands in the table, whom it is of, every parameter, and its run folder."""

    place: str  # "line 3", or the folder that a glob found
    person: str
    values: dict
    folder: Path


def read(source):
    """The rows of a table: list of (place, dict of parameter to text). An empty cell leaves the notebook's default.

    Args: source, a CSV file with a header of parameter names; a folder, each of whose subfolders is a person; or a
    glob of person folders. Raises BatchError.
    """
    path = Path(source)
    if path.is_dir():
        return _people(source, sorted(path.iterdir()))
    if path.suffix.lower() == ".csv" or path.is_file():
        return _csv(path)
    return _people(source, sorted(map(Path, glob.glob(str(source)))))


def _people(source, found):
    """A row for each folder; a folder of pictures alone would be one person, whose references are no people."""
    names = [path for path in found if path.is_dir() and not path.name.startswith(".")]
    if not names or {"references"} & {path.name for path in names}:
        raise BatchError(
            f"No person folders: {source}. Remedy: name a CSV file, a folder that holds person folders, "
            "or a glob of them in quotation marks, such as 'people/*'."
        )
    return [(str(path), {"PERSON": paths.display_path(path.resolve())}) for path in names]


def _csv(path):
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise BatchError(f"Table of more than {LARGEST_TABLE >> 20} MB: {path}. Remedy: run it in parts.")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(f"line {reader.line_num}", cells) for cells in reader if any(cell.strip() for cell in cells)]
    except OSError as error:
        raise BatchError(f"Cannot read the table: {path}: {error.strerror}. Remedy: check the path.") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise BatchError(f"Not CSV in UTF-8: {path}: {error}. Remedy: save it as CSV, in UTF-8.") from None
    if len(lines) < 2:
        raise BatchError(f"No rows: {path}. Remedy: a header of parameter names (PERSON, ...) and a row a person.")
    names = [name.strip() for name in lines[0][1]]
    if twice := sorted({name or "(empty)" for name in names if names.count(name) > 1 or not name}):
        raise BatchError(f"Columns twice or without a name: {', '.join(twice)} in {path}. Remedy: name each once.")
    odd = [place for place, cells in lines[1:] if len(cells) != len(names)]
    if odd:
        raise BatchError(
            f"Not {len(names)} cells as the header has: {', '.join(odd)} of {path}. "
            "Remedy: put cells that hold a comma into quotation marks."
        )
    return [(place, {n: c.strip() for n, c in zip(names, cells) if c.strip()}) for place, cells in lines[1:]]


def jobs(notebook, rows, files=(), typed=(), check_person=None, here=True):
    """The runs of a table, a Job for each row.

    Args: notebook, path; rows, of `read`; files and typed as of `parameters.resolve`, for all rows; check_person, a
    function of a row's values that raises where the person cannot be opened; here, whether they run on this machine.
    Raises BatchError that names every bad row.
    """
    resolved, seen, known, faults = parameters.resolve_rows(notebook, files, typed, here), {}, {}, []
    for place, row in rows:
        try:
            if both := [name for name, _ in typed if name in row]:
                raise BatchError(f"{both[0]} is a column, and is given with -p too. Remedy: take one of them.")
            job = _job(notebook, place, resolved(row), check_person, seen)
            twin = known.setdefault(job.folder, job)
            if twin is not job:
                raise BatchError(f"The same run as {twin.place}. Remedy: take one of them out.")
        except WorkbookError as error:
            faults.append(f"  {place}: {type(error).__name__}: {error}")
    if faults:
        count = "1 row" if len(faults) == 1 else f"{len(faults)} rows"
        lines = "\n".join(faults)
        raise BatchError(f"{count} of {len(rows)} cannot run, so nothing was started:\n{lines}")
    return list(known.values())


def _job(notebook, place, values, check_person, seen):
    ranges.check_places(values)
    if check_person:
        check_person(values)
    return Job(place, person_of(values), values, folders.folder_of(notebook.stem, values, seen=seen))


def person_of(values):
    """Whom a run is of, in words: its PERSON, or what else it names."""
    people = values.get("PERSON") or values.get("PEOPLE") or "run"
    return people if isinstance(people, str) else ", ".join(map(str, people)) if isinstance(people, list) else "run"
