"""A batch: a table refused whole, every person a run of its own, and nobody taken down by another."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import dask
import nbformat
import numpy as np
import pandas as pd
import pytest
from distributed import Client, KilledWorker, Scheduler, SpecCluster, Worker
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

import lib.batch
from lib import paths
from lib.errors import (
    BatchError,
    BusyError,
    MissingPicturesError,
    PackError,
    PictureError,
    RangeError,
    TimeLimitError,
    UnreadablePictureError,
    UnsafePathError,
)
from lib.people.picture_files import save_picture
from lib.runs import (
    batch,
    batch_folder,
    batch_table,
    batch_worker,
    batch_workers,
    folders,
    gather,
    kernels,
    parameters,
    record,
    runner,
)

PARAMETERS = """# What a reader changes first
PERSON: str = "people:1009"  # who
STEPS: int = 3  # how many
"""
WRITE = """import os
from lib.runs.record import Record
values = {"PERSON": PERSON, "STEPS": STEPS}
record = Record("small", values, 0, "cpu", os.environ["WORKBOOK_RUN_FOLDER"])
with record.stage("tuning"):
    for arm in ("blind", "dual pivot"):
        record.add(metric="identity", arm=arm, image=0, value=STEPS / 10)
print(os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
record.write()"""


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def small(tmp_path):
    return notebook(tmp_path / "small.ipynb")


def notebook(path, *cells):
    """A small notebook that does what these cells say and writes its record."""
    made = [new_markdown_cell("# Small"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += [new_code_cell(cell) for cell in (*cells, WRITE)]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def table(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


# ---- the table


def test_every_bad_row_is_named_at_once_and_nothing_was_made(small, tmp_path, runs, capsys):
    people = table(tmp_path / "p.csv", "PERSON,STEPS", "people:1009,1", "people:1019,x", "nobody,1", "people:1009,1")
    assert lib.batch.main([str(small), str(people)]) == 1
    says = capsys.readouterr().err
    assert "3 rows of 4 cannot run" in says and not runs.exists()
    assert "line 3: ParameterError: Mistyped parameter: STEPS from the table: 'x'" in says
    assert "line 4: ParameterError: No such person: 'nobody'" in says
    assert "line 5: BatchError: The same run as line 2" in says


@pytest.mark.parametrize(
    "rows, says",
    [
        (["PERSON,STPES", "people:1009,1"], "Unknown parameter: STPES from the table.*did you mean STEPS"),
        (["PERSON,PERSON", "people:1009,people:1019"], "twice or without a name: PERSON"),
        (["PERSON,STEPS", "people:1009"], "Not 2 cells.*line 2"),
        (["PERSON"], "No rows"),
        (["PERSON", '"people:1009'], "Not CSV"),
        (["PERSON,STEPS", "people:1009,-1"], "STEPS out of range"),
        (["PERSON", "people:abc"], "No such person"),
    ],
)
def test_a_table_that_cannot_run_is_refused(small, tmp_path, rows, says):
    with pytest.raises(BatchError, match=f"(?s){says}"):
        batch_table.jobs(small, batch_table.read(table(tmp_path / "p.csv", *rows)))


def test_a_row_wins_over_files_and_an_empty_cell_leaves_the_rest(small, tmp_path):
    (tmp_path / "p.yaml").write_text("STEPS: 7")
    rows = batch_table.read(table(tmp_path / "p.csv", "\ufeffPERSON, STEPS", "people:1009,", "", "people:1009,8"))
    found = batch_table.jobs(small, rows, [tmp_path / "p.yaml"])
    assert [job.values["STEPS"] for job in found] == [7, 8] and found[1].place == "line 4"
    assert found[1].folder == folders.folder_of("small", found[1].values)
    with pytest.raises(BatchError, match="STEPS is a column, and is given with -p too"):
        batch_table.jobs(small, rows[1:], (), [("STEPS", "1")])


def test_a_gpu_of_another_machine_is_not_looked_for_here():
    rows = [("line 2", {"DEVICE": "cuda"})]
    assert batch_table.jobs(parameters.find("00_start_here"), rows, here=False)[0].values["DEVICE"] == "cuda"


def test_a_folder_of_person_folders_and_a_glob_are_tables(tmp_path):
    for name in ("ada", "bo", ".hidden"):
        (tmp_path / "all" / name / "references").mkdir(parents=True)
    both = [{"PERSON": str(tmp_path / "all" / name)} for name in ("ada", "bo")]
    assert [row for _, row in batch_table.read(tmp_path / "all")] == both
    assert [row for _, row in batch_table.read(str(tmp_path / "all" / "b*"))] == both[1:]
    for nobody in (tmp_path / "all" / "ada", tmp_path / "none" / "*", tmp_path / "all" / "bo" / "references"):
        with pytest.raises(BatchError, match="No person folders"):
            batch_table.read(str(nobody))


def test_person_folders_are_opened_before_anything_runs(tmp_path):
    folder = tmp_path / "ada"
    (folder / "references").mkdir(parents=True)
    (folder / "person.yaml").write_text("name: ada\nclass_noun: woman\nsource: s\nterms: t\nreal: true\n")
    values = {"PERSON": str(folder), "SCORER": "", "INPUTS": 2}
    with pytest.raises(MissingPicturesError):
        lib.batch.check_person(values)
    for number in range(3):
        Image.new("RGB", (128, 128), (90, 60, 40)).save(folder / "references" / f"{number}.png")
    with pytest.raises(PackError, match="without a recogniser"):
        lib.batch.check_person(values)
    with pytest.raises(MissingPicturesError, match="No inputs"):
        lib.batch.check_person(values | {"SCORER": "x"})
    (folder / "references" / "1.png").write_bytes(b"broken")
    with pytest.raises(PictureError):
        lib.batch.check_person(values)
    lib.batch.check_person({"PERSON": "people:1009", "SCORER": ""})


# ---- the loop, on workers inside this process


@pytest.fixture(scope="module")
def client():
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as one:
        yield one


@pytest.fixture
def alone():
    """With one worker people come one after the other."""
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as one:
        yield one


SAYS, ASKED = {}, []  # what the worker says of each person, try by try, and who was run


def stub(path, values, limit=None):
    """Stands for `batch_worker.run_person`; dask finds it by its name, so that it changes these very lists."""
    person = values["PERSON"]
    ASKED.append(person)
    found = SAYS[person].pop(0) if SAYS.get(person) else {"state": "finished", "folder": ""}
    if isinstance(found, Exception):
        raise found
    return {"error": "", "message": "", "started": 1.0, "seconds": 1.0, "worker": 1, "folder": ""} | found


@pytest.fixture
def outcomes(monkeypatch):
    SAYS.clear()
    ASKED.clear()
    monkeypatch.setattr(batch_worker, "run_person", stub)
    monkeypatch.setattr(batch, "BUSY", 0.2)
    return SAYS, ASKED


def go(client, small, people, **plan):
    jobs = batch_table.jobs(small, [(f"line {n}", {"PERSON": person}) for n, person in enumerate(people)])
    folder = batch_folder.make(small, jobs, "p.csv")
    rows = batch.run(client, small, jobs, folder, batch.Plan(**plan))
    assert [dict(row) for row in csv.DictReader((folder / "status.csv").open())] == [
        {name: str(row[name]) for name in batch_folder.COLUMNS} for row in rows
    ]
    return {row["person"]: row for row in rows}, folder


FAILED = {"state": "failed", "error": "PictureError", "message": "bad"}
PEOPLE = [f"people:{n}9" for n in range(100, 106)]


def test_a_failing_person_is_tried_again_and_takes_nobody_down(client, small, outcomes):
    says, asked = outcomes
    says[PEOPLE[0]], says[PEOPLE[1]] = [FAILED], [FAILED] * 3
    rows, _ = go(client, small, PEOPLE, retries=2)
    assert [rows[person]["state"] for person in PEOPLE] == ["finished", "failed", *["finished"] * 4]
    assert (rows[PEOPLE[0]]["tries"], rows[PEOPLE[1]]["tries"]) == (2, 3) and len(asked) == 6 + 1 + 2
    assert rows[PEOPLE[1]]["error"] == "PictureError" and rows[PEOPLE[0]]["error"] == ""


def test_a_person_whose_worker_dies_again_and_again_is_set_aside_and_comes_last_next_time(alone, small, outcomes):
    says, asked = outcomes
    died = KilledWorker("task", SimpleNamespace(address="tcp://gone"), 0)
    says[PEOPLE[0]], says[PEOPLE[1]] = [died] * batch.DEATHS, [died] * (batch.DEATHS - 1)
    rows, _ = go(alone, small, PEOPLE)
    assert rows[PEOPLE[0]]["state"] == "set aside" and "died 3 times" in rows[PEOPLE[0]]["message"]
    assert {rows[person]["state"] for person in PEOPLE[1:]} == {"finished"}
    asked.clear()
    rows, _ = go(alone, small, PEOPLE)
    assert asked[-1] == PEOPLE[0] and rows[PEOPLE[0]]["state"] == "finished"


def test_a_run_that_another_batch_is_at_is_asked_for_later(client, small, outcomes):
    says, asked = outcomes
    says[PEOPLE[0]] = [{"state": "busy"}] * 2
    rows, _ = go(client, small, PEOPLE[:3])
    assert asked.count(PEOPLE[0]) == 3 and rows[PEOPLE[0]]["state"] == "finished" and rows[PEOPLE[0]]["tries"] == 1


def test_a_full_disk_stops_the_batch(client, small, outcomes, capsys):
    says, asked = outcomes
    says[PEOPLE[0]] = [{"state": "disk full", "error": "NoSpaceError", "message": "full"}]
    rows, folder = go(client, small, PEOPLE * 1)
    assert rows[PEOPLE[0]]["state"] == "failed" and len(asked) < len(PEOPLE)
    assert rows[PEOPLE[-1]]["state"] == "waiting"
    batch_folder.report(folder, list(rows.values()), "the disk is full")
    assert "Stopped: the disk is full" in capsys.readouterr().out


def test_a_resource_that_no_worker_has_is_an_error_and_no_wait(client, small):
    with pytest.raises(BatchError, match="No worker has a GPU"):
        batch_workers.check(client, "GPU")
    with pytest.raises(BatchError, match="2 workers and 1 GPUs"):
        with batch_workers.local(2, gpus=["0"]):
            pass
    batch_workers.check(client)


def test_workers_of_another_repository_or_of_several_threads_are_refused(client, monkeypatch):
    mine = batch_worker.place()
    monkeypatch.setattr(batch_worker, "place", lambda: mine)
    monkeypatch.setattr(client, "run", lambda _: {"tcp://other": mine | {"runs": "/elsewhere"}})
    with pytest.raises(BatchError, match="another runs: /elsewhere"):
        batch_workers.check(client)
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as wide:
        with pytest.raises(BatchError, match="several threads"):
            batch_workers.check(wide)


def test_no_worker_for_too_long_is_an_error(small):
    with Client(processes=False, n_workers=0, dashboard_address=None) as empty:
        with pytest.raises(BatchError, match="No worker for 0.3 s.*the same command goes on"):
            go(empty, small, PEOPLE, patience=0.3)


def test_slurm_settings_are_checked(tmp_path):
    for text, says in (("cores: 1", "'memory' is missing"), ("cores: x\nmemory: 1GB", "'cores' is unknown or mis"),
                       ("cors: 1", "'cors'"), ("[", "Cannot read")):  # fmt: skip
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(BatchError, match=says):
            with batch_workers.of_slurm(tmp_path / "s.yaml"):
                pass
    for line in ("jobs: 0", "jobs: true", "gpus: -1", "cores: true", "cores: 0"):
        (tmp_path / "s.yaml").write_text("memory: 1GB\n" + ("" if "cores" in line else "cores: 1\n") + line)
        with pytest.raises(RangeError, match=f"{line.partition(':')[0]} in .*s.yaml out of range.*Remedy"):
            with batch_workers.of_slurm(tmp_path / "s.yaml"):
                pass


def test_slurms_jobs_get_the_runs_whatever_their_name_and_the_batch_counts_deaths(tmp_path, monkeypatch):
    asked = {}

    def made(**settings):
        asked.update(settings, failures=dask.config.get("distributed.scheduler.allowed-failures"))
        raise BatchError("asked enough")

    monkeypatch.setattr(paths, "RUNS", tmp_path / "it's $HOME")
    monkeypatch.setattr(batch_workers.importlib, "import_module", lambda _: SimpleNamespace(SLURMCluster=made))
    monkeypatch.setattr(batch_workers.shutil, "which", lambda _: "/usr/bin/sbatch")
    (tmp_path / "s.yaml").write_text("cores: 3\nmemory: 1GB")
    with pytest.raises(BatchError, match="asked enough"):
        with batch_workers.of_slurm(tmp_path / "s.yaml"):
            pass
    script = "\n".join([*asked["job_script_prologue"], 'echo "$WORKBOOK_RUNS $OMP_NUM_THREADS"'])
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path}/it's $HOME 3\n" and asked["failures"] == 0


class Job(Worker):
    """A worker that stands for a job of Slurm."""

    job_id = "1"


class Jobs(SpecCluster):
    """Stands for a SLURMCluster, whose `scale` takes `jobs`."""

    def scale(self, n=0, jobs=0):
        return super().scale(n or jobs)


def test_jobs_that_end_or_were_refused_are_submitted_again(monkeypatch):
    monkeypatch.setattr(batch_workers, "RENEW", 0.2)
    quiet = {"host": "127.0.0.1", "dashboard": False}
    cluster = dict(worker={"cls": Job, "options": quiet}, scheduler={"cls": Scheduler, "options": quiet | {"port": 0}})

    def others(jobs, client, before):
        """Two workers that were not there before, both of them the cluster's own."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = set(batch_workers.slots(client))
            own = {worker.address for worker in list(jobs.workers.values()) if worker.status.name == "running"}
            if len(found) == 2 and found == own and not found & before:
                return found
            time.sleep(0.1)
        raise AssertionError(f"still {found}, before {before}")

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):
        with Jobs(**cluster) as jobs, Client(jobs) as client, batch_workers._kept(jobs, 2):
            first = others(jobs, client, set())
            for worker in list(jobs.workers.values()):
                jobs.sync(worker.close)
            second = others(jobs, client, first)
            for worker in list(jobs.workers.values()):
                worker.job_id = None
                jobs.sync(worker.close)
            others(jobs, client, second)


# ---- a run and its kernel


def test_two_processes_do_not_run_into_one_folder(small, monkeypatch):
    values = {"PERSON": "people:1009", "STEPS": 1}
    with folders.held(folders.folder_of("small", values)):
        with pytest.raises(BusyError, match="Running already"):
            runner.run(small, values)
        assert batch_worker.run_person(str(small), values)["state"] == "busy"


def test_a_run_ends_at_its_time_limit(tmp_path):
    path = notebook(tmp_path / "long.ipynb", "import time\ntime.sleep(600)")
    found = batch_worker.run_person(str(path), {"PERSON": "people:1009", "STEPS": 1}, limit=2.0)
    assert (found["state"], found["error"]) == ("failed", TimeLimitError.__name__)
    assert "took longer than 2 s" in found["message"] and found["seconds"] < 60


def test_a_kernel_that_is_starting_is_ended_too(tmp_path, monkeypatch):
    path = notebook(tmp_path / "long.ipynb", "import time\ntime.sleep(600)")
    before = kernels.Kernel._async_pre_start_kernel

    async def stopped(self, **how):
        batch_worker.stop([self.folder])
        return await before(self, **how)

    monkeypatch.setattr(kernels.Kernel, "_async_pre_start_kernel", stopped)
    found = batch_worker.run_person(str(path), {"PERSON": "people:1009", "STEPS": 1}, limit=30.0)
    assert found["error"] == TimeLimitError.__name__ and "its batch was stopped" in found["message"]


def test_an_end_that_comes_too_late_is_not_kept_for_the_next_run():
    kernels.end("f", "late")
    with pytest.raises(ValueError, match="its own"):
        with kernels.limited("f"):
            raise ValueError("its own")
    with pytest.raises(TimeLimitError, match="in time"):
        with kernels.limited("f"):
            kernels.end_all(["f", "g"], "in time")
            raise ValueError("its own")
    assert not kernels._running and not kernels._ended


HOLDS = """import sys, time
from lib.runs.kernels import Kernel
import asyncio
async def main():
    kernel = Kernel(folder="f")
    await kernel.start_kernel()
    client = kernel.client(); client.start_channels(); await client.wait_for_ready()
    client.execute("import ctypes; ctypes.PyDLL(None).sleep(600)")  # holds the interpreter all the while
    await asyncio.sleep(1)
    print(kernel.provisioner.pid, flush=True)
    time.sleep(600)
asyncio.run(main())"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel itself looks for its parent")
def test_a_kernel_in_native_code_dies_with_its_runner():
    """ipykernel's own watch is a thread, which does not run while native code holds the interpreter."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS], cwd=paths.ROOT, stdout=subprocess.PIPE, text=True)
    kernel = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{kernel}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = Path(f"/proc/{kernel}").exists() and "State:\tZ" not in Path(f"/proc/{kernel}/status").read_text()
    if left:
        os.kill(kernel, signal.SIGKILL)
    assert not left


# ---- the command, with workers of their own, and what is gathered of it


def test_the_command_runs_everybody_and_gathers_what_they_found(tmp_path, runs, monkeypatch, capsys):
    monkeypatch.setattr(batch, "DEATHS", 1)
    odd = "import os\nif STEPS == 13: raise ValueError('unlucky')\nif STEPS == 99: os.kill(os.getppid(), 9)"
    small = notebook(tmp_path / "small.ipynb", odd)
    people = table(tmp_path / "p.csv", "PERSON,STEPS", "people:1009,1", "people:1019,13", "people:1029,99")
    words = [str(small), str(people), "--workers", "1", "--threads", "2", "--retries", "0"]
    assert lib.batch.main(words) == 1
    said = capsys.readouterr().out
    assert "1 finished, 1 failed, 1 set aside" in said
    assert "failed: people:1019 (line 3): ValueError" in said and "set aside: people:1029 (line 4)" in said
    (folder,) = (runs / "batches").iterdir()
    everybody, found = gather.people(folder), gather.metrics(folder)
    assert list(everybody.state) == ["finished", "failed", "set aside"]
    first = everybody.iloc[0]
    assert (first["STEPS"], first["device"], first["seconds tuning"] > 0) == (1, "cpu", True) and first["version torch"]
    assert first["seconds"] == pytest.approx(first["seconds tuning"] + first[f"seconds {gather.OTHER}"])
    assert found[["person", "metric", "arm", "value"]].values.tolist() == [
        ["people:1009", "identity", "blind", 0.1],
        ["people:1009", "identity", "dual pivot", 0.1],
    ]
    (partial,) = runs.glob("small/people-1019*/*.partial.ipynb")
    assert "unlucky" in partial.read_text()
    (executed,) = runs.glob("small/people-1009*/small.ipynb")
    outputs = [out.text for cell in nbformat.read(executed, 4).cells for out in cell.get("outputs", [])]
    assert outputs == ["2 None\n"]
    table(people, "PERSON,STEPS", "people:1009,1")
    monkeypatch.setattr(batch_worker, "run_person", None)  # nobody is left to run
    assert lib.batch.main(words) == 0 and "1 finished" in capsys.readouterr().out


@pytest.fixture
def three(runs):
    """The folder of a batch of three people whose runs are finished."""
    folder = runs / "batches" / "b"
    folder.mkdir(parents=True)
    row = dict.fromkeys(batch_folder.COLUMNS, "") | {"state": "finished", "tries": 1, "deaths": 0}
    given = {"PERSON": "a", "NAMES": ["x"], "RECIPE": ""}
    run = {"notebook": "n", "parameters": given, "seed": 0, "device": "cpu", "versions": {},
           "commit": {"id": None, "reason": "none"}, "seconds": {}, "peak_memory": 1}  # fmt: skip
    rows = []
    for person, value in (("a", 0.5), ("b", 0.2), ("c", 0.9)):
        metrics = [{"metric": "identity", "arm": "dual pivot", "value": value}]
        loaded = {"loaded": {"system": "0123", "recipe": "tiny"}} if person == "a" else {}
        record.write_json(runs / "n" / person / "record.json", run | {"metrics": metrics} | loaded)
        rows.append(row | {"person": person, "folder": f"n/{person}"})
    with (folder / "status.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, batch_folder.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    people = [{"folder": row["folder"], "parameters": run["parameters"]} for row in rows]
    record.write_json(folder / "batch.json", {"people": people})
    return folder


def test_gathered_tables_are_written_and_read(tmp_path, runs, three):
    for _ in range(2):  # its own tables are written anew
        assert gather.main([str(three), "-o", str(tmp_path / "out")]) == 0
    found = gather.read(tmp_path / "out" / "metrics.csv")
    assert gather.worst(found, 2, "identity", higher=True).person.tolist() == ["b", "a"]
    people = gather.read(tmp_path / "out" / "people.csv").set_index("person")
    assert people.RECIPE["a"] == "tiny" and pd.isna(
        people.RECIPE["b"]
    )  # what the empty one stood for, where it is known
    (runs / "n" / "a" / "record.json").write_text("{")
    assert gather.main([str(three)]) == 1 and gather.main([str(tmp_path)]) == 1


def measured(*rows):
    columns = ["person", "run", "arm", "metric", "value"]
    return pd.DataFrame([dict(zip(columns, row)) for row in rows])


def test_the_worst_have_the_highest_values_where_lower_is_better():
    table = measured(*[(who, who, "dual pivot", "perceptual", value) for who, value in (("a", 1.0), ("b", 3.0))])
    assert gather.worst(table, 1, "perceptual", higher=False).person.tolist() == ["b"]
    assert gather.worst(table, 1, "perceptual", higher=True).person.tolist() == ["a"]


def test_nobody_is_left_out_of_the_worst():
    """Of two arms in one batch, of two runs a person, and of somebody whose metric gave no number."""
    table = measured(
        ("a", "a-1", "blind", "identity", 0.1),
        ("a", "a-1", "dual pivot", "identity", 0.9),
        ("a", "a-2", "in-context", "identity", 0.5),
        ("b", "b-1", "in-context", "identity", 0.7),
        ("c", "c-1", "in-context", "identity", math.nan),
    )
    found = gather.worst(table, 9, "identity", higher=True)
    assert found.run.tolist() == ["c-1", "a-2", "b-1", "a-1"]
    with pytest.raises(BatchError, match="blind.*b, c.*Remedy"):
        gather.worst(table, 9, "identity", True, arm="blind")
    with pytest.raises(BatchError, match="2 arms"):
        gather.tuned_arm(table)
    assert gather.tuned_arm(table[table.run == "a-1"]) == "dual pivot"


@pytest.mark.parametrize("state, metric", [("failed", "identity"), ("finished", "psnr")])
def test_pictures_of_the_worst_need_an_identity_before_anything_is_written(tmp_path, runs, state, metric):
    folder = runs / "batches" / "b"
    folder.mkdir(parents=True)
    row = dict.fromkeys(batch_folder.COLUMNS, "") | {"state": state, "tries": 1, "deaths": 0, "folder": "n/a"}
    with (folder / "status.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, batch_folder.COLUMNS)
        writer.writeheader()
        writer.writerow(row)
    record.write_json(folder / "batch.json", {"people": [{"folder": "n/a", "parameters": {}}]})
    metrics = [{"metric": metric, "arm": "dual pivot", "value": 1.0}]
    facts = {"seed": 0, "device": "cpu", "versions": {}, "commit": {"id": None, "reason": "none"}, "peak_memory": 1}
    found = {"notebook": "n", "parameters": {}, "seconds": {}, "metrics": metrics}
    record.write_json(runs / "n" / "a" / "record.json", facts | found)
    with pytest.raises(BatchError, match="identity.*Remedy"):
        gather.write(folder, tmp_path / "out", pictures=3)
    assert not (tmp_path / "out").exists()
    gather.write(folder, tmp_path / "out")  # without pictures: who failed, and why
    assert len(gather.read(tmp_path / "out" / "metrics.csv")) == (state == "finished")


def test_gathering_overwrites_nobody_elses_table(tmp_path, three, monkeypatch):
    mine = table(tmp_path / "people.csv", "PERSON,STEPS", "people:1009,1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePathError, match="people.csv, which would be overwritten. Remedy"):
        gather.write(three, ".")
    assert mine.read_text() == "PERSON,STEPS\npeople:1009,1\n" and not (tmp_path / "metrics.csv").exists()
    mine.rename(tmp_path / "metrics.csv")
    assert gather.main([str(three), "-o", "."]) == 1 and not mine.exists()
    (tmp_path / "metrics.csv").unlink()
    assert gather.main([str(three), "-o", "."]) == 0 == gather.main([str(three), "-o", "."])


def test_gathered_pictures_are_those_of_the_run_with_their_synthetic_mark(tmp_path, runs, three):
    files = [runs / "n" / person / "restored" / "image1-blind.png" for person in "ab"]
    for number, file in enumerate(files):
        save_picture(file, np.full((40, 40, 3), number, np.uint8))
    gather.write(three, tmp_path / "out", pictures=2)
    for file, person in zip(files, "ab"):
        copy = tmp_path / "out" / "pictures" / f"{person}-image1-blind.png"
        assert copy.read_bytes() == file.read_bytes() and "Synthetic" in Image.open(copy).text
    files[0].write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(UnreadablePictureError, match="image1-blind.png. Remedy"):
        gather.write(three, tmp_path / "out", pictures=2)
