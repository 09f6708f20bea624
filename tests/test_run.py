"""The strict runner: refuses before anything runs, one folder for the same parameters, nothing lost on the way."""

import errno
import json
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lib import paths
from lib.errors import DeviceError, NoSpaceError, NotebookError, ParameterError, RangeError
from lib.runs import parameters, record, runner

CELL = """PERSON: str = "people:1234"  # who
STEPS: int = 3  # how many
RATE: float = 0.5  # step size
NAMES: list[str] = ["a"]  # of what
GAMMA: float | None = None  # where tuning ends
QUIET: bool = False  # no pictures
"""
WRITE = """from lib import parameters, record
record.Record("t", {name: globals()[name] for name in ("PERSON", "STEPS", "RATE", "NAMES", "GAMMA", "QUIET")}, 0, "cpu").write()"""


def notebook(path, *cells, parameters_cell=CELL):
    """A small notebook: a parameters cell and these."""
    made = [new_markdown_cell("# Small"), new_code_cell(parameters_cell, metadata={"tags": ["parameters"]})]
    made += [new_code_cell(cell) for cell in cells]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def small(tmp_path):
    return notebook(tmp_path / "small.ipynb", "print(STEPS + 1)", WRITE)


def refusal(capsys, *words):
    """What the command says on stderr when it refuses; it must have made no folder."""
    assert runner.main([str(word) for word in words]) == 1
    assert not paths.RUNS.exists()
    return capsys.readouterr().err


# ---- parameters, without a kernel


def test_defaults_are_read_with_type_and_comment(small):
    known = parameters.declared(small)
    assert {one.name: one.default for one in known.values()} == parameters.resolve(small)
    assert known["RATE"] == parameters.Parameter("RATE", "float", 0.5, False, "step size")


@pytest.mark.parametrize(
    "words, says",
    [
        (["-p", "STPS", "5"], "Unknown parameter: STPS.*did you mean STEPS"),
        (["-p", "STEPS", "1.5"], "STEPS from -p: '1.5' is str, not int"),
        (["-p", "STEPS", "-1"], "STEPS out of range: -1"),
        (["-p", "RATE", "0"], "RATE out of range: 0"),
        (["-p", "NAMES", "[]"], "NAMES out of range"),
        (["-p", "NAMES", "[a, a]"], "each once"),
        (["-p", "RATE", "nan"], "nan is not finite"),
        (["-p", "RATE", "inf"], "inf is not finite"),
        (["-p", "QUIET", "1"], "1 is int, not bool"),
        (["-p", "GAMMA", "1.5"], "GAMMA out of range: 1.5"),
        (["-p", "NAMES", "a"], "'a' is no list"),
        (["-p", "NAMES", "[a, 1]"], "1 is int, not str"),
        (["-f", "missing.yaml"], "Cannot read the params file: missing.yaml"),
    ],
)
def test_the_command_refuses_before_anything_runs(small, capsys, words, says):
    assert re.search(says, refusal(capsys, small, *words))


@pytest.mark.parametrize(
    "text, says",
    [
        ("RATE: 1e-4", "YAML reads it as text: write 1.0e-4"),
        ("RATE: 1e5", r"write 1.0e\+5"),
        ("RATE: .inf", "inf is not finite"),
        ("STEPS: true", "True is bool, not int"),
        ("STEPS: 2.0", "2.0 is float, not int"),
        ("STEPS: '3'", "'3' is str, not int"),
        ("PERSON: 2020-01-01", "is date, not str"),
        ("NAMES: a", "is no list"),
        ("on: 1", "Unknown parameter: True"),
        ("STEPS: 1\nSTEPS: 2", "given twice: STEPS"),
        ("- 1", "holds no parameters"),
        ("", "holds no parameters"),
        ("STEPS: [", "is not YAML"),
        ("notebook: other\nSTEPS: 1", "is for other, not small"),
    ],
)
def test_params_files_are_held_to_the_notebooks_types(small, tmp_path, text, says):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match=says):
        parameters.resolve(small, [file])


def test_the_number_that_the_message_proposes_is_taken(small, tmp_path):
    (tmp_path / "p.yaml").write_text("notebook: small\nRATE: 1.0e-4\nSTEPS: 7")
    (tmp_path / "q.yaml").write_text("STEPS: 8\nGAMMA: 1")
    found = parameters.resolve(
        small, [tmp_path / "p.yaml", tmp_path / "q.yaml"], [("NAMES", "[x, y]"), ("QUIET", "true")]
    )
    assert found == {
        "PERSON": "people:1234",
        "STEPS": 8,
        "RATE": 1e-4,
        "NAMES": ["x", "y"],
        "GAMMA": 1.0,
        "QUIET": True,
    }
    assert isinstance(found["GAMMA"], float)
    assert parameters.resolve(small, (), [("RATE", "1e-4"), ("GAMMA", "null")])["RATE"] == 1e-4


def test_a_parameter_without_a_value_is_required(tmp_path):
    path = notebook(tmp_path / "n.ipynb", parameters_cell="PERSON: str  # who")
    with pytest.raises(ParameterError, match="Missing parameter: PERSON"):
        parameters.resolve(path)
    assert parameters.resolve(path, (), [("PERSON", "people:1")]) == {"PERSON": "people:1"}


def test_an_unknown_device_is_refused_with_those_there_are(tmp_path):
    path = notebook(tmp_path / "n.ipynb", parameters_cell="DEVICE: str = 'cpu'  # where")
    with pytest.raises(DeviceError, match="'gpu'.*cpu"):
        parameters.resolve(path, (), [("DEVICE", "gpu")])
    path = notebook(tmp_path / "n.ipynb", parameters_cell="TEXTUAL_STEPS: int = -1  # how many")
    with pytest.raises(RangeError):  # the notebook's own default is held to it too
        parameters.resolve(path)


@pytest.mark.parametrize(
    "cell, says",
    [
        ("STEPS = 3  # how many", "Not a parameter"),
        ("STEPS: int = 3", "without a comment: STEPS"),
        ("STEPS: int = 1 + 2  # sum", "Not a parameter"),
        ("STEPS: int = 3.0  # how many", "3.0 is float, not int"),
        ("STEPS: Thing = 3  # how many", "Thing"),
        ("import os", "Not a parameter"),
        ("STEPS: int =", "is not Python"),
    ],
)
def test_a_parameters_cell_that_breaks_the_contract_is_refused(tmp_path, cell, says):
    with pytest.raises(NotebookError, match=says):
        parameters.declared(notebook(tmp_path / "n.ipynb", parameters_cell=cell))


def test_two_parameters_cells_none_and_no_notebook_are_refused(tmp_path):
    path = notebook(tmp_path / "n.ipynb", "x = 1")
    nb = nbformat.read(path, 4)
    nb.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(nb, path)
    with pytest.raises(NotebookError, match="2 cells are tagged"):
        parameters.declared(path)
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), path)
    with pytest.raises(NotebookError, match="0 cells are tagged"):
        parameters.declared(path)
    for text in ("", "{}", "[]", "{'"):
        path.write_text(text)
        with pytest.raises(NotebookError, match="Not a notebook"):
            parameters.declared(path)


def test_an_unknown_notebook_is_refused(capsys):
    assert "No such notebook: 99_nothing" in refusal(capsys, "99_nothing")


def test_the_folder_follows_the_parameters(small, runs, tmp_path):
    values = parameters.resolve(small)
    folder = runner.folder_of(small, values)
    assert folder.parent == runs / "small" and folder.name.startswith("people-1234-")
    assert runner.folder_of(small, dict(reversed(values.items()))) == folder
    assert (
        folder == runs / "small" / "people-1234-90e4b4ff"
    )  # the hash is the same on every machine and in every session
    assert len({runner.folder_of(small, values | {"STEPS": n}) for n in (1, 2, 3)}) == 3
    (somebody := tmp_path / "somebody" / "references").mkdir(parents=True)
    for people in ({"PERSON": str(somebody.parent)}, {"PEOPLE": ["people:9", str(somebody.parent)]}):
        (somebody / "1.png").write_bytes(b"one")
        first = runner.folder_of(small, people)
        (somebody / ".hidden").write_bytes(b"by a file manager")
        assert runner.folder_of(small, people) == first
        (somebody / "1.png").write_bytes(b"another photograph")
        assert runner.folder_of(small, people) != first
    for person in ("../../etc", "/etc/passwd", "..", "a/b c", ""):
        assert runner.folder_of(small, values | {"PERSON": person}).parent == runs / "small"


# ---- with papermill and a kernel


def test_a_run_ends_in_its_folder_once(small, runs, capsys):
    words = [str(small), "-p", "STEPS", "5"]
    assert runner.main(words) == 0
    (folder,) = (runs / "small").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["record.json", "small.html", "small.ipynb"]
    outputs = [
        output.text for cell in nbformat.read(folder / "small.ipynb", 4).cells for output in cell.get("outputs", [])
    ]
    assert outputs[0] == "6\n"
    assert record.read(folder / "record.json")["parameters"]["STEPS"] == 5
    assert "https://cdnjs.cloudflare.com/ajax/libs/require" not in (folder / "small.html").read_text()

    before = (folder / "small.ipynb").stat().st_mtime_ns
    capsys.readouterr()
    assert runner.main(words) == 0
    assert "finished earlier" in capsys.readouterr().out and (folder / "small.ipynb").stat().st_mtime_ns == before
    (folder / "checkpoint").write_text("of the first run")
    assert runner.main([*words, "--force"]) == 0
    assert (folder / "small.ipynb").stat().st_mtime_ns > before and not (folder / "checkpoint").exists()


def test_a_failed_run_keeps_its_partial_notebook_and_resumes(tmp_path, capsys):
    resume = (
        "import os, pathlib\nkept = pathlib.Path(os.environ['WORKBOOK_RUN_FOLDER'], 'kept')\n"
        "if not kept.exists():\n    kept.write_text('half')\n    raise ValueError('the first time')"
    )
    path = notebook(tmp_path / "fails.ipynb", "print('before')", resume, WRITE)
    assert runner.main([str(path)]) == 1
    says = capsys.readouterr().err
    (folder,) = (paths.RUNS / "fails").iterdir()
    assert "ValueError: the first time" in says and "code cell 4 (`import os, pathlib`)" in says
    assert sorted(path.name for path in folder.iterdir()) == ["fails.partial.ipynb", "kept"]
    assert runner.main([str(path)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["fails.html", "fails.ipynb", "kept", "record.json"]


@pytest.mark.parametrize(
    "cell, says",
    [
        ("import os; os.kill(os.getpid(), 9)", "Kernel died"),  # papermill writes 'completed' into every cell
        ("pass", "No record"),
        (f"STEPS = 99\n{WRITE}", "the record says STEPS = 99, asked was 3"),
    ],
)
def test_only_a_true_record_counts_as_finished(tmp_path, capsys, cell, says):
    path = notebook(tmp_path / "odd.ipynb", cell)
    assert runner.main([str(path)]) == 1
    assert says in capsys.readouterr().err
    (folder,) = (paths.RUNS / "odd").iterdir()
    assert (folder / "odd.partial.ipynb").exists() and not (folder / "odd.ipynb").exists()


def test_a_full_disk_has_its_own_name(small, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "_papermill", full)
    with pytest.raises(NoSpaceError, match="small before its first cell"):
        runner.run(small, parameters.resolve(small))


def test_ctrl_c_reaches_the_kernel_keeps_the_partial_and_says_how_to_resume(tmp_path, monkeypatch):
    waits = (
        "import os, pathlib, time\nhere = pathlib.Path(os.environ['WORKBOOK_RUN_FOLDER'])\n(here / 'started').touch()\n"
        "try:\n    time.sleep(60)\nfinally:\n    (here / 'checkpoint').touch()"
    )
    path = notebook(tmp_path / "long.ipynb", waits, WRITE)
    monkeypatch.setenv("WORKBOOK_RUNS", str(tmp_path / "runs"))
    process = subprocess.Popen(
        [sys.executable, "-m", "lib.run", str(path)],
        cwd=paths.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/long/*/started")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, says = process.communicate(timeout=30)
    assert process.returncode == 1 and "Interrupted: long" in says and "the same command resumes it" in says
    (folder,) = (tmp_path / "runs" / "long").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "long.partial.ipynb", "started"]


def test_refresh_stores_clean_outputs_in_place_and_keeps_the_old_ones_on_failure(tmp_path):
    noise = "import sys\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(2)): pass\nprint('warn', file=sys.stderr)\nprint('kept')"
    path = notebook(tmp_path / "book.ipynb", noise, WRITE)
    assert runner.main([str(path), "--refresh"]) == 0
    nb = nbformat.read(path, 4)
    assert set(nb.metadata) == {"kernelspec", "language_info"} and "version" not in nb.metadata.language_info
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert all(set(cell.metadata) <= {"tags"} for cell in nb.cells) and code[0].metadata.tags == ["parameters"]
    kinds = [(output.output_type, output.get("name")) for output in code[1].outputs]
    assert ("stream", "stdout") in kinds and ("stream", "stderr") not in kinds
    assert runner.WIDGET not in json.dumps(nb)

    stored = path.read_text().replace("print('kept')", "1 / 0")
    path.write_text(stored)
    assert runner.main([str(path), "--refresh"]) == 1
    assert path.read_text() == stored


def test_list_shows_the_parameters(small, capsys):
    assert runner.main([str(small), "--list"]) == 0
    assert "STEPS: int = 3\n    how many" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, bad, good",
    [
        ("SAMPLING_STEPS", "1", "2"),
        ("SAMPLING_STEPS", "1001", "1000"),
        ("TEXTUAL_STEPS", "0", "1"),
        ("INPUTS", "0", "1"),
        ("SEEDS", "-3", "1"),
        ("SEED", "-1", "0"),
        ("LORA", "-1", "0"),
        ("PRIOR", "-1", "0"),
        ("BATCH", "0", "1"),
        ("MODEL_RATE", "-1e-4", "1e-4"),
        ("PEOPLE", "[]", "[people:9]"),
    ],
)
def test_numbers_that_would_fail_after_minutes_are_refused_at_once(name, bad, good):
    notebook = parameters.find("03_dual_pivot_ablation")
    with pytest.raises(RangeError, match=f"{name} out of range.*Remedy"):
        parameters.resolve(notebook, typed=[(name, bad)])
    assert parameters.resolve(notebook, typed=[(name, good)])[name] == yaml.safe_load(good.replace("1e-4", "1.0e-4"))


def test_a_kernel_knows_whether_its_parameters_are_the_committed_ones():
    notebook = parameters.find("03_dual_pivot_ablation")
    own = parameters.resolve(notebook)
    assert parameters.is_default("03_dual_pivot_ablation", own)
    assert not parameters.is_default("03_dual_pivot_ablation", {**own, "SEED": 1})
