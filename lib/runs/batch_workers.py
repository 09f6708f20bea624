"""The workers of a batch on dask.distributed: on this machine, of a scheduler that runs already, or Slurm's."""

import importlib
import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import warnings
from contextlib import contextmanager

import dask
import yaml
from distributed import Client, Nanny, Scheduler, SpecCluster
from tornado.ioloop import PeriodicCallback

from lib import checks, paths, strict_yaml
from lib.errors import BatchError
from lib.runs import batch_worker

GPU = "GPU"  # the name of dask's resource
WAIT = 60  # seconds that a scheduler, or a worker of one, may take to answer
RENEW = 60  # seconds after which jobs of Slurm that ended are submitted again
# A worker's death is counted by the batch, against the person that it had.
DEATHS_ARE_OURS = {"distributed.scheduler.allowed-failures": 0}
QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # what happens to a worker, the batch says itself
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SLURM = {"jobs": int, "queue": str, "account": str, "cores": int, "memory": str, "walltime": str, "gpus": int,
         "interface": str, "python": str, "local_directory": str, "job_script_prologue": list,
         "job_extra_directives": list}  # fmt: skip


@contextmanager
def local(workers=1, threads=None, gpus=()):
    """A client of `workers` processes on this machine, each with its share of the cores and, of `gpus`, one GPU.

    Args: workers; threads of each, by default the cores divided by the workers; gpus, names for CUDA_VISIBLE_DEVICES.
    Raises RangeError, BatchError for fewer GPUs than workers.
    """
    checks.whole("workers", workers, least=1)
    if gpus and len(gpus) < workers:
        raise BatchError(f"{workers} workers and {len(gpus)} GPUs. Remedy: give at most --workers {len(gpus)}.")
    threads = checks.whole("threads", threads or max(1, cores() // workers), least=1)
    spec = {i: {"cls": Nanny, "options": _options(threads, gpus[i] if gpus else None)} for i in range(workers)}
    address = "127.0.0.1:8787" if has_dashboard() else None
    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": has_dashboard(), "dashboard_address": address}
    _be_quiet()
    with dask.config.set(DEATHS_ARE_OURS | {"distributed.nanny.pre-spawn-environ": QUIET}):
        spec = SpecCluster(workers=spec, scheduler={"cls": Scheduler, "options": scheduler}, name="batch")
        with spec as cluster, Client(cluster) as client:
            yield client


def _be_quiet():
    """What happens to workers and schedulers, the batch says itself."""
    for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "Port 8787 is already in use")  # dask takes another, which is printed


def _options(threads, gpu):
    """A worker's own: one person at a time, its threads, its GPU. The memory is its kernel's, so it is not watched."""
    environment = {name: str(threads) for name in THREADS} | {"WORKBOOK_RUNS": str(paths.RUNS)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    resources = {GPU: 1} if gpu is not None else {}
    return {"nthreads": 1, "memory_limit": 0, "env": environment, "resources": resources, "dashboard": False}


def has_dashboard():
    """Whether dask can show its dashboard, for which it needs bokeh."""
    return bool(importlib.util.find_spec("bokeh"))


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def gpus():
    """The names of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in named.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU")]


@contextmanager
def of_scheduler(address):
    """A client of a scheduler that runs already, `tcp://host:8786`. Raises BatchError where none answers."""
    _be_quiet()
    try:
        client = Client(address, timeout=WAIT)
    except (OSError, ValueError, TimeoutError) as error:
        raise BatchError(
            f"No scheduler at {address}: {error}. Remedy: start `dask scheduler`, and "
            "`dask worker ADDRESS --nthreads 1` on each machine, from this repository's environment."
        ) from None
    with client:
        yield client


@contextmanager
def of_slurm(file):
    """A client of workers that Slurm starts, one a job, as a YAML file says (params/slurm.yaml).

    A job that ends, at its wall time for example, is replaced by another.
    Raises RangeError for a number of jobs, cores or GPUs that cannot be, and BatchError for a file that cannot be
    read, an unknown key, or where dask-jobqueue or sbatch is not there.
    """
    _be_quiet()
    settings = _slurm_settings(file)
    try:
        jobqueue = importlib.import_module("dask_jobqueue")
    except ImportError:
        raise BatchError("dask-jobqueue is not installed. Remedy: pip install -e '.[cluster]'.") from None
    if not shutil.which("sbatch"):
        raise BatchError("No sbatch here. Remedy: start the batch on a machine that submits to Slurm.")
    jobs, gpus = settings.pop("jobs", 1), settings.pop("gpus", 0)
    prologue = [f"export {name}={settings['cores']}" for name in THREADS]
    prologue += [f"export WORKBOOK_RUNS={shlex.quote(str(paths.RUNS))}"]
    settings["job_script_prologue"] = prologue + settings.get("job_script_prologue", [])
    directives = [f"--gres=gpu:{gpus}"] if gpus else []
    settings["job_extra_directives"] = directives + settings.get("job_extra_directives", [])
    extra = ["--nthreads", "1", "--memory-limit", "0"] + (["--resources", f"{GPU}={gpus}"] if gpus else [])
    logs = paths.RUNS / "batches" / "slurm"
    with dask.config.set(DEATHS_ARE_OURS):
        cluster = jobqueue.SLURMCluster(**settings, processes=1, worker_extra_args=extra, log_directory=str(logs))
        with cluster, Client(cluster) as client, _kept(cluster, jobs):
            yield client


@contextmanager
def _kept(cluster, jobs):
    """Inside the block the cluster has so many jobs: those that ended, or that sbatch refused, are submitted again."""

    def submit():
        for name in [name for name, job in cluster.workers.items() if job.job_id is None]:  # refused
            del cluster.workers[name]
        cluster.scale(jobs=jobs)

    cluster.scale(jobs=jobs)
    again = PeriodicCallback(submit, 1000 * RENEW)
    cluster.loop.add_callback(again.start)
    try:
        yield
    finally:
        cluster.loop.add_callback(again.stop)


def _slurm_settings(file):
    try:
        found = strict_yaml.load(paths.from_root(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise BatchError(f"Cannot read {file}: {error}. Remedy: see params/slurm.yaml.") from None
    found = found if isinstance(found, dict) else {}
    odd = [name for name, value in found.items() if not isinstance(value, SLURM.get(name, ()))]
    missing = [name for name in ("cores", "memory") if name not in found]
    if odd or missing:
        what = f"{odd[0]!r} is unknown or mistyped" if odd else f"{missing[0]!r} is missing"
        raise BatchError(f"Slurm's settings: {what} in {file}. Remedy: give {', '.join(SLURM)}.")
    for name, least in (("jobs", 1), ("cores", 1), ("gpus", 0)):
        checks.whole(f"{name} in {file}", found.get(name, least), least)
    return found


def slots(client, resource=None):
    """The addresses of the workers that can take a person, those with `resource` if one is named."""
    workers = client.scheduler_info()["workers"]
    return [address for address, facts in workers.items() if not resource or facts["resources"].get(resource, 0) >= 1]


def check(client, resource=None):
    """Raises BatchError where the workers have another repository, several threads, or not what the people need."""
    workers = client.scheduler_info()["workers"]
    if resource and not slots(client, resource):
        raise BatchError(
            f"No worker has a {resource}, and the table asks for one (DEVICE cuda). Remedy: start workers with "
            f"--resources {resource}=1 and CUDA_VISIBLE_DEVICES set, or run on the CPU (-p DEVICE cpu)."
        )
    if wide := [address for address, facts in workers.items() if facts["nthreads"] != 1]:
        raise BatchError(f"A worker of several threads: {wide[0]}. Remedy: start workers with --nthreads 1.")
    mine = batch_worker.place()
    for address, theirs in client.run(batch_worker.place).items():
        if other := [name for name, value in mine.items() if theirs[name] != value]:
            raise BatchError(
                f"The worker {address} has another {other[0]}: {theirs[other[0]]!s:.200}, here it is "
                f"{mine[other[0]]!s:.200}. Remedy: start it in this repository, on a file system that both see."
            )
