"""The folder of a batch, `runs/batches/<table>-<hash>/`: its people, and how far each has come."""

import csv
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import pandas as pd

from lib import paths
from lib.errors import BatchError
from lib.runs import folders, record

BATCHES = "batches"
FILE, STATUS = "batch.json", "status.csv"
COLUMNS = ("place", "person", "state", "tries", "deaths", "started", "seconds", "worker", "error", "message", "folder")
EVERY = 2.0  # seconds at least between two writings of the status


def make(notebook, jobs, source):
    """The folder of these runs, made if need be: the same table of the same people is the same batch."""
    digest = hashlib.sha256("\n".join([notebook.name, *sorted(str(job.folder) for job in jobs)]).encode())
    folder = paths.child(paths.RUNS, BATCHES, f"{Path(source).stem.strip('*') or 'people'}-{digest.hexdigest()[:8]}")
    folders.make(folder)
    people = [{"person": job.person, "folder": relative(job.folder), "parameters": job.values} for job in jobs]
    batch = {"notebook": notebook.stem, "source": str(source), "commit": record.commit(), "people": people}
    record.write_json(folder / FILE, batch)
    return folder


def relative(folder):
    """A run folder as it is written down, below `runs`."""
    folder = Path(folder)
    return folder.relative_to(paths.RUNS).as_posix() if folder.is_relative_to(paths.RUNS) else str(folder)


def rows_of(jobs, notebook, before):
    """The status before anything runs, dict of run folder to row; what is finished, the runner itself says.

    Args: jobs; notebook, path; before, of `earlier`, which knows how long the finished ones took.
    """
    return {str(job.folder): _row(job, notebook, before.get(str(job.folder), {})) for job in jobs}


def _row(job, notebook, before):
    from lib.runs import runner  # takes seconds, which who only reads a status need not wait

    facts = {"place": job.place, "person": job.person, "folder": relative(job.folder)}
    new = {
        "state": "waiting",
        "tries": 0,
        "deaths": 0,
        "started": "",
        "seconds": "",
        "worker": "",
        "error": "",
        "message": "",
    }
    if not runner.is_finished(job.folder, notebook):
        return new | facts
    return new | (before if before.get("state") == "finished" else {}) | facts | {"state": "finished"}


def read_status(folder):
    """The status of a batch, a table with a row a person. Raises BatchError where there is none."""
    try:
        return pd.read_csv(Path(folder, STATUS), keep_default_na=False, dtype=str)
    except (OSError, ValueError) as error:
        raise BatchError(f"No batch: {folder}: {error}. Remedy: name a folder in runs/batches.") from None


def earlier(folder):
    """What an earlier command wrote: dict of run folder to row; empty where there was none."""
    if not (folder / STATUS).is_file():
        return {}
    return {str(paths.RUNS / row["folder"]): row for row in read_status(folder).to_dict("records")}


class Status:
    """Writes the rows into `status.csv`, at most every EVERY seconds and at the end of the block."""

    def __init__(self, folder, rows):
        self.file, self.rows, self._last = folder / STATUS, rows, 0.0

    def write(self, now=False):
        if not now and time.monotonic() - self._last < EVERY:
            return
        with paths.atomic_write(self.file) as part, part.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows.values())
        self._last = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.write(now=True)


def read(folder):
    """What `make` wrote. Raises BatchError."""
    try:
        return json.loads(Path(folder, FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BatchError(f"No batch: {folder}: {error}. Remedy: name a folder in runs/batches.") from None


def _short(row):
    """A failure in one line; the whole text is in the status."""
    words = f"{row['error']}: {row['message']}".split(", kept in ")
    return words[0] if len(words) == 1 else f"{words[0]}: {words[1].partition(': ')[2]}"[:300]


def report(folder, rows, stopped=""):
    """Prints what came of everybody, and where it lies."""
    counts = Counter(row["state"] for row in rows)
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    for row in rows:
        if row["state"] in ("failed", "set aside"):
            print(f"  {row['state']}: {row['person']} ({row['place']}): {_short(row)}")
    if counts["finished"] < len(rows):
        why = f"Stopped: {stopped}. " if stopped else ""
        print(f"{why}Remedy: repair what is named above; the same command runs only what is not finished.")
    print(f"status    {paths.display_path(folder / STATUS)}")
