"""What a committed notebook must be besides right: one parameters cell, small cells, clean and compared outputs."""

import ast
import json
import re
import statistics
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lib import paths
from lib.runs import pages, parameters
from lib.user_study import study_file

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
YAML = {path: yaml.safe_load(path.read_text()) for path in sorted(paths.PARAMS.glob("*.yaml"))}
STUDIES = [path for path, held in YAML.items() if study_file.HEADER in held]
PARAMS = [path for path in YAML if path not in STUDIES and path.stem != "slurm"]  # slurm.yaml holds no parameters
MAIN = {
    "00_start_here",
    "01_degradation_synthesis",
    "02_blind_restoration",
    "03_two_pivots",
    "04_dual_pivot_ablation",
    "10_pretrain_tiny_system",
    "20_new_person",
}
OPENING = ("What you learn", "Run time", "You may skip")
WIDTH = 100  # characters of a code line: what a notebook shows beside the file browser
MACHINE = re.compile(r"(?<![\w.])/(?:work|home|root|tmp|Users|var|mnt|opt)/")  # where this machine keeps its things

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def outputs_of(path):
    return [output for cell in code_of(path) for output in cell.outputs]


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def plain_python(cell):
    """The cell without IPython's magics."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M)


def test_the_main_sequence_is_there():
    assert MAIN <= {path.stem for path in NOTEBOOKS}


@each_notebook
def test_parameters_keep_the_contract(path):
    assert parameters.resolve(path)  # one cell, typed literals with comments, within their ranges


@pytest.mark.parametrize("path", PARAMS, ids=lambda path: path.stem)
def test_params_files_fit_the_notebook_they_name(path):
    meant = yaml.safe_load(path.read_text())[parameters.HEADER]
    for notebook in map(parameters.find, meant if isinstance(meant, list) else [meant]):
        known = parameters.declared(notebook)
        for name, value in parameters.from_file(path, notebook).items():
            assert parameters.conform(value, known[name].kind) == value


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_file_in_params_that_names_no_notebook_is_a_user_study(path):
    assert study_file.read(path).parts and parameters.HEADER not in yaml.safe_load(path.read_text())


@each_notebook
def test_kernel_and_metadata_are_of_no_machine(path):
    nb = nbformat.read(path, 4)
    assert nb.metadata.kernelspec.name == nb.metadata.kernelspec.display_name == "python3"
    assert set(nb.metadata) == {"kernelspec", "language_info"} and set(nb.metadata.language_info) == {"name"}
    assert all(set(cell.metadata) <= {"tags"} for cell in nb.cells)


@each_notebook
def test_stored_outputs_are_those_of_one_run_from_the_top(path):
    code = code_of(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert outputs_of(path)  # nbval passes a notebook whose outputs were stripped
    assert not [cell for cell in code if "nbval-skip" in cell.metadata.get("tags", [])]


@each_notebook
def test_stored_outputs_hold_nothing_that_cannot_be_compared(path):
    outputs = outputs_of(path)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert not kinds & {"image/svg+xml", "application/vnd.jupyter.widget-view+json"}
    texts = [
        text
        for output in outputs
        for text in [output.get("text", ""), *output.get("data", {}).values()]
        if isinstance(text, str)
    ]
    assert not [text for text in texts if MACHINE.search(text) or str(paths.ROOT) in text]


@each_notebook
def test_cells_are_small(path):
    code = code_of(path)
    assert max(len(lines_of(cell)) for cell in code) <= 40
    assert statistics.median(len(lines_of(cell)) for cell in code) <= 6
    definitions = [
        node
        for cell in code
        for node in ast.walk(ast.parse(plain_python(cell)))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    assert not [node.name for node in definitions if node.end_lineno - node.lineno >= 15]  # longer ones live in lib/
    assert not [cell.source for cell in code if cell.source.rstrip().endswith(";")]  # hides nothing from nbval
    assert path.stat().st_size < 800_000


@each_notebook
def test_code_lines_fit_a_page(path):
    long = [line for cell in code_of(path) for line in cell.source.splitlines() if len(line) > WIDTH]
    assert not long


@each_notebook
def test_the_parameters_that_a_newcomer_turns_come_first(path):
    """Up to six stand under a comment line of their own; the rest in groups, each under its comment line."""
    (cell,) = [cell for cell in code_of(path) if "parameters" in cell.metadata.get("tags", [])]
    groups = []
    for line in lines_of(cell):
        if line.startswith("#"):
            groups.append(0)
        elif groups:
            groups[-1] += line[:1].isupper()  # not the second line of a long literal
    assert lines_of(cell)[0].startswith("#") and 0 < groups[0] <= 6
    assert sum(groups) == len(parameters.declared(path)) and all(groups)


@each_notebook
def test_every_figure_has_an_alternative_text(path):
    """`python -m lib.run --refresh` stores them."""
    pictures = [output for output in outputs_of(path) if "image/png" in output.get("data", {})]
    assert all(output.metadata.get("image/png", {}).get("alt") for output in pictures)


@each_notebook
def test_what_it_writes_goes_to_the_folder_of_its_record(path):
    """So a run by hand never overwrites another person's results."""
    source = "\n".join(cell.source for cell in code_of(path))
    assert "Record.here(" in source and "run_folder" not in source


@each_notebook
def test_its_relative_links_lead_somewhere(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    links = {match[1] for source in cells for match in pages.LINK.finditer(source)}
    assert not [link for link in links if not (path.parent / link).exists()]


@each_notebook
def test_it_opens_with_its_claim_and_ends_with_its_record(path):
    nb = nbformat.read(path, 4)
    opening = nb.cells[0].source
    title, claim = [line for line in opening.splitlines() if line.strip()][:2]
    assert nb.cells[0].cell_type == "markdown" and title.startswith("# ") and not claim.startswith(("#", "**What"))
    assert [part for part in OPENING if part not in opening] == []
    assert re.search(r"record\w*\.write\(", code_of(path)[-1].source, re.I)


def test_the_strict_check_sees_a_changed_number_and_only_that(tmp_path):
    """nbval as `make test` runs it: addresses, times and stderr are masked, a number is not."""

    def cell(source, *outputs, count):
        return new_code_cell(source, outputs=list(outputs), execution_count=count)

    def said(text):
        return new_output("stream", name="stdout", text=text)

    same = cell(
        "import sys\nprint(object(), 'took 2.5 s')\nprint('noise', file=sys.stderr)",
        said("<object object at 0x7f0123456789> took 9.0 s\n"),
        count=1,
    )
    changed = cell("print('PSNR 20.1')", said("PSNR 20.2\n"), count=2)
    stripped = cell("print('new')", count=3)
    nbformat.write(new_notebook(cells=[same, changed, stripped]), tmp_path / "n.ipynb")
    words = ["--nbval", "-c", "../pyproject.toml", "-p", "no:cacheprovider", "-q", "-rA", "../conftest.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path / "n.ipynb")],
        cwd=paths.NOTEBOOKS,  # from there its settings are found, too
        capture_output=True,
        text=True,
    )
    outcomes = {int(cell): word for word, cell in re.findall(r"^(PASSED|FAILED) .*::Cell (\d)", done.stdout, re.M)}
    assert outcomes == {0: "PASSED", 1: "FAILED", 2: "FAILED"}, done.stdout


@each_notebook
def test_it_is_strict_json(path):
    """JupyterLab refuses Infinity and NaN, which Python's json lets through."""
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path.name}"))
