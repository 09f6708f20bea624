"""A gallery of finished runs: a table made from their records, with thumbnails of the pictures they restored."""

import base64
import html
from pathlib import Path

import cv2
import pandas as pd
from IPython.display import HTML

from lib import paths
from lib.errors import RecordError
from lib.runs import record

THUMBNAIL = 96  # pixels a side at most


def runs(folder=None):
    """A table with a row for each record below `folder` (`runs/` unless given).

    Columns: run (its folder), notebook, every parameter that differs between them, then the mean of each metric,
    named by its arm ("identity, dual pivot") where rows have one. Raises RecordError where there is no record.
    """
    folder = Path(folder or paths.RUNS)
    rows = [_row(path, folder) for path in sorted(folder.rglob(record.FILE))]
    if not rows:
        raise RecordError(f"No records below {paths.display_path(folder)}. Remedy: run a notebook first.")
    table = pd.DataFrame(rows)
    same = [name for name in table if name.isupper() and table[name].astype(str).nunique() == 1]
    return table.drop(columns=same)


def _row(path, folder):
    found = record.read(path)
    row = {"run": path.parent.relative_to(folder).as_posix(), "notebook": found["notebook"]} | found["parameters"]
    table = pd.DataFrame(found["metrics"])
    if not {"metric", "value"} <= set(table):
        return row
    names = table["metric"] + (", " + table["arm"] if "arm" in table else "")
    return row | table["value"].astype(float).groupby(names, sort=False).mean().round(3).to_dict()


def gallery(folder=None, pictures=4):
    """The table of `runs` as HTML for a notebook cell, with up to `pictures` restored pictures of each run."""
    folder = Path(folder or paths.RUNS)
    table = runs(folder).astype(object)
    table = table.where(table.notna(), "").map(lambda value: html.escape(str(value)))
    files = [sorted((folder / run / "restored").glob("*.png"))[:pictures] for run in runs(folder)["run"]]
    table.insert(1, "restored", ["".join(map(_thumbnail, some)) for some in files])
    return HTML(table.to_html(escape=False, index=False))


def _thumbnail(file):
    """An <img> element that holds the picture itself, small; nothing where the file is no picture."""
    picture = cv2.imread(str(file))
    if picture is None:
        return ""
    scale = min(1.0, THUMBNAIL / max(picture.shape[:2]))
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".png", small)[1]).decode()
    name = html.escape(file.stem)
    return f'<img alt="{name}" title="{name}" src="data:image/png;base64,{data}">'
