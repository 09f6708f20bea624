"""What a batch withstands, slowly (`-m slow`); notebook 21 shows what was recorded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import soak
from PIL import Image

from lib import paths

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def ended(process, status=0, within=480):
    assert process.wait(within) == status


def states(runs):
    (folder,) = [file.parent for file in runs.glob("batches/*/status.csv")]
    return (folder / "status.csv").read_text()


def test_after_many_kills_every_run_is_that_of_the_undisturbed_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("SOAK_FOLDER", str(tmp_path / "soak"))
    found = soak.main(12, 6, every=3.0)
    assert found["runs that agree in every bit"] == found["people"] == 12
    assert (found["half-written files"], found["kernels left"]) == (0, 0) and sum(found["kills"].values()) == 6


def test_two_batches_over_the_same_people_at_once_run_each_person_once(tmp_path):
    soak.write_inputs(tmp_path, 6)
    both = [soak.start(tmp_path, tmp_path / "runs", where=("--workers", "1")) for _ in range(2)]
    for process in both:
        ended(process)
    assert len(soak.results(tmp_path / "runs")) == 6 and "failed" not in states(tmp_path / "runs")
    executed = list((tmp_path / "runs").glob("tiny/*/tiny.ipynb"))
    assert len(executed) == 6 and not list((tmp_path / "runs").rglob("*.partial.ipynb"))


def test_a_changed_person_folder_runs_anew_and_the_others_do_not(tmp_path):
    soak.write_inputs(tmp_path, 1)
    for name, grey in (("ada", 50), ("bo", 60)):
        (tmp_path / "people" / name / "references").mkdir(parents=True)
        card = f"name: {name}\nclass_noun: person\nsource: drawn\nterms: none\nreal: false\n"
        (tmp_path / "people" / name / "person.yaml").write_text(card)
        for number in range(3):
            file = tmp_path / "people" / name / "references" / f"{number}.png"
            Image.new("RGB", (128, 128), (grey, grey, number)).save(file)
    text = (tmp_path / "tiny.ipynb").read_text()
    drawn = "person = procedural.parse(PERSON)"
    (tmp_path / "tiny.ipynb").write_text(text.replace(drawn, "person = procedural.parse('people:1009')"))
    (tmp_path / "people.csv").write_text(f"PERSON\n{tmp_path}/people/ada\n{tmp_path}/people/bo\n")
    ended(soak.start(tmp_path, tmp_path / "runs"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("tiny/*/tiny.ipynb")}
    Image.new("RGB", (128, 128), (200, 0, 0)).save(tmp_path / "people" / "bo" / "references" / "1.png")
    ended(soak.start(tmp_path, tmp_path / "runs"))
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("tiny/*/tiny.ipynb")}
    assert set(before.items()) < set(after.items()) and len(after) == 3


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small disk needs root on Linux")
def test_a_disk_that_fills_stops_the_batch_and_space_lets_it_go_on(tmp_path):
    soak.write_inputs(tmp_path, 4)
    (tmp_path / "runs").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", tmp_path / "runs"], check=True)
    try:
        ended(soak.start(tmp_path, tmp_path / "runs"), status=1)
        says = (tmp_path / "runs.log").read_text()
        assert "NoSpaceError" in says and not list((tmp_path / "runs").rglob(".part-*"))
        subprocess.run(["mount", "-o", "remount,size=64m", tmp_path / "runs"], check=True)
        ended(soak.start(tmp_path, tmp_path / "runs"))
        assert len(soak.results(tmp_path / "runs")) == 4
    finally:
        subprocess.run(["umount", "-l", tmp_path / "runs"], check=True)


def test_a_person_that_kills_its_worker_is_set_aside_and_the_rest_finish(tmp_path):
    soak.write_inputs(tmp_path, 4)
    text = (tmp_path / "tiny.ipynb").read_text()
    poison = "import json, os, pathlib, time\\n\",\n    \"if PERSON == 'people:1019': os.kill(os.getppid(), 9)\\n"
    (tmp_path / "tiny.ipynb").write_text(text.replace("import json, os, pathlib, time\\n", poison, 1))
    ended(soak.start(tmp_path, tmp_path / "runs"), status=1)
    says = (tmp_path / "runs.log").read_text()
    assert "3 finished, 1 set aside" in says.replace("1 set aside, 3 finished", "3 finished, 1 set aside")
    assert "set aside: people:1019" in says and len(soak.results(tmp_path / "runs")) == 3


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path):
    soak.write_inputs(tmp_path, 6)
    command = soak.start(tmp_path, tmp_path / "runs")
    while not soak.results(tmp_path / "runs") and command.poll() is None:
        time.sleep(0.2)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    ended(command, status=130)
    assert "The same command goes on" in (tmp_path / "runs.log").read_text() and not soak.kernels(tmp_path / "runs")
    ended(soak.start(tmp_path, tmp_path / "runs"))
    assert len(soak.results(tmp_path / "runs")) == 6


def test_a_worker_and_a_scheduler_that_vanish_for_good(tmp_path, monkeypatch):
    soak.write_inputs(tmp_path, 6)
    monkeypatch.setenv("WORKBOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    scheduler_file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"]
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=paths.ROOT)
    started = [subprocess.Popen([*dask, "--port", "0", "--scheduler-file", scheduler_file, "--no-dashboard"], **quiet)]
    try:
        started += [subprocess.Popen([*worker, "--scheduler-file", scheduler_file], **quiet) for _ in range(2)]
        while not scheduler_file.exists():
            time.sleep(0.1)
        address = ("--scheduler", json.loads(scheduler_file.read_text())["address"])
        command = soak.start(tmp_path, tmp_path / "runs", where=address)
        while not soak.results(tmp_path / "runs") and command.poll() is None:
            time.sleep(0.2)
        started[1].kill()  # for good: nobody starts it again
        ended(command)
        assert len(soak.results(tmp_path / "runs")) == 6
        (tmp_path / "people.csv").write_text("PERSON\npeople:2009\npeople:2019\n")
        command = soak.start(tmp_path, tmp_path / "runs", where=address)
        while not soak.kernels(tmp_path / "runs") and command.poll() is None:
            time.sleep(0.2)
        started[0].kill()
        ended(command, status=1)
        assert "The scheduler is gone" in (tmp_path / "runs.log").read_text()
    finally:
        for process in started:
            process.kill()


LACKS = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
LACKS += [] if find_spec("dask_jobqueue") else ["dask-jobqueue"]


@pytest.mark.skipif(bool(LACKS), reason=f"Slurm is not installed: {', '.join(LACKS)} (apt-get install slurm-wlm munge)")
@pytest.mark.parametrize("cancelled", ["one", "all"])
def test_a_batch_on_a_real_slurm(cancelled, tmp_path, monkeypatch):
    """tests/slurm_here.sh starts a Slurm of one node; two jobs run six people, and one job or both are cancelled."""
    slurm = Path("/tmp") / f"slurm-{os.getpid()}"
    monkeypatch.setenv("SLURM_CONF", str(slurm / "slurm.conf"))
    soak.write_inputs(tmp_path, 6)
    settings = 'jobs: 2\ncores: 1\nmemory: 600MB\nwalltime: "00:10:00"\nlocal_directory: /tmp\n'
    (tmp_path / "slurm.yaml").write_text(settings)
    try:
        subprocess.run([HERE / "slurm_here.sh", slurm, "start"], check=True, timeout=60)
        command = soak.start(tmp_path, tmp_path / "runs", where=("--slurm", str(tmp_path / "slurm.yaml")))
        jobs = []
        while (len(jobs) < 2 or not soak.results(tmp_path / "runs")) and command.poll() is None:
            time.sleep(0.2)
            listed = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], capture_output=True, text=True)
            jobs = listed.stdout.split()
        assert len(jobs) == 2 and len(soak.results(tmp_path / "runs")) < 6
        subprocess.run(["scancel", *(jobs if cancelled == "all" else jobs[-1:])], check=True)
        ended(command)
        assert len(soak.results(tmp_path / "runs")) == 6
    finally:
        subprocess.run([HERE / "slurm_here.sh", slurm, "stop"])
        shutil.rmtree(slurm, ignore_errors=True)
