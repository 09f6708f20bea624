"""Many people in one command: `python -m lib.batch NOTEBOOK PEOPLE [-f PARAMS.yaml ...] [--workers N]`.

Each row of the table is a run of the strict runner in its own run folder, on dask.distributed. The same command goes
on where an earlier one stopped: finished runs are skipped, interrupted ones resume.
"""

import argparse
import sys
import time
from collections import deque
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from distributed import KilledWorker, wait
from distributed.comm import CommClosedError
from tqdm.auto import tqdm

from lib import checks
from lib.errors import BatchError, exit_status
from lib.runs import batch_folder, batch_table, batch_worker, batch_workers, parameters, runner

DEATHS = 3  # a person whose worker died so often is set aside
GONE = "The scheduler is gone. Remedy: start it again; the same command goes on."
BUSY = 5  # seconds until a run that another process is at is asked for again
PATIENCE = 60  # seconds without any worker; a queue (Slurm) may take as long as it likes


@dataclass
class Plan:
    """What may happen to a person: further tries after an error, seconds of one, and the resource of each person."""

    retries: int = 1
    limit: float | None = None
    patience: float | None = PATIENCE
    resource: str | None = None
    stopped: str = ""  # why no further person is started
    rows: dict = field(default_factory=dict)  # run folder -> row of the status


@dataclass
class Queue:
    """Who is not settled yet, and when a worker was last there."""

    waiting: deque
    running: dict = field(default_factory=dict)  # future -> job
    later: list = field(default_factory=list)  # (moment, job), of runs that another process is at
    seen: float = field(default_factory=time.monotonic)

    def is_over(self, plan):
        return not self.running and (plan.stopped or not (self.waiting or self.later))


def run(client, notebook, jobs, folder, plan):
    """Runs every job on the client's workers; returns the rows of the status, list of dicts.

    A row's state is finished, failed, set aside (its worker died DEATHS times) or waiting (the batch stopped).
    Args: client, of dask.distributed; notebook, path; jobs, of `batch_table.jobs`; folder, of the batch; plan.
    Raises KeyboardInterrupt after what runs was ended, and BatchError where the scheduler or every worker is gone.
    """
    before = batch_folder.earlier(folder)
    plan.rows = batch_folder.rows_of(jobs, notebook, before)
    left = (job for job in jobs if not _done(plan, job))
    queue = Queue(deque(sorted(left, key=lambda job: _was_bad(before, job))))
    with batch_folder.Status(folder, plan.rows) as status, _bar(jobs, plan) as bar:
        try:
            while not queue.is_over(plan):
                _fill(client, notebook, plan, queue)
                for future in _first_of(queue.running):
                    _settle_ended(plan, queue, future)
                    status.write()
                    _show(bar, plan, len(queue.running))
        except (CommClosedError, CancelledError):  # nobody is there to be told to stop
            raise BatchError(GONE) from None
        except BaseException:
            _end(client, queue.running)
            raise
    return list(plan.rows.values())


def _fill(client, notebook, plan, queue):
    """Gives every free worker a person. Raises BatchError where nobody is there to work."""
    now = time.monotonic()
    queue.waiting.extend(job for when, job in queue.later if when <= now)
    queue.later = [(when, job) for when, job in queue.later if when > now]
    places = batch_workers.slots(client, plan.resource)
    queue.seen = now if places else queue.seen
    _check_alive(client, plan, queue.seen)
    while queue.waiting and len(queue.running) < len(places) and not plan.stopped:
        job = queue.waiting.popleft()
        queue.running[_submit(client, notebook, job, plan)] = job


def _settle_ended(plan, queue, future):
    """Settles a person whose run ended, or puts it back."""
    job = queue.running.pop(future)
    state = _settle(plan, job, future)
    if state == "again":
        queue.waiting.append(job)
    elif state == "busy":
        queue.later.append((time.monotonic() + BUSY, job))


def _done(plan, job):
    return plan.rows[str(job.folder)]["state"] == "finished"


def _was_bad(before, job):
    """Whether an earlier command had set this person aside: then it comes last."""
    return before.get(str(job.folder), {}).get("state") == "set aside"


def _submit(client, notebook, job, plan):
    resources = {plan.resource: 1} if plan.resource else None
    words = (str(notebook), job.values, plan.limit)
    return client.submit(batch_worker.run_person, *words, pure=False, resources=resources)


def _first_of(running):
    """Those that ended, at most a second from now."""
    if not running:
        time.sleep(0.2)
        return []
    try:
        return list(wait(list(running), timeout=1, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _settle(plan, job, future):
    """Writes what came of a person into its row; returns "again", "busy" or "" (it is settled)."""
    row = plan.rows[str(job.folder)]
    error = future.exception() if future.status == "error" else None
    if future.status in ("cancelled", "lost"):
        return "again"
    if isinstance(error, KilledWorker):
        row["deaths"] += 1 + error.allowed_failures
        bad = row["deaths"] >= DEATHS
        says = f"its worker died {row['deaths']} times"
        row |= {"state": "set aside" if bad else "waiting", "error": "KilledWorker", "message": says}
        return "" if bad else "again"
    if error is not None:  # a worker that cannot run anything: of another version, for example
        raise BatchError(f"A worker failed: {type(error).__name__}: {error}. Remedy: start it in this environment.")
    found = future.result()
    if found["state"] == "busy":
        return "busy"
    row["tries"] += 1
    row |= {name: found[name] for name in ("error", "message", "worker", "started")} | {
        "seconds": round(found["seconds"], 3)
    }
    if found["state"] == "disk full":
        plan.stopped = "the disk is full"
    if found["state"] == "finished":
        row |= {"state": "finished", "folder": batch_folder.relative(found["folder"])}
    elif row["tries"] <= plan.retries and not plan.stopped:
        return "again"
    else:
        row["state"] = "failed"
    return ""


def _check_alive(client, plan, last):
    """Raises BatchError where the scheduler is gone, or where no worker was there for too long."""
    if client.status != "running":
        raise BatchError(GONE)
    if plan.patience is not None and time.monotonic() - last > plan.patience:
        raise BatchError(f"No worker for {plan.patience:g} s. Remedy: start workers; the same command goes on.")


def _end(client, running):
    """Ends what the workers compute, so that no kernel of this batch goes on."""
    try:
        client.cancel(list(running), force=True)
        client.run(batch_worker.stop, [str(job.folder) for job in running.values()], on_error="ignore")
    except Exception:  # the scheduler may be what has died
        pass


def _bar(jobs, plan):
    done = sum(_done(plan, job) for job in jobs)
    bar = tqdm(total=len(jobs), initial=done, unit="person", desc="people", dynamic_ncols=True)
    _show(bar, plan, 0)
    return bar


def _show(bar, plan, running):
    states = [row["state"] for row in plan.rows.values()]
    bad = sum(state in ("failed", "set aside") for state in states)
    waiting = max(0, states.count("waiting") - running)
    bar.set_postfix_str(f"{states.count('finished')} done, {bad} failed, {waiting} waiting")
    bar.update(states.count("finished") + bad - bar.n)


# ---- the command


def _arguments(words):
    parser = argparse.ArgumentParser("python -m lib.batch", description="Run a notebook on many people.")
    parser.add_argument("notebook", help="path or name of a notebook")
    parser.add_argument("people", help="CSV file with a row a person, a folder of person folders, or a glob of them")
    parser.add_argument("-f", "--file", action="append", default=[], help="YAML file of parameters; a later one wins")
    parser.add_argument("-p", "--parameter", action="append", default=[], nargs=2, metavar=("NAME", "VALUE"))
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=1, help="processes on this machine (1)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler that runs already")
    where.add_argument("--slurm", metavar="FILE", help="YAML file of Slurm's jobs; see params/slurm.yaml")
    parser.add_argument("--threads", type=int, help="of each worker here (cores / workers)")
    parser.add_argument("--gpus", help="GPUs of the workers here, such as 0,1 (all that there are)")
    parser.add_argument("--retries", type=int, default=1, help="further tries after an error (1)")
    parser.add_argument("--limit", type=float, metavar="MINUTES", help="of one try (none)")
    parser.add_argument("--check", action="store_true", help="check the table and end")
    return parser.parse_args(words)


def _workers(given, resource):
    if given.scheduler:
        return batch_workers.of_scheduler(given.scheduler)
    if given.slurm:
        return batch_workers.of_slurm(given.slurm)
    gpus = given.gpus.split(",") if given.gpus else batch_workers.gpus() if resource else []
    return batch_workers.local(given.workers, given.threads, gpus if resource else [])


def _obey(given, check_person):
    notebook = parameters.find(given.notebook)
    here = not (given.scheduler or given.slurm)
    rows = batch_table.read(given.people)
    jobs = batch_table.jobs(notebook, rows, given.file, given.parameter, check_person, here)
    print(f"{len(jobs)} people checked: {given.people}")
    if given.check:
        return []
    devices = [str(job.values.get("DEVICE", "cpu")) for job in jobs]
    resource = batch_workers.GPU if any(device.startswith("cuda") for device in devices) else None
    limit = 60 * checks.positive("limit", given.limit) if given.limit is not None else None
    patience = None if given.slurm else PATIENCE
    plan = Plan(checks.whole("retries", given.retries), limit, patience, resource)
    folder = batch_folder.make(notebook, jobs, given.people)
    with _workers(given, resource) as client:
        _wait_for_one(client, given)
        batch_workers.check(client, resource)
        if batch_workers.has_dashboard():
            print(f"dashboard {client.dashboard_link}")
        rows = run(client, notebook, jobs, folder, plan)
    batch_folder.report(folder, rows, plan.stopped)
    return rows


def _wait_for_one(client, given):
    """Waits for the first worker: of a queue as long as it takes, of others WAIT seconds."""
    if given.slurm:
        print("waiting for Slurm to start the first job ...", file=sys.stderr)
    try:
        client.wait_for_workers(1, timeout=None if given.slurm else batch_workers.WAIT)
    except TimeoutError:
        raise BatchError(f"No worker after {batch_workers.WAIT} s. Remedy: start `dask worker`.") from None


def main(words=None, check_person=None):
    """The command; returns its exit status: 0 where every person is finished, 130 after Ctrl-C, otherwise 1."""
    given, rows = _arguments(words), []
    try:
        with runner.stopping_as_ctrl_c():
            status = exit_status(lambda: rows.extend(_obey(given, check_person)))
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on: finished people are skipped, others resume.", file=sys.stderr)
        return 130
    return status or int(any(row["state"] != "finished" for row in rows))
