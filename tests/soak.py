"""A batch of many tiny people, undisturbed and under `kill -9`: `python tests/soak.py PEOPLE KILLS OUTPUT.json`.

A tiny person is one drawn picture, to whose pixels a few numbers are fitted by gradient descent with a checkpoint at
every step: a run that resumes and one that was never interrupted must agree in every bit.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = """# What a reader changes first
PERSON: str = "people:1009"  # who
STEPS: int = 20  # of gradient descent
"""
FIT = """import json, os, pathlib, time
import numpy as np
from lib.paths import atomic_write
from lib.people import procedural
from lib.runs.record import Record
folder = pathlib.Path(os.environ["WORKBOOK_RUN_FOLDER"])
person = procedural.parse(PERSON)
picture = procedural.render([(person, person.shot(0))], 32).pictures[0].astype(float) / 255
x, y = picture[..., :2].reshape(-1, 2), picture[..., 2].reshape(-1)
checkpoint = folder / "checkpoint.json"
done, w = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, [0.0, 0.0])
for step in range(done, STEPS):
    w = [float(a) for a in np.array(w) - 0.5 * x.T @ (x @ np.array(w) - y) / len(y)]
    with atomic_write(checkpoint) as part:
        part.write_text(json.dumps([step + 1, w]))
    time.sleep(0.02)"""
WRITE = """record = Record("tiny", {"PERSON": PERSON, "STEPS": STEPS}, 0, "cpu", folder)
record.add(metric="loss", arm="fit", image=0, value=float(((x @ np.array(w) - y) ** 2).mean()))
record.write()
checkpoint.unlink()"""


def write_inputs(folder, people, first=1009):
    """The notebook and the table of so many test people."""
    cells = [new_markdown_cell("# Tiny"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(FIT), new_code_cell(WRITE)]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "tiny.ipynb")
    rows = [f"people:{first + 10 * n}" for n in range(people)]
    (folder / "people.csv").write_text("\n".join(["PERSON", *rows]) + "\n")


def start(folder, runs, *words, where=("--workers", "2")):
    """The command in a process group of its own."""
    line = [sys.executable, "-m", "lib.batch", str(folder / "tiny.ipynb"), str(folder / "people.csv"), *where, *words]
    environment = os.environ | {"WORKBOOK_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
    log = (folder / f"{runs.name}.log").open("a")
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def kernels(runs):
    """The kernels that compute for these runs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if "ipykernel_launcher" in process.info["cmdline"] and process.environ().get("WORKBOOK_RUNS") == str(runs):
                found.append(process)
        except (psutil.Error, TypeError):
            pass
    return found


def victim(kind, command, runs):
    """A process of that kind, or None where there is none just now."""
    if kind == "scheduler":  # which is in the command's own process
        return psutil.Process(command.pid)
    if kind == "kernel":
        found = kernels(runs)
    else:
        children = psutil.Process(command.pid).children()
        found = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    return random.choice(found) if found else None


def results(runs):
    """Every metric of every run, dict of folder to rows."""
    files = sorted(runs.glob("tiny/*/record.json"))
    return {file.parent.name: json.loads(file.read_text())["metrics"] for file in files}


def disturbed(folder, runs, kills, every):
    """Runs the batch to its end under so many kills, a kind after the other; returns how many commands it took."""
    kinds, commands = ["worker", "kernel", "scheduler"], 1
    command, made = start(folder, runs, "--retries", "9"), []
    while len(made) < kills:
        time.sleep(random.uniform(0.5, 1.5) * every)
        if command.poll() is not None:
            break
        kind = kinds[len(made) % 3]
        try:
            process = victim(kind, command, runs)
            if process is None or not kernels(runs):
                continue
            process.kill()
        except psutil.NoSuchProcess:
            continue
        made.append(kind)
        if kind == "scheduler":
            command.wait()
            time.sleep(2)
            if orphans := kernels(runs):
                raise SystemExit(f"kernels outlive their batch: {orphans}")
            command, commands = start(folder, runs, "--retries", "9"), commands + 1
    while command.wait() != 0:
        command, commands = start(folder, runs, "--retries", "9"), commands + 1
        if commands > kills + 5:
            raise SystemExit("the batch does not end")
    return made, commands


def main(people, kills, output=None, every=6.0):
    folder = Path(os.environ.get("SOAK_FOLDER") or "/tmp/soak")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_inputs(folder, people)
    random.seed(0)
    began = time.monotonic()
    quiet = start(folder, folder / "quiet").wait()
    middle = time.monotonic()
    made, commands = disturbed(folder, folder / "kills", kills, every)
    end = time.monotonic()
    one, two = results(folder / "quiet"), results(folder / "kills")
    rubbish = [str(p) for p in (folder / "kills").rglob("*") if p.name.startswith(".part-") or "partial" in p.name]
    found = {
        "people": people,
        "exit status undisturbed": quiet,
        "kills": {kind: made.count(kind) for kind in ("worker", "kernel", "scheduler")},
        "commands given": commands,
        "runs that agree in every bit": sum(one[name] == two.get(name) for name in one),
        "half-written files": len(rubbish),
        "kernels left": len(kernels(folder / "kills")),
        "seconds undisturbed": round(middle - began, 1),
        "seconds under kills": round(end - middle, 1),
    }
    print(json.dumps(found, indent=1))
    if output:
        Path(output).write_text(json.dumps(found, indent=1) + "\n")
    return found


def scaling(people, output=None):
    """Efficiency of one and two workers, and what the batch adds to a run, from the times in their statuses."""
    folder = Path(os.environ.get("SOAK_FOLDER") or "/tmp/soak")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_inputs(folder, people)
    found = {"people": people}
    for workers in (1, 2, 1, 2):
        runs = folder / f"workers{workers}"
        shutil.rmtree(runs, ignore_errors=True)
        began = time.monotonic()
        assert start(folder, runs, where=("--workers", str(workers), "--threads", "1")).wait() == 0
        wall = time.monotonic() - began
        with next(runs.glob("batches/*/status.csv")).open() as stream:
            rows = list(csv.DictReader(stream))
        first, last = (f(float(r["started"]) + k * float(r["seconds"]) for r in rows) for f, k in ((min, 0), (max, 1)))
        one = {"command": wall, "people": last - first, "seconds": [float(row["seconds"]) for row in rows]}
        found.setdefault(f"{workers} workers", []).append(one)
    one, two = (min(found[f"{n} workers"], key=lambda each: each["people"]) for n in (1, 2))
    found["efficiency of 2 workers"] = one["people"] / two["people"] / 2
    found["added to a run"] = one["people"] / sum(one["seconds"]) - 1
    found["start and end (s)"] = two["command"] - two["people"]
    print(json.dumps({name: value for name, value in found.items() if "workers" not in name[:9]}, indent=1))
    if output:
        Path(output).write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.argv[1] == "scaling":
        sys.exit(not scaling(int(sys.argv[2]), *sys.argv[3:]))
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
