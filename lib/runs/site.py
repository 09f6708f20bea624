"""A static site of results: a page for each run, and an index with thumbnails, a sortable table and search.

`python -m lib.runs.site [-o runs/site]` reads `runs/` as it is. The pages are those that the runner wrote with
nbconvert; the index is a template. Nothing is fetched from a network but MathJax, where a page has formulas.
The site's folder is replaced as a whole, so it must be new, empty, or an older site: what else is there is refused.
"""

import argparse
import html
import re
import sys
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd
from PIL import Image, PngImagePlugin

from lib import paths
from lib.errors import RecordError, UnreadablePictureError, UnsafePathError, exit_status
from lib.runs import batch_folder, folders, pages, parameters, record

MARKER = ".workbook-site"  # the file by which a folder is known as an older site, which may be replaced
TEMPLATE = Path(__file__).with_name("site.html.j2")
THUMBNAIL = 112  # pixels a side at most
SHOWN = 4  # thumbnails of a run at most
LINK = re.compile(
    r'<a\b[^>]*\bhref="(?![a-z]+:|#)[^"]*"[^>]*>(.*?)</a>', re.S
)  # to a file, which the site does not have
METRICS = {"identity": "identity", "psnr": "PSNR (dB)", "perceptual": "perceptual"}


def build(output, runs=None):
    """Builds the site of every run below `runs`; returns the path of its index.

    Finished runs have their executed notebook as a page, and failed people of a batch their partial one, if any.
    Args: output, a folder: new, empty, or an older site, which is replaced as a whole; runs, a folder (paths.RUNS).
    Raises UnsafePathError for any other output, RecordError where there is no run, UnreadablePictureError.
    """
    runs, output = Path(runs or paths.RUNS).resolve(), Path(output).resolve()
    _check_output(output, runs)
    found = [_finished(path) for path in _records(runs, output)]
    found += [_unfinished(folder, row) for folder, row in _failed(runs).items()]
    if not found:
        raise RecordError(f"No runs below {paths.display_path(runs)}. Remedy: run a notebook or a batch first.")
    with paths.atomic_write(output) as part:
        for run in found:
            run["pictures"] = [_thumbnail(file, run["name"], part) for file in run["pictures"]]
        paged = [run for run in found if run["source"]]
        for before, run, after in zip([None, *paged], paged, [*paged[1:], None]):
            _page(run, before, after, part / "pages")
        (part / "index.html").write_text(_index(found), encoding="utf-8")
        (part / MARKER).write_text("python -m lib.runs.site replaces this folder as a whole.\n", encoding="utf-8")
    return output / "index.html"


def _check_output(output, runs):
    """Raises UnsafePathError where a site would replace something that is no site."""
    for name, kept in (("the repository", paths.ROOT), ("the runs", runs)):
        if kept.is_relative_to(output):
            raise UnsafePathError(
                f"Not a folder for a site: {output} is or holds {name}, and a site replaces its folder as a whole. "
                "Remedy: name a new folder with -o, such as runs/site."
            )
    if output.exists() and not (output.is_dir() and ((output / MARKER).is_file() or not any(output.iterdir()))):
        raise UnsafePathError(
            f"Not a folder for a site: {output} exists and is no older site (it has no {MARKER}). "
            "Remedy: name a new folder with -o, or remove that one yourself."
        )


def _records(runs, output):
    """Records of finished runs, without those of runs by hand, of refreshed notebooks, and of an older site."""
    aside = {folders.LIVE, "refresh", batch_folder.BATCHES}
    found = [path for path in sorted(runs.glob(f"*/*/{record.FILE}")) if not path.is_relative_to(output)]
    return [path for path in found if path.parent.parent.name not in aside and _notebook(path.parent).is_file()]


def _notebook(folder):
    return folder / f"{folder.parent.name}.ipynb"


def _partial(folder):
    """The notebook of a run that did not end, which holds the error; None where there is none."""
    file = folder / f"{folder.parent.name}.partial.ipynb"
    return file if file.is_file() else None


def _failed(runs):
    """Failed people of all batches: dict of run folder to row of the status, without those that finished since."""
    rows = {}
    for status in sorted(runs.glob(f"{batch_folder.BATCHES}/*/{batch_folder.STATUS}")):
        for row in batch_folder.read_status(status.parent).itertuples():
            folder = runs / row.folder
            if row.state in ("failed", "set aside") and not _notebook(folder).is_file():
                rows[folder] = row
    return rows


def _finished(path):
    found, folder = record.read(path), path.parent
    arm, means = _means(pd.DataFrame(found["metrics"]))
    pictures = sorted(folder.glob("restored/*.png"))[:SHOWN]
    return _run(folder, str(found["parameters"].get("PERSON", folder.name))) | {
        "state": "finished",
        "source": _notebook(folder),
        "pictures": pictures,
        "means": means,
        "arm": arm,
        "seconds": sum(found["seconds"].values()),
        "commit": (found["commit"]["id"] or "unknown")[:8],
    }


def _means(table):
    """The tuned arm of a run, which its record has last, and the means over pictures, blind and tuned, by label."""
    if not {"metric", "value", "arm"} <= set(table):
        return "", {}
    arm = table.arm.iloc[-1]
    values = table.assign(value=table["value"].astype(float)).groupby(["metric", "arm"])["value"].mean()
    kinds = {"blind": "blind"} | ({"tuned": arm} if arm != "blind" else {})
    labels = ((f"{label}, {kind}", (metric, one)) for metric, label in METRICS.items() for kind, one in kinds.items())
    return arm, {label: values[key] for label, key in labels if key in values.index}


def _unfinished(folder, row):
    """A failed person; one that was set aside may have no partial notebook, and then has no page."""
    nothing = {"pictures": [], "means": {}, "arm": "", "seconds": None, "commit": ""}
    return _run(folder, row.person) | nothing | {"state": f"{row.state}: {row.error}", "source": _partial(folder)}


def _run(folder, person):
    return {"name": f"{folder.parent.name}-{folder.name}", "notebook": folder.parent.name, "person": person}


def _thumbnail(file, name, part):
    """A small copy of a picture in the site, with the text of its file (a restoration is marked synthetic there).

    Returns its address from the index, and its alternative text. Raises UnreadablePictureError.
    """
    address = f"thumbnails/{name}-{file.stem}.png"
    (part / "thumbnails").mkdir(parents=True, exist_ok=True)
    try:
        with Image.open(file, formats=("PNG",)) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            texts = picture.text.items()
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadablePictureError(
            f"Picture cannot be read ({error}): {file}. Remedy: remove its run folder and run that person again."
        ) from error
    notes = PngImagePlugin.PngInfo()
    for key, text in texts:  # XMP is iTXt, which is UTF-8
        (notes.add_itxt if isinstance(text, PngImagePlugin.iTXt) else notes.add_text)(key, text)
    picture.save(part / address, pnginfo=notes)
    return {"src": address, "alt": file.stem.replace("-", " ")}


def _page(run, before, after, folder):
    """The run's own page, with a way back; links to files of the repository become plain text."""
    written, file = run["source"].with_suffix(".html"), folder / f"{run['name']}.html"
    folder.mkdir(exist_ok=True)
    if not written.is_file():
        written = file
        pages.write_html(parameters.load(run["source"]), file)
    text = LINK.sub(r"\1", written.read_text(encoding="utf-8"))
    words = [f'<a href="../index.html">all runs</a> &nbsp; <b>{html.escape(run["person"])}</b>']
    others = [(other["name"], word) for other, word in ((before, "previous"), (after, "next")) if other]
    words += [f'<a href="{quote(name)}.html">{word}</a>' for name, word in others]
    style = "position:sticky;top:0;z-index:9;background:#fff;border-bottom:1px solid #ccc;padding:.5em 1em;color:#222"
    bar = f'<nav style="{style}">{" &nbsp; ".join(words)}</nav>'
    start = re.search(r"<body[^>]*>", text).end()
    file.write_text(text[:start] + bar + text[start:], encoding="utf-8")


def _index(found):
    columns = list(dict.fromkeys(name for run in found for name in run["means"]))
    template = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(runs=found, columns=columns, notebooks=sorted({run["notebook"] for run in found}))


def main(words=None):
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser("python -m lib.runs.site", description="Build a static site of the runs.")
    parser.add_argument("-o", "--output", default=str(paths.RUNS / "site"), help="its folder (runs/site)")
    given = parser.parse_args(words)
    return exit_status(lambda: print(f"site      {paths.display_path(build(given.output))}"))


if __name__ == "__main__":
    sys.exit(main())
