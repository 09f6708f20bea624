"""Load: many participants at once against a server process that is killed and started again, and its record."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np

from lib import paths
from lib.user_study import answers, design, picture_sets, study_file
from lib.user_study.server import COOKIE
from lib.user_study.store import FILE, hashed

READY = 60.0  # seconds that a server may take to start


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Process:
    """The study's own command on 127.0.0.1, killed without warning and started again."""

    def __init__(self, file, store):
        self.port, self.store = free_port(), store
        self.words = [sys.executable, "-m", "lib.userstudy", str(file), "--port", str(self.port), "--store", str(store)]

    def start(self):
        self.process = subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True, cwd=paths.ROOT)
        self.said = ""
        while "Ctrl-C" not in self.said:
            line = self.process.stdout.readline()
            assert line, f"the server ended: {self.said}"
            self.said += line
        return self

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


async def participant(address, rng, log, kept):
    """One participant through the whole study by HTTP, trying again while there is no server, as the page does."""
    async with httpx.AsyncClient(base_url=address, timeout=20.0) as client:
        while not client.cookies.get(COOKIE):
            await patient(client, log, "POST", "/join", content=b"consent=yes")
        state = (await patient(client, log, "GET", "/state")).json()
        while state["trial"] is not None:
            for picture in state["options"] + state["input"] + state["references"]:
                assert (await patient(client, log, "GET", picture)).headers["content-type"] == "image/png"
            await asyncio.sleep(rng.uniform(0.05, 0.25))
            option = int(rng.integers(len(state["options"])))
            body = {"trial": state["trial"], "option": option, "seconds": 1.0, "width": 256}
            reply = await patient(client, log, "POST", "/answer", json=body)
            assert reply.status_code == 200, reply.text
            kept[hashed(client.cookies.get(COOKIE)), state["trial"]] = option
            state = reply.json()


async def patient(client, log, method, path, **more):
    """A request, repeated until the server answers; its latency goes to the log, failed tries are counted."""
    while True:
        start = time.perf_counter()
        try:
            reply = await client.request(method, path, **more)
            if reply.status_code < 500 and reply.status_code != 429:
                log["latency"].append(time.perf_counter() - start)
                return reply
            log["refused"] += 1
        except httpx.TransportError:
            log["lost"] += 1
        await asyncio.sleep(0.2)


async def _all(process, participants, kills, answers_in_all, seed):
    log, kept = {"latency": [], "refused": 0, "lost": 0}, {}
    rngs = [np.random.default_rng([seed, k]) for k in range(participants)]
    tasks = [asyncio.create_task(participant(process.address, rng, log, kept)) for rng in rngs]
    for k in range(kills):
        while len(kept) < (k + 1) / (kills + 1) * answers_in_all:
            await asyncio.sleep(0.02)
        process.kill()
        await asyncio.to_thread(process.start)
    await asyncio.gather(*tasks)
    return log, kept


def run(file, store, participants=30, kills=2, seed=0):
    """The whole load test: a dict of what was counted. Each of its counts is asserted by the test that calls it."""
    study = study_file.read(file)
    names = list(picture_sets.collect(study))
    wanted = [design.trials_of(study, names, number) for number in range(participants)]
    process, start = Process(file, store).start(), time.perf_counter()
    try:
        log, kept = asyncio.run(_all(process, participants, kills, sum(map(len, wanted)), seed))
    finally:
        process.kill()
    table = answers.read(Path(store))
    latency = np.array(log["latency"]) * 1000
    counted = Counter(table.groupby("participant").size())
    return {
        "participants": participants,
        "kills": kills,
        "trials_each": len(wanted[0]),
        "acknowledged": len(kept),
        "stored": len(table),
        "doubled": int(table.duplicated(["participant", "trial"]).sum()),
        "finished": int(counted[len(wanted[0])]),
        "changed": len(set(kept.items()) ^ set(_positions(Path(store)).items())),
        "not_as_designed": sum(
            row.options != tuple(map(answers.named, wanted[row.participant][row.trial].options))
            for row in table.itertuples()
        ),
        "imbalance": max(
            max(one["own places"], one["places"]) for one in design.imbalance(study, names, participants).values()
        ),
        "requests": len(latency),
        "connections_lost": log["lost"],
        "refused": log["refused"],
        "seconds": time.perf_counter() - start,
        "p50_ms": float(np.quantile(latency, 0.5)),
        "p99_ms": float(np.quantile(latency, 0.99)),
        "slowest_ms": float(latency.max()),
    }


def _positions(store):
    """(hashed token, trial) -> chosen place, as the store has it."""
    query = "SELECT token, trial, position FROM answer JOIN participant ON number = participant"
    with closing(sqlite3.connect(store / FILE)) as db:
        return {(token, trial): position for token, trial, position in db.execute(query)}


def record(file, folder):
    """The load test of a study, recorded in a folder: `python tests/user_study_load.py FILE FOLDER`."""
    import tempfile

    from lib.runs.record import Record

    one = Record("user_study_load", {"STUDY": paths.display_path(Path(file).resolve())}, 0, "cpu", folder)
    with tempfile.TemporaryDirectory() as store, one.stage("load"):
        one.add(**run(file, store))
    one.write()
    print(one.metrics[0])


if __name__ == "__main__":
    record(*sys.argv[1:])
