"""The strict runner: `python -m lib.run NOTEBOOK [-f PARAMS.yaml ...] [-p NAME VALUE ...]`.

Parameters are checked before anything runs, the same parameters give the same folder, a finished run is not run
again, and a failed one keeps its partial notebook. A run is finished when its record is whole and every file that it
wrote is there: papermill's own metadata says "completed" after a timeout or a killed kernel, too.
"""

import argparse
import logging
import os
import signal
import sys
from contextlib import contextmanager

import nbformat
import papermill
from traitlets.config import Config

from lib import paths
from lib.errors import NoSpaceError, NotebookError, RecordError, RunError, TimeLimitError, exit_status
from lib.runs import folders, kernels, pages, parameters, ranges, record

STOPPING = ("SIGTERM", "SIGHUP")  # they end a run as Ctrl-C does


def run(notebook, values, force=False, **how):
    """Runs the notebook with all its parameters unless it is finished; returns (folder, whether it ran).

    Args: notebook, path; values, as `lib.runs.parameters.resolve` gives them; force, to empty the folder first.
    Without it, what an interrupted run left in the folder (checkpoints) is there for the notebook to resume from.
    how: limit, seconds after which the kernel is killed; bar, False for no progress bar.
    Raises ParameterError (a person or system that is not there), RunError, BusyError, NoSpaceError.
    """
    ranges.check_places(values)
    folder = folders.folder_of(notebook.stem, values)
    if not force and is_finished(folder, notebook):
        return folder, False
    folders.make(folder)
    with folders.held(folder):
        if not force and is_finished(folder, notebook):  # by another process, in between
            return folder, False
        _run(notebook, values, folder, force, how)
    return folder, True


def _run(notebook, values, folder, force, how):
    with _errors_named(notebook, folder):
        if force:
            paths.remove(folder)
            folders.make(folder)
        partial = _execute(notebook, values, folder, how)
        finished = pages.described(pages.still(parameters.load(partial)))
        pages.write_html(finished, folder / f"{notebook.stem}.html")
        finished.metadata.workbook = {"files": _files(folder, but=(partial, folder / notebook.name))}
        _write(finished, partial)
        os.replace(partial, folder / notebook.name)  # last: this file says that the run is finished


def refresh(notebook):
    """Runs a committed notebook anew with its defaults and stores it in its place. Raises RunError, NoSpaceError."""
    if record.commit().get("dirty"):
        print("Note: the working tree has uncommitted changes, so this run's record says dirty.", file=sys.stderr)
    folder = paths.child(paths.RUNS, "refresh", notebook.stem)
    with _errors_named(notebook, folder):
        paths.remove(folder)  # its outputs must not come from what an earlier run left
        folders.make(folder)
        _write(pages.repacked(pages.described(pages.tidied(parameters.load(_execute(notebook, {}, folder))))), notebook)
    return folder


def _files(folder, but):
    """The files below a run folder and their sizes, dict of relative name to bytes."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file not in but]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def is_finished(folder, notebook):
    """Whether the run ended and everything it wrote is there; says what is not."""
    executed = folder / notebook.name
    if not executed.is_file():
        return False
    try:
        files = parameters.load(executed).metadata.get("workbook", {}).get("files", {record.FILE: None})
        record.read(folder / record.FILE)
    except (NotebookError, RecordError) as error:
        print(f"Run again: {error}", file=sys.stderr)
        return False
    missing = [
        name for name, size in files.items() if _size(folder / name) is None or size not in (None, _size(folder / name))
    ]
    if missing:
        print(f"Run again: {paths.display_path(folder / missing[0])} is missing or was changed.", file=sys.stderr)
    return not missing


def _size(file):
    return file.stat().st_size if file.is_file() else None


def _write(nb, path):
    with paths.atomic_write(path) as part:
        nbformat.write(nb, part)


@contextmanager
def _errors_named(notebook, folder):
    """Whatever papermill, the kernel or the disk raise ends the run with its place named."""
    partial = _partial(notebook, folder)
    try:
        yield
    except KeyboardInterrupt:
        raise RunError(
            f"Interrupted: {notebook.stem} {_where(partial)}. Remedy: the same command resumes it."
        ) from None
    except Exception as error:
        kind = (
            NoSpaceError
            if paths.disk_full(error)
            else TimeLimitError
            if isinstance(error, TimeLimitError)
            else RunError
        )
        raise kind(
            f"Not finished: {notebook.stem} {_where(partial)}: {_why(error)}. "
            "Remedy: repair that, then give the same command again."
        ) from error


def _partial(notebook, folder):
    return folder / f"{notebook.stem}.partial.ipynb"


def _execute(notebook, values, folder, how={}):
    """Executes into `<notebook>.partial.ipynb` in the folder and returns its path, once the record bears it out."""
    partial = _partial(notebook, folder)
    paths.remove(partial)
    paths.remove(folder / record.FILE)
    nb = parameters.load(notebook)
    if values:
        nb = parameters.with_values(pages.relinked(nb, notebook.parent, folder), values)
    _write(nb, partial)
    _papermill(partial, notebook.parent, folder, **how)
    _check_record(folder, values)
    return partial


def _papermill(partial, home, folder, limit=None, bar=True):
    """Executes a notebook in its place, saved after each cell; `home` is the kernel's working folder."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    path = str(partial).replace("{", "{{").replace("}", "}}")  # papermill fills in names in braces
    environment, bar = _environment({folders.RUNNER: str(folder)}), bar and {"desc": partial.stem.split(".partial")[0]}
    with environment, kernels.transport() as transport, kernels.limited(folder, limit):
        papermill.execute_notebook(
            path,
            path,
            kernel_name="python3",
            cwd=home,
            kernel_manager_class=kernels.Kernel,
            config=Config({"KernelManager": transport, "Kernel": {"folder": str(folder)}}),
            progress_bar=bar,
        )


@contextmanager
def _environment(variables):
    """These variables for the kernel to inherit; a notebook may run another (20), whose own are put back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _check_record(folder, values):
    """The record is there, and is of the parameters that were asked for."""
    recorded = record.read(folder / record.FILE)["parameters"]
    if other := [name for name in values if recorded.get(name) != values[name]]:
        raise RunError(f"the record says {other[0]} = {recorded.get(other[0])!r}, asked was {values[other[0]]!r}")


def _where(partial):
    """Where a run stopped: the last cell that was started, and where the partial notebook lies."""
    if not partial.exists():
        return "before its first cell"
    try:
        cells = [cell for cell in parameters.load(partial).cells if cell.cell_type == "code"]
    except NotebookError:  # it was being written
        return f"while {paths.display_path(partial)} was written"
    started = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    if not started:
        return f"before its first cell, kept in {paths.display_path(partial)}"
    first_line = cells[started[-1]].source.strip().splitlines()[0]
    return f"in code cell {started[-1] + 1} (`{first_line}`), kept in {paths.display_path(partial)}"


def _why(error):
    if isinstance(error, papermill.PapermillExecutionError):
        return f"{error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


def _report(notebook, folder):
    """Prints where everything lies."""
    print(f"notebook  {paths.display_path(folder / notebook.name)}")
    print(f"page      {paths.display_path(folder / notebook.stem)}.html")
    print(f"record    {paths.display_path(folder / record.FILE)}")
    pictures = sorted(folder.rglob("*.png"))
    for place in sorted({picture.parent for picture in pictures}):
        print(f"pictures  {paths.display_path(place)}/ ({sum(picture.parent == place for picture in pictures)})")


def _list(notebook):
    """Prints the notebooks, or one notebook's parameters."""
    for path in [] if notebook else sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        print(path.stem)
    for one in parameters.declared(parameters.find(notebook)).values() if notebook else []:
        print(f"{one.name}: {one.kind}{' (required)' if one.required else f' = {one.default!r}'}\n    {one.comment}")


def _arguments(words):
    parser = argparse.ArgumentParser(
        "python -m lib.run", description="Run a notebook strictly, into its own run folder."
    )
    parser.add_argument("notebook", nargs="?", help="path or name of a notebook")
    parser.add_argument("-f", "--file", action="append", default=[], help="YAML file of parameters; a later one wins")
    parser.add_argument("-p", "--parameter", action="append", default=[], nargs=2, metavar=("NAME", "VALUE"))
    parser.add_argument("--force", action="store_true", help="empty the run folder and run again")
    parser.add_argument("--list", action="store_true", help="list the notebooks, or a notebook's parameters")
    parser.add_argument(
        "--refresh", action="store_true", help="run a committed notebook anew and store it in its place"
    )
    given = parser.parse_args(words)
    if not given.notebook and not given.list:
        parser.error("name a notebook; --list shows them")
    if given.refresh and (given.file or given.parameter):
        parser.error("--refresh runs the defaults: it takes neither -f nor -p")
    return given


def main(words=None):
    """The command; returns its exit status."""
    given = _arguments(words)
    try:
        with stopping_as_ctrl_c():
            status = exit_status(lambda: _list(given.notebook) if given.list else _obey(given))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `--list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its end
        return 0


@contextmanager
def stopping_as_ctrl_c():
    """Inside the block TERM and HUP end a run as Ctrl-C does, unless the caller has set them already (nohup)."""
    here = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    changed = [one for one in here if signal.getsignal(one) == signal.SIG_DFL]
    for one in changed:
        signal.signal(one, signal.default_int_handler)
    try:
        yield
    finally:
        for one in changed:
            signal.signal(one, signal.SIG_DFL)


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
