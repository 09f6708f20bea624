"""The strict runner: `python -m lib.run NOTEBOOK [-f PARAMS.yaml ...] [-p NAME VALUE ...]` runs a notebook by papermill into its run folder.

Parameters are checked before anything runs, the same parameters give the same folder, a finished run is not run
again, and a failed one keeps its partial notebook. What counts as finished is the record that the notebook writes
last: papermill's own metadata says "completed" after a timeout or a killed kernel too.
"""
import argparse
import hashlib
import json
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from traitlets.config import Config

from lib import paths
from lib.errors import NoSpaceError, RunError, exit_status
from lib.runs import parameters, record

WIDGET = "application/vnd.jupyter.widget-view+json"


def folder_of(notebook, values):
    """The run folder of a notebook with these parameters: `runs/<notebook>/<person>-<short hash of parameters>/`.

    The files of a person folder count as parameters: with another photograph in it, it is another run.
    """
    people = values.get("PEOPLE")
    people = [one for one in (values.get("PERSON"), *(people if isinstance(people, list) else [])) if one and isinstance(one, str)]
    files = [_files(paths.from_root(one)) for one in people if paths.from_root(one).is_dir()]
    digest = hashlib.sha256("".join(json.dumps(what, sort_keys=True) for what in (values, *files)).encode()).hexdigest()[:8]
    person = re.sub(r"\W+", "-", Path(str(values.get("PERSON") or "run")).name).strip("-")[:40]
    return paths.child(paths.RUNS, notebook.stem, f"{person or 'run'}-{digest}")


def _files(folder):
    """The files below a folder, hidden ones left out, and the SHA-256 of each."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".") and os.access(file, os.R_OK)]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run(notebook, values, force=False):
    """Runs the notebook with all its parameters unless it is finished; returns (folder, whether it ran).

    Args: `notebook` path; `values` as `lib.runs.parameters.resolve` gives them; `force` empties the folder first.
    Without it, what an interrupted run left in the folder (checkpoints) is there for the notebook to resume from.
    Raises RunError, NoSpaceError.
    """
    folder = folder_of(notebook, values)
    if force:
        paths.remove(folder)
    if (folder / notebook.name).exists():
        return folder, False
    partial = _execute(notebook, values, folder)
    _write_html(partial, folder / f"{notebook.stem}.html")
    os.replace(partial, folder / notebook.name)  # last: this file says that the run is finished
    return folder, True


def refresh(notebook):
    """Runs a committed notebook anew with its defaults and stores it in its place, cleaned. Raises RunError, NoSpaceError."""
    folder = paths.child(paths.RUNS, "refresh", notebook.stem)
    paths.remove(folder)  # its outputs must not come from what an earlier run left
    fresh = _tidy(parameters.load(_execute(notebook, {}, folder)))
    with paths.atomic_write(notebook) as part:
        nbformat.write(fresh, part)
    return folder


def _execute(notebook, values, folder):
    """Executes into `<notebook>.partial.ipynb` in the folder and returns its path, once the record bears it out."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{notebook.stem}.partial.ipynb"
    paths.remove(partial)
    paths.remove(folder / record.FILE)
    try:
        _papermill(notebook, partial, values, folder)
        _check_record(folder, values)
    except KeyboardInterrupt:
        raise RunError(f"Interrupted: {notebook.stem} {_where(partial)}. Remedy: the same command resumes it.") from None
    except Exception as error:  # whatever papermill, the kernel or the disk raise ends the run, with its place named
        kind = NoSpaceError if paths.disk_full(error) else RunError
        raise kind(f"Not finished: {notebook.stem} {_where(partial)}: {_why(error)}. "
                   "Remedy: mend that, then give the same command again.") from error
    return partial


def _papermill(notebook, partial, values, folder):
    logging.getLogger("papermill").setLevel(logging.ERROR)
    outer = os.environ.get("WORKBOOK_RUN_FOLDER")  # a notebook may run another (20)
    os.environ["WORKBOOK_RUN_FOLDER"] = str(folder)  # the kernel inherits it
    try:
        # Ports picked for TCP can be taken by another run in the same second; sockets in an own folder cannot.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as sockets:
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}})
            papermill.execute_notebook(notebook, str(partial).replace("{", "{{").replace("}", "}}"), values,
                                       kernel_name="python3", cwd=notebook.parent, config=config,
                                       progress_bar={"desc": notebook.stem})
    finally:
        os.environ.pop("WORKBOOK_RUN_FOLDER") if outer is None else os.environ.update(WORKBOOK_RUN_FOLDER=outer)


def _check_record(folder, values):
    """The record is there, and is of the parameters that were asked for."""
    recorded = record.read(folder / record.FILE)["parameters"]
    if other := [name for name in values if recorded.get(name) != values[name]]:
        raise RunError(f"the record says {other[0]} = {recorded.get(other[0])!r}, asked was {values[other[0]]!r}")


def _where(partial):
    """Where a run stopped: the last cell that was started, and where the partial notebook lies."""
    if not partial.exists():
        return "before its first cell"
    cells = [cell for cell in parameters.load(partial).cells if cell.cell_type == "code"]
    started = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    place = f"in code cell {started[-1] + 1} (`{cells[started[-1]].source.strip().splitlines()[0]}`)" if started else "before its first cell"
    return f"{place}, kept in {paths.display_path(partial)}"


def _why(error):
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


def _still(nb):
    """Takes out widgets, which show nothing without their state and a network: their text stays."""
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    return nb


def _tidy(nb):
    """A notebook as it is committed: nothing in it of when and where it ran, nothing on stderr."""
    nb.metadata = nbformat.from_dict({"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"},
                                      "language_info": {"name": "python"}})
    for cell in _still(nb).cells:
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in ("tags",) if cell.metadata.get(key)})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr" and output.get("data", True)]
    return nb


def _write_html(notebook, path):
    """The executed notebook as one HTML file with its pictures inside; only formulas need a network to be typeset."""
    exporter = HTMLExporter(embed_images=True, require_js_url="")
    source = {"metadata": {"name": path.stem, "path": str(paths.NOTEBOOKS)}}
    html, _ = exporter.from_notebook_node(_still(parameters.load(notebook)), resources=source)
    with paths.atomic_write(path) as part:
        part.write_text(html, encoding="utf-8")


def _report(notebook, folder):
    """Where everything lies."""
    print(f"notebook  {paths.display_path(folder / notebook.name)}")
    print(f"page      {paths.display_path(folder / notebook.stem)}.html")
    print(f"record    {paths.display_path(folder / record.FILE)}")
    pictures = sorted(folder.rglob("*.png"))
    for place in sorted({picture.parent for picture in pictures}):
        print(f"pictures  {paths.display_path(place)}/ ({sum(picture.parent == place for picture in pictures)})")


def _list(notebook):
    """The notebooks, or one notebook's parameters."""
    for path in [] if notebook else sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        print(path.stem)
    for one in parameters.declared(parameters.find(notebook)).values() if notebook else []:
        print(f"{one.name}: {one.kind}{' (required)' if one.required else f' = {one.default!r}'}\n    {one.comment}")


def _arguments(words):
    parser = argparse.ArgumentParser("python -m lib.run", description="Run a notebook strictly, into its own run folder.")
    parser.add_argument("notebook", nargs="?", help="path or name of a notebook")
    parser.add_argument("-f", "--file", action="append", default=[], help="YAML file of parameters; a later one wins")
    parser.add_argument("-p", "--parameter", action="append", default=[], nargs=2, metavar=("NAME", "VALUE"))
    parser.add_argument("--force", action="store_true", help="empty the run folder and run again")
    parser.add_argument("--list", action="store_true", help="list the notebooks, or a notebook's parameters")
    parser.add_argument("--refresh", action="store_true", help="run a committed notebook anew and store it in its place")
    given = parser.parse_args(words)
    if not given.notebook and not given.list:
        parser.error("name a notebook; --list shows them")
    if given.refresh and (given.file or given.parameter):
        parser.error("--refresh runs the defaults: it takes neither -f nor -p")
    return given


def main(words=None):
    """The command; returns its exit status."""
    given = _arguments(words)
    return exit_status(lambda: _list(given.notebook) if given.list else _obey(given))


def _obey(given):
    notebook = parameters.find(given.notebook)
    values = parameters.resolve(notebook, given.file, given.parameter)
    if given.refresh:
        print(f"refreshed {paths.display_path(notebook)} (its record: {paths.display_path(refresh(notebook))}/)")
        return
    folder, ran = run(notebook, values, given.force)
    code = record.read(folder / record.FILE)["commit"]["id"] or "unknown commit"
    print("finished" if ran else f"finished earlier with these parameters, at {code[:8]}; --force runs it again")
    _report(notebook, folder)


if __name__ == "__main__":
    sys.exit(main())
