"""Waiting for a fleet of GPUs: M/M/c in closed form, and a simulation of tunings and pictures that arrive at random."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import simpy
from scipy import stats

from lib import checks
from lib.errors import RangeError


def erlang_c(load, servers):
    """The chance that a customer of M/M/c waits (Erlang's C formula): load = arrival rate x mean service time < c."""
    if not 0 <= load < servers:
        return 1.0
    blocked = 1.0  # Erlang's B, by its recurrence
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(rate, service, servers):
    """The mean wait in M/M/c, in the unit of `service`; infinite where the servers cannot keep up."""
    load = rate * service
    return erlang_c(load, servers) * service / (servers - load) if load < servers else math.inf


@dataclass(frozen=True)
class Traffic:
    """What comes to a fleet: kinds of work with their rate (an hour) and seconds of one, the first kind served first.

    A rate of 0 means no such work. people: how many have weights; a picture is of one of them at random. kept: of how
    many a GPU keeps the weights. reading: seconds to read one person's weights. spread: of log-normal service times
    around their mean; None: exponential. Raises RangeError.
    """

    rates: dict
    seconds: dict
    people: int = 1
    kept: int = 1
    reading: float = 0.0
    spread: float | None = 0.1

    def __post_init__(self):
        for kind, rate in self.rates.items():
            checks.positive(f"rate of {kind}", rate or 1.0)
            checks.positive(f"seconds of {kind}", self.seconds[kind])
        checks.whole("people", self.people, 1)
        checks.whole("kept", self.kept, 1)
        checks.positive("reading", self.reading or 1.0)


def load(traffic):
    """The mean number of GPUs that are busy: rate x mean time, summed over the kinds (a of Erlang's formula).

    A picture's time includes reading, with the chance 1 - kept / people that its person is not on the GPU.
    """
    means = dict(traffic.seconds)
    if "picture" in means:
        means["picture"] += traffic.reading * max(0.0, 1 - traffic.kept / traffic.people)
    return sum(rate * means[kind] / 3600 for kind, rate in traffic.rates.items())


def simulate(traffic, gpus, hours, seed=0):
    """A discrete-event simulation of `hours` of arrivals: a row for each piece of work: kind, wait (s), loaded.

    Each GPU serves one piece at a time, the first kind before the others. A picture whose person's weights are not on
    the GPU that is free waits for them to be read, and the weights used longest ago are removed. After `hours` nothing
    arrives any more, and what waits is still served: every piece of work that came has its row.
    Raises RangeError.
    """
    end, gpus = 3600 * checks.positive("hours", hours), checks.whole("gpus", gpus, 1)
    world, random, rows = simpy.Environment(), np.random.default_rng(seed), []
    pool = simpy.PriorityResource(world, capacity=gpus)
    free, held = list(range(gpus)), [{} for _ in range(gpus)]

    def serve(kind, priority):
        came = world.now
        with pool.request(priority=priority) as request:
            yield request
            wait, gpu = world.now - came, free.pop(0)
            loaded = kind == "picture" and _load(held[gpu], int(random.integers(traffic.people)), traffic.kept)
            yield world.timeout(_service(traffic, kind, random) + (traffic.reading if loaded else 0.0))
            free.append(gpu)
        rows.append((kind, wait, loaded))

    def arrive(kind, priority, rate):
        yield world.timeout(random.exponential(3600 / rate))
        while world.now <= end:
            world.process(serve(kind, priority))
            yield world.timeout(random.exponential(3600 / rate))

    for priority, (kind, rate) in enumerate(traffic.rates.items()):
        if rate:
            world.process(arrive(kind, priority, rate))
    world.run()
    return pd.DataFrame(rows, columns=["kind", "wait", "loaded"])


def _service(traffic, kind, random):
    mean = traffic.seconds[kind]
    if traffic.spread is None:
        return random.exponential(mean)
    return mean * math.exp(random.normal(-(traffic.spread**2) / 2, traffic.spread))


def _load(held, person, kept):
    """Whether the person's weights must be read; they are on the GPU afterwards, the last used at the end."""
    missing = held.pop(person, None) is None
    held[person] = True
    if len(held) > kept:
        del held[next(iter(held))]
    return missing


def gpus_for(traffic, target, hours=20, most=256, seeds=(0,)):
    """The least number of GPUs, above the load, with which 95 % of pictures wait at most `target` s with every seed.

    With no more GPUs than the load nothing is simulated: the queue would grow for ever, of tunings too.
    Returns the number, and the table of its simulations with a column seed. Raises RangeError.
    """
    target = checks.positive("target", target)
    for gpus in range(math.floor(load(traffic)) + 1, most + 1):
        runs = [simulate(traffic, gpus, hours, seed).assign(seed=seed) for seed in seeds]
        if all(_longest(run, traffic) <= target for run in runs):
            return gpus, pd.concat(runs, ignore_index=True)
    raise RangeError(f"target out of range: more than {most} GPUs. Remedy: wait longer than {target} s.")


def _longest(run, traffic):
    """The wait that 95 % of the pictures do not exceed; 0 where none are to come."""
    if not traffic.rates.get("picture"):
        return 0.0
    pictures = run[run.kind == "picture"]
    if pictures.empty:
        raise RangeError("hours out of range: no picture arrived. Remedy: simulate more hours.")
    return pictures.wait.quantile(0.95)


def interval(means):
    """The mean of several independent runs and its 95 % t interval: (mean, low, high)."""
    found = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    return float(np.mean(means)), float(found.low), float(found.high)


def makespan(seconds, workers, overhead=0.0):
    """The wall time of a batch: people in order, each to the first free worker; seconds and overhead of each."""
    world = simpy.Environment()
    pool = simpy.Resource(world, capacity=workers)

    def person(length):
        with pool.request() as request:
            yield request
            yield world.timeout(length + overhead)

    for length in seconds:
        world.process(person(length))
    world.run()
    return world.now
