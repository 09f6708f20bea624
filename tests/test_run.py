"""The strict runner: refuses before anything runs, one folder for the same parameters, nothing lost on the way."""

import base64
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from lib import paths
from lib.errors import DeviceError, NoSpaceError, NotebookError, ParameterError, RangeError
from lib.runs import folders, pages, parameters, ranges, record, runner

CELL = """PERSON: str = "people:1234"  # who
STEPS: int = 3  # how many
RATE: float = 0.5  # step size
NAMES: list[str] = ["a"]  # of what
GAMMA: float | None = None  # where tuning ends
QUIET: bool = False  # no pictures
"""
WRITE = """from lib.runs import record
names = ("PERSON", "STEPS", "RATE", "NAMES", "GAMMA", "QUIET")
record.Record("t", {name: globals()[name] for name in names}, 0, "cpu").write()"""


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


def test_params_files_are_bounded(small, tmp_path):
    """Each of these hung, or took a minute."""
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(30))
    (tmp_path / "bomb.yaml").write_text(bomb)
    (tmp_path / "large.yaml").write_text("STEPS: 1\n" + "#" * 2**20)
    (tmp_path / "many.yaml").write_text("".join(f"K{i}: 1\n" for i in range(30_000)))
    (tmp_path / "deep.yaml").write_text("STEPS: " + "[" * 5000)
    (tmp_path / "latin.yaml").write_bytes(b"PERSON: \xe9")
    says = {"bomb": "alias", "large": "more than 1 MB", "many": "K0", "deep": "not YAML", "latin": "not UTF-8"}
    for name, words in says.items():
        with pytest.raises(ParameterError, match=words):
            parameters.resolve(small, [tmp_path / f"{name}.yaml"])
    for special in ("/dev/zero", tmp_path):
        with pytest.raises(ParameterError, match="is no file"):
            parameters.resolve(small, [special])


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


def test_comment_lines_group_the_parameters(tmp_path):
    cell = "# First\nPERSON: str = 'people:9'  # who\n\n# For real photographs\nALIGNER: str = ''  # a pack"
    known = parameters.declared(notebook(tmp_path / "n.ipynb", parameters_cell=cell))
    assert {name: one.comment for name, one in known.items()} == {"PERSON": "who", "ALIGNER": "a pack"}


def test_values_take_the_place_of_defaults_and_the_rest_stays_as_written(tmp_path):
    cell = "# First\nPERSON: str  # wer, größer\nRATE: float = 2.0e-4  # step\n"
    cell += "NAMES: list[str] = ['é',\n    'b']  # of\nN: int = 1  # n"
    nb = nbformat.read(notebook(tmp_path / "n.ipynb", parameters_cell=cell), 4)
    values = {"PERSON": "people:9", "RATE": 2e-4, "NAMES": ["c"], "N": 2}
    assert parameters.with_values(nb, values).cells[1].source.splitlines() == [
        "# First",
        "PERSON: str = 'people:9'  # wer, größer",
        "RATE: float = 2.0e-4  # step",
        "NAMES: list[str] = ['c']  # of",
        "N: int = 2  # n",
    ]
    assert nb.cells[1].source == cell


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


def test_an_installed_copy_without_notebooks_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path)
    with pytest.raises(NotebookError, match="clone the repository"):
        parameters.find("00_start_here")


def test_an_unknown_notebook_is_refused(capsys):
    assert "No such notebook: 99_nothing" in refusal(capsys, "99_nothing")


def test_the_folder_follows_the_parameters(small, runs, tmp_path):
    values = parameters.resolve(small)
    folder = folders.folder_of(small.stem, values)
    assert folder.parent == runs / "small" and folder.name.startswith("people-1234-")
    assert folders.folder_of(small.stem, dict(reversed(values.items()))) == folder
    assert (
        folder == runs / "small" / "people-1234-90e4b4ff"
    )  # the hash is the same on every machine and in every session
    assert len({folders.folder_of(small.stem, values | {"STEPS": n}) for n in (1, 2, 3)}) == 3
    (somebody := tmp_path / "somebody" / "references").mkdir(parents=True)
    for people in ({"PERSON": str(somebody.parent)}, {"PEOPLE": ["people:9", str(somebody.parent)]}):
        (somebody / "1.png").write_bytes(b"one")
        first = folders.folder_of(small.stem, people)
        (somebody / ".hidden").write_bytes(b"by a file manager")
        assert folders.folder_of(small.stem, people) == first
        (somebody / "1.png").write_bytes(b"another photograph")
        assert folders.folder_of(small.stem, people) != first
    for person in ("../../etc", "/etc/passwd", "..", "a/b c", ""):
        assert folders.folder_of(small.stem, values | {"PERSON": person}).parent == runs / "small"


def test_weights_that_were_trained_again_are_another_run(tmp_path, runs):
    (system := tmp_path / "system" / "unet").mkdir(parents=True)
    weights = np.random.default_rng(0).integers(0, 256, 2**23, dtype=np.uint8)  # more than is read in whole
    (system / "model.safetensors").write_bytes(weights.tobytes())
    values = {"SYSTEM": str(system.parent), "RECORDED": ""}
    first = folders.folder_of("n", values)
    assert (
        folders.folder_of("n", values) == first
        and folders.folder_of("n", values, live=True).parent == runs / "live" / "n"
    )
    (system / "model.safetensors").write_bytes((weights ^ 1).tobytes())
    assert folders.folder_of("n", values) != first


def test_shipped_weights_that_were_trained_again_are_another_run(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(paths, "PHOTO_SYSTEM", tmp_path)
    values = {"SYSTEM": "", "PERSON": "people:1009"}
    before = folders.folder_of("x", values)
    (tmp_path / "unet.safetensors").write_bytes(b"new")
    assert folders.folder_of("x", values) != before


def test_a_folder_of_photographs_that_is_not_there_is_named(tmp_path):
    for name in ("PHOTOGRAPHS", "REAL"):
        with pytest.raises(ParameterError, match=f"{name}.*nowhere.*Remedy"):
            ranges.check_places({name: str(tmp_path / "nowhere")})


def test_hostile_names_give_a_folder_and_no_crash(runs):
    for name in ("x" * 300, "~nosuchuser/x", "a\0b", "/dev/zero", "/proc/self/mem"):
        assert folders.folder_of("n", {"PERSON": name}).parent == runs / "n"


def test_choices_are_those_of_the_modules_that_offer_them():
    from lib.degradation.recipes import RECIPES
    from lib.people import procedural
    from lib.people.picture_files import SUFFIXES
    from lib.restoration.photographs import OTHERS
    from lib.studies.arms import ARMS
    from lib.training import one_step_training

    assert ranges.CHOICES["ARMS"] == tuple(ARMS) and set(ranges.CHOICES["ARM"]) == set(ARMS) - {"blind"}
    assert set(ranges.RECIPES) == set(RECIPES) and set(ranges.CHOICES["OTHERS"]) == set(OTHERS)
    assert ranges.CHOICES["ABLATIONS"] == tuple(one_step_training.VARIANTS)
    assert set(ranges.PICTURES) == set(SUFFIXES)
    training = [n for n in range(10) if procedural.ProceduralPerson(n).split == "train"]
    assert training == list(ranges.TRAINING_DIGITS)


def test_an_empty_recipe_is_taken_only_where_it_is_the_default():
    for name in ("00_start_here", "03_two_pivots", "13_held_out_photographs"):
        assert parameters.resolve(parameters.find(name))["RECIPE"] == ""
    with pytest.raises(RangeError, match="RECIPE out of range.*Remedy"):
        parameters.resolve(parameters.find("02_blind_restoration"), typed=[("RECIPE", "")])


@pytest.mark.parametrize(
    "name, text",
    [("ARM", "blind"), ("ARM", "dual"), ("RECIPE", "nosuch"), ("OTHERS", "gone"), ("TRAINED", "half")]
    + [("SEED", str(2**70)), ("BATCH", "1000000000"), ("LORA", "1000000"), ("TEXTUAL_RATE", "1e30")],
)
def test_what_failed_in_the_middle_of_the_notebook_is_refused_at_once(name, text):
    with pytest.raises(RangeError, match=f"{name} out of range.*Remedy"):
        parameters.resolve(parameters.find("00_start_here"), typed=[(name, text)])


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("PERSON", "people:abc", "No such person"),
        ("PERSON", "people:-1", "No such person"),
        ("PERSON", "", "No such person"),
        ("PERSON", "x" * 300, "No such person"),
        ("PERSON", "~nosuchuser/x", "No such person"),
        ("PERSON", "/", "No photographs"),
        ("PERSON", "people:1230", "Training person"),
        ("SYSTEM", "nowhere", "No system folder"),
        ("SYSTEM", "/", "No system folder"),
    ],
)
def test_people_and_systems_that_are_not_there_are_refused_before_a_kernel_starts(runs, capsys, name, value, says):
    assert says in refusal(capsys, "00_start_here", "-p", name, value)


def test_people_who_lend_an_encoder_are_checked_like_the_others():
    lent = {"SECOND": "people:1001"}, {"DONORS": ["people:1009", "people:1001"]}
    for values in (*lent, {"SOURCE": "people:1001"}, {"SOURCES": ["people:1001"]}, {"THREE": ["people:1001"]}):
        with pytest.raises(ParameterError, match="Training person: people:1001.*Remedy"):
            ranges.check_places({"SCORER": "", **values})


def test_a_plain_folder_of_photographs_is_a_person(tmp_path):
    (tmp_path / "1.JPG").touch()
    ranges.check_places({"PERSON": str(tmp_path), "SCORER": "x", "PEOPLE": ["people:2009"]})
    ranges.check_places(
        {"PERSON": "people:1230", "PEOPLE": 12, "SYSTEM": "random"}
    )  # nothing is measured on the person


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


def test_a_run_that_lost_a_file_is_not_finished(tmp_path, monkeypatch, capsys):
    """Emptied notebooks and deleted pictures were not noticed."""
    path = notebook(tmp_path / "n.ipynb")
    values = parameters.resolve(path)

    def executed(partial, home, folder):
        record.Record("n", values, 0, "cpu", folder).write()
        (folder / "picture.png").write_text("x")

    monkeypatch.setattr(runner, "_papermill", executed)
    folder, ran = runner.run(path, values)
    for spoil in (lambda: (folder / "picture.png").unlink(), lambda: (folder / "n.ipynb").write_text("")):
        assert not runner.run(path, values)[1]
        spoil()
        assert runner.run(path, values)[1] and "Run again" in capsys.readouterr().err
    assert (folder / "picture.png").is_file()


def test_the_page_has_alternative_texts_working_links_and_each_parameter_once(tmp_path, runs):
    figure = "from lib.runs import figures\nimport matplotlib.pyplot as plt\nimport numpy as np\n"
    figure += "figures.grid([[np.zeros((8, 8, 3), np.uint8)]], ['ada'], ['blind'])"
    path = notebook(tmp_path / "n.ipynb", figure, "_ = plt.plot([1])", WRITE)
    nb = nbformat.read(path, 4)
    nb.cells[0].source = "# Small <title>\n[other](other.ipynb#end) [gone](gone.ipynb) [web](https://example.org/x)"
    nbformat.write(nb, path)
    (tmp_path / "other.ipynb").touch()
    assert runner.main([str(path), "-p", "STEPS", "7"]) == 0
    (folder,) = (runs / "n").iterdir()
    page, executed = (folder / "n.html").read_text(), nbformat.read(folder / "n.ipynb", 4)
    texts = re.findall(r'<img alt="([^"]*)"', page)
    assert texts == ["Pictures, rows: ada; columns: blind", "Figure under the heading: Small &lt;title&gt;"]
    assert page.count("<img") == 2 and "No description has been provided" not in page
    links = re.findall(r"\]\(([^)]*)\)", executed.cells[0].source)
    assert links[1:] == ["gone.ipynb", "https://example.org/x"]
    assert (folder / links[0].removesuffix("#end")).resolve() == tmp_path / "other.ipynb" and links[0].endswith("#end")
    code = [cell.source for cell in executed.cells if cell.cell_type == "code"]
    assert len(code) == 4 and "STEPS: int = 7  # how many" in code[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_runner_that_dies_takes_its_kernel_with_it(tmp_path, monkeypatch, number):
    computes = (
        "import os, pathlib\nhere = pathlib.Path(os.environ['WORKBOOK_RUN_FOLDER'])\n"
        "(here / 'part').write_text(str(os.getpid()))\nos.replace(here / 'part', here / 'kernel')\n"
        "while True: sum(range(10**5))"
    )
    path = notebook(tmp_path / "long.ipynb", computes, WRITE)
    process, (kernel,) = started(path, tmp_path, monkeypatch, "kernel")
    pid = int(kernel.read_text())
    process.send_signal(number)
    _, says = process.communicate(timeout=60)
    assert number == signal.SIGKILL or "the same command resumes it" in says
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(pid)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def default_sighup():
    """Under nohup the tests, and what they start, would ignore SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def started(path, tmp_path, monkeypatch, name):
    """The command in a process of its own, and the file `name` that its notebook writes when it gets there."""
    monkeypatch.setenv("WORKBOOK_RUNS", str(tmp_path / "runs"))
    words = [sys.executable, "-m", "lib.run", str(path)]
    how = dict(cwd=paths.ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    process = subprocess.Popen(words, **how, preexec_fn=default_sighup)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(f"runs/*/*/{name}")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process, list(tmp_path.glob(f"runs/*/*/{name}"))


def test_what_is_in_the_way_of_the_runs_is_named(small, runs, capsys):
    runs.write_text("a file")
    assert runner.main([str(small)]) == 1
    assert re.search("RunError: Cannot write to.*Not a directory.*WORKBOOK_RUNS", capsys.readouterr().err)
    assert runner.main([str(small), "--force"]) == 1


def test_a_long_temporary_folder_and_a_name_that_is_not_utf8(tmp_path, monkeypatch, capsys):
    (long := tmp_path / ("t" * 120)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    path = notebook(tmp_path / "n.ipynb", WRITE)
    assert runner.main([str(path)]) == 0
    path = path.rename(tmp_path / os.fsdecode(b"n\xff.ipynb"))
    assert runner.main([str(path)]) == 1
    assert "Name is not UTF-8" in capsys.readouterr().err


def test_a_list_that_nobody_reads_to_its_end_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lib.run", "--list"], cwd=paths.ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failed_run_keeps_its_partial_notebook_and_resumes(tmp_path, capsys):
    resume = (
        "import os, pathlib\nkept = pathlib.Path(os.environ['WORKBOOK_RUN_FOLDER'], 'kept')\n"
        "if not kept.exists():\n    kept.write_text('half')\n    raise ValueError('the first time')"
    )
    path = notebook(tmp_path / "fails.ipynb", "print('before')", resume, WRITE)
    assert runner.main([str(path)]) == 1
    says = capsys.readouterr().err
    (folder,) = (paths.RUNS / "fails").iterdir()
    assert "ValueError: the first time" in says and "code cell 3 (`import os, pathlib`)" in says
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
    process, _ = started(path, tmp_path, monkeypatch, "started")
    process.send_signal(signal.SIGINT)
    _, says = process.communicate(timeout=120)
    assert process.returncode == 1 and "Interrupted: long" in says and "the same command resumes it" in says
    (folder,) = (tmp_path / "runs" / "long").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "long.partial.ipynb", "started"]


def test_refresh_stores_clean_outputs_in_place_and_keeps_the_old_ones_on_failure(tmp_path):
    noise = "import sys\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(2)): pass\n"
    noise += "print('warn', file=sys.stderr)\nprint('kept')"
    path = notebook(tmp_path / "book.ipynb", noise, WRITE)
    assert runner.main([str(path), "--refresh"]) == 0
    nb = nbformat.read(path, 4)
    assert set(nb.metadata) == {"kernelspec", "language_info"} and "version" not in nb.metadata.language_info
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3]
    assert all(set(cell.metadata) <= {"tags"} for cell in nb.cells) and code[0].metadata.tags == ["parameters"]
    kinds = [(output.output_type, output.get("name")) for output in code[1].outputs]
    assert ("stream", "stdout") in kinds and ("stream", "stderr") not in kinds
    assert pages.WIDGET not in json.dumps(nb)

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
    notebook = parameters.find("04_dual_pivot_ablation")
    with pytest.raises(RangeError, match=f"{name} out of range.*Remedy"):
        parameters.resolve(notebook, typed=[(name, bad)])
    assert parameters.resolve(notebook, typed=[(name, good)])[name] == yaml.safe_load(good.replace("1e-4", "1.0e-4"))


def test_a_kernel_knows_whether_its_parameters_are_the_committed_ones():
    notebook = parameters.find("04_dual_pivot_ablation")
    own = parameters.resolve(notebook)
    assert parameters.is_default("04_dual_pivot_ablation", own)
    assert not parameters.is_default("04_dual_pivot_ablation", {**own, "SEED": 1})


def test_a_stored_picture_is_packed_again_without_a_change():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(np.dstack([picture, np.full((40, 40), 255, np.uint8)])).save(encoded, "PNG", compress_level=0)
    stored = base64.b64encode(encoded.getvalue()).decode()
    small = pages.smaller(stored)
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(small)))), picture)
    assert len(small) < 0.8 * len(stored)
    assert pages.smaller(small) == small
