"""The runs of one batch as two tidy tables, made from their records: a row a person, and a row a metric of a picture.

`python -m lib.runs.gather BATCH [-o FOLDER] [--format parquet]`
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

from lib import paths
from lib.errors import BatchError, RecordError, UnreadablePictureError, UnsafePathError, exit_status
from lib.runs import batch_folder, record

FORMATS = ("csv", "parquet")
PEOPLE, METRICS = "people", "metrics"
COLUMNS = ("batch", "person", "run", "metric", "arm", "image", "value")  # of metrics where nobody has finished
FIRST = COLUMNS[:3]  # columns of both tables, in front
OTHER = "everything else"  # the wall time of a run that no stage of its record names


def people(folder):
    """A row for each person of a batch: state, error, seconds, parameters, then versions and stages of its record.

    Columns: batch, person, run (its folder below runs), state, tries, deaths, error, message, seconds, each parameter
    by its NAME; of a finished run also "seconds STAGE", peak_memory (bytes), device, commit, dirty, "version PACKAGE".
    Args: folder, of the batch. Raises BatchError, and RecordError where a finished run's record is damaged.
    """
    status = batch_folder.read_status(folder)
    values, rows = {one["folder"]: one["parameters"] for one in batch_folder.read(folder)["people"]}, []
    for row in status.itertuples():
        seconds = float(row.seconds) if row.seconds else _duration(row)
        known = dict(batch=Path(folder).name, person=row.person, run=row.folder, state=row.state, tries=int(row.tries))
        known |= dict(deaths=int(row.deaths), error=row.error, message=row.message, seconds=seconds)
        known |= {name: str(value) if isinstance(value, list) else value for name, value in values[row.folder].items()}
        rows.append(known | (_facts(_record(row), seconds) if row.state == "finished" else {}))
    return pd.DataFrame(rows)


def _record(row):
    return record.read(paths.RUNS / row.folder / record.FILE)


def _duration(row):
    """Seconds that papermill wrote into the notebook of a run that another batch, or nobody's, had finished before."""
    notebook = next((paths.RUNS / row.folder).glob("*.ipynb"), None) if row.state == "finished" else None
    facts = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("papermill", {}) if notebook else {}
    return facts.get("duration")


def _facts(found, seconds):
    """What a record says of its run as a whole, flat."""
    stages = {f"seconds {stage}": value for stage, value in found["seconds"].items()}
    if seconds is not None and stages:
        stages[f"seconds {OTHER}"] = seconds - sum(stages.values())
    facts = {"peak_memory": found["peak_memory"], "device": found["device"]}
    if recipe := found.get("loaded", {}).get("recipe"):  # what an empty parameter stood for
        facts["RECIPE"] = recipe
    facts |= {"commit": found["commit"]["id"], "dirty": found["commit"].get("dirty")}
    versions = {f"version {name}": value for name, value in found["versions"].items()}
    return stages | facts | versions


def metrics(folder):
    """A row for each row of metrics in the records of a batch's finished runs, with batch, person and run in front."""
    status = batch_folder.read_status(folder)
    batch = Path(folder).name
    finished = status[status.state == "finished"]
    rows = [
        dict(zip(FIRST, (batch, row.person, row.folder))) | found
        for row in finished.itertuples()
        for found in _record(row)["metrics"]
    ]
    return pd.DataFrame(rows, columns=None if rows else COLUMNS)


def write(folder, output=None, form="csv", pictures=0):
    """Writes both tables, `people.csv` and `metrics.csv` or .parquet; returns their paths.

    Args: folder, of the batch; output, a folder (the batch's own); form, one of FORMATS; pictures, of how many people
    to copy the restored pictures: those with the least identity.
    Raises UnsafePathError where the output has a file of that name that is not of this command, UnreadablePictureError,
    BatchError, RecordError, NoSpaceError.
    """
    output = Path(output or folder)
    for name in (PEOPLE, METRICS):
        _check_own(output / f"{name}.{form}")
    tables = {PEOPLE: people(folder), METRICS: metrics(folder)}
    shown = worst(tables[METRICS], pictures, "identity", higher=True)["run"] if pictures else []
    for name, table in tables.items():
        with paths.atomic_write(output / f"{name}.{form}") as part:
            _save(table, part, form)
    for run in shown:
        _copy_pictures(run, output / "pictures")
    return [output / f"{name}.{form}" for name in tables]


def _check_own(file):
    """Raises UnsafePathError for a file that is there and is not a table of this command, such as the input table."""
    if not file.exists():
        return
    try:
        names = tuple(read(file).columns[: len(FIRST)])
    except ImportError:  # no pyarrow, which _save says
        return
    except (OSError, ValueError):  # neither CSV nor Parquet
        names = ()
    if names != FIRST:
        raise UnsafePathError(
            f"Not a gathered table: {paths.display_path(file)}, which would be overwritten. "
            "Remedy: name another folder with -o, or move that file."
        )


def _save(table, part, form):
    if form == "csv":
        table.to_csv(part, index=False)
        return
    try:
        table.to_parquet(part, index=False)
    except ImportError:
        raise BatchError("Parquet needs pyarrow. Remedy: pip install -e '.[cluster]', or --format csv.") from None


def read(file):
    """One of the tables that `write` made, from its file."""
    return (
        pd.read_parquet(file)
        if Path(file).suffix == ".parquet"
        else pd.read_csv(file, na_values=[""], keep_default_na=False)
    )


def worst(table, count, metric, higher, arm=None):
    """The runs with the worst means of a metric: a table of person, run, arm and value, worst first.

    A person without a number, such as one whose face was not found, comes before all others.
    Args: table, of `metrics`; count; metric; higher, whether more of it is better (`registry.HIGHER_IS_BETTER`); arm
    (of each run its last, which is the tuned one).
    Raises BatchError where no run has this metric, or a run lacks the arm.
    """
    rows = table[table.metric == metric] if {"metric", "arm", "value"} <= set(table) else table[:0]
    if rows.empty:
        raise BatchError(f"No finished run has {metric}. Remedy: finish the batch, with a notebook that measures it.")
    kept = rows[rows.arm == (arm or last_arms(rows).reindex(rows.run).to_numpy())]
    if without := sorted(set(rows.person[~rows.run.isin(kept.run)])):
        raise BatchError(f"No arm {arm!r}: {', '.join(without)}. Remedy: leave the arm out, or name one of all runs.")
    means = kept.groupby(["person", "run", "arm"], as_index=False)["value"].mean()
    return means.sort_values("value", ascending=higher, na_position="first").head(count).reset_index(drop=True)


def last_arms(table):
    """The last arm in each run's record, which is the tuned one: a Series over runs. Args: table, of `metrics`."""
    return table.groupby("run", sort=False).arm.last()


def tuned_arm(table):
    """The arm that every run of a batch ends with. Args: table, of `metrics`. Raises BatchError for none or several."""
    arms = sorted(set(last_arms(table)))
    if len(arms) != 1:
        raise BatchError(
            f"{len(arms)} arms in one batch: {', '.join(arms) or 'nobody finished'}. Remedy: a batch an arm."
        )
    return arms[0]


def _copy_pictures(run, output):
    """The restored pictures of a run byte for byte, so with their synthetic mark, under the name of the run."""
    for file in sorted((paths.RUNS / run / "restored").glob("*.png")):
        try:
            with Image.open(file, formats=("PNG",)) as picture:
                picture.verify()
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadablePictureError(
                f"Picture cannot be read ({error}): {file}. Remedy: remove its run folder and run that person again."
            ) from error
        with paths.atomic_write(output / f"{Path(run).name}-{file.name}") as part:
            shutil.copyfile(file, part)


def main(words=None):
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m lib.runs.gather", description="Gather the runs of one batch.")
    parser.add_argument("batch", help="its folder, runs/batches/NAME")
    parser.add_argument("-o", "--output", help="folder of the tables (the batch's own)")
    parser.add_argument("--format", choices=FORMATS, default="csv")
    parser.add_argument("--pictures", type=int, default=0, help="restored pictures of so many worst people as well")
    given = parser.parse_args(words)
    return exit_status(lambda: [print(paths.display_path(file)) for file in _gather(given)])


def _gather(given):
    try:
        return write(given.batch, given.output, given.format, given.pictures)
    except RecordError as error:
        raise BatchError(f"A run of the batch is damaged: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
