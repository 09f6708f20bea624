"""Executes a notebook in this process, which has imported torch already: half of a short run is a kernel's start."""

import contextlib
import sys

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output

from lib.runs import folders, runner


def papermill(partial, home, folder):
    """Stands for `lib.runs.runner._papermill`: every cell, with its outputs, or the first error."""
    nb = nbformat.read(partial, 4)
    main = sys.modules["__main__"]  # whose place the shell takes
    shell = InteractiveShell.instance()
    shell.reset()
    select_figure_formats(shell, {"png"})
    try:
        with contextlib.chdir(home), runner._environment({folders.RUNNER: str(folder)}):
            for cell in nb.cells:
                if cell.cell_type == "code":
                    cell.outputs = _outputs(shell, cell.source)
    finally:
        InteractiveShell.clear_instance()
        sys.modules["__main__"] = main
        nbformat.write(nb, partial)


def _outputs(shell, source):
    with capture_output() as said:
        result = shell.run_cell(source)
    result.raise_error()
    outputs = [nbformat.v4.new_output("stream", text=said.stdout)] if said.stdout else []
    return outputs + [
        nbformat.v4.new_output("display_data", data=shown.data, metadata=shown.metadata or {}) for shown in said.outputs
    ]
