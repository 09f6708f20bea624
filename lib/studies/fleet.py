"""What a fleet of GPUs costs on paper: people an hour, disk and memory are counted, waiting times simulated."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import simpy
from scipy import stats

STEPS = {"textual": 2500, "model": 800}  # of the paper at gamma 0.5 (notebook 22); Table II has twice the time without
REFERENCES = 10
UTILISATION = (0.18, 0.30, 0.54)  # of the peak: low and high are those of the paper itself (`of_the_paper`)
V100 = 15.7  # TFLOP per second at the peak of the paper's card in float32
HALF, FULL = 2, 4  # bytes of a number in an adapter and in full weights
READ = 1.0e9  # bytes per second at which personal weights come from a disk
CARD = 141e9  # bytes of memory of an H200


@dataclass(frozen=True)
class Choice:
    """How people are tuned and restored: full weights or adapters of rank 3, E shared or own, gamma, sampling steps."""

    adapters: bool = False
    shared_E: bool = False
    gamma: float = 0.5
    steps: int = 50

    def __str__(self):
        parts = ["LoRA 3" if self.adapters else "full", "E shared" if self.shared_E else "E own"]
        return ", ".join([*parts, f"γ {self.gamma:g}", f"{self.steps} step{'s' if self.steps > 1 else ''}"])


def tuning(choice, tflop):
    """TFLOP of tuning one person: both pivots (eqs 6 and 7) and the encoding of the references.

    The steps are proportional to 1 - gamma, the share of the schedule that is trained (section IV-C); a shared E was
    tuned before, once for everybody (Fig. 6). Args: choice; tflop, of one step each (`counted.json`).
    """
    kind = ", LoRA 3" if choice.adapters else ""
    longer = (1 - choice.gamma) / 0.5
    total = longer * STEPS["textual"] * tflop[f"textual step{kind}"]
    total += 0 if choice.shared_E else longer * STEPS["model"] * tflop[f"model step{kind}"]
    return total + 2 * REFERENCES * tflop["encode"]


def restoring(choice, tflop):
    """TFLOP of restoring one picture: encoding, `steps` evaluations of G and E, decoding."""
    return tflop["encode"] + choice.steps * tflop["restoration step"] + tflop["decode"]


def disk(choice, counted):
    """Bytes that one person's weights take: of G, and of E where it is the person's own."""
    weights, size = (counted["adapter weights"], HALF) if choice.adapters else (counted["weights"], FULL)
    return size * (weights["G"] + (0 if choice.shared_E else weights["E"]))


def resident(choice, counted):
    """How many people's weights fit a card beside the base, all in half precision."""
    base = HALF * sum(counted["weights"].values())
    return int((0.8 * CARD - base) / (disk(choice, counted) * (1 if choice.adapters else HALF / FULL)))


def of_the_paper(tflop, paper):
    """The share of the V100's peak that the paper's own times mean, by stage. Args: paper, seconds by stage."""
    arithmetic = {stage: STEPS[stage] * tflop[f"{stage} step"] for stage in STEPS}
    arithmetic["restoration"] = restoring(Choice(), tflop)
    return {stage: arithmetic[stage] / paper[stage] / V100 for stage in arithmetic}


def per_hour(tflop, peak, utilisation=UTILISATION):
    """How often this arithmetic is done in a GPU-hour: low, middle and high, by the share of the peak."""
    return tuple(3600 * peak * share / tflop for share in utilisation)


def table(choices, counted, peak, people=(1e3, 1e6)):
    """What each choice costs, a row each, with the range of UTILISATION in brackets where time is meant."""
    rows = {}
    for choice in choices:
        tune, picture = tuning(choice, counted["tflop"]), restoring(choice, counted["tflop"])
        row = {"people an hour": _range(per_hour(tune, peak)), "pictures an hour": _range(per_hour(picture, peak))}
        row["MB a person"] = f"{disk(choice, counted) / 1e6:,.1f}"
        row |= {f"disk, {n:,.0f} people (TB)": f"{n * disk(choice, counted) / 1e12:,.3g}" for n in people}
        rows[str(choice)] = row | {"people in a card": f"{resident(choice, counted):,}"}
    return pd.DataFrame(rows).T


def _range(values):
    low, middle, high = (f"{value:,.0f}" for value in values)
    return f"{middle} ({low} to {high})"


# ---- waiting


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

    people: how many have weights; a picture is of one of them at random. kept: how many of them fit a card. load:
    seconds to read one person's weights. spread: of log-normal service times around their mean; None: exponential.
    """

    rates: dict
    seconds: dict
    people: int = 1
    kept: int = 1
    load: float = 0.0
    spread: float | None = 0.1


def simulate(traffic, gpus, hours, seed=0):
    """A discrete-event simulation of `hours`: a table with a row for each piece of work: kind, wait (s), loaded.

    Each GPU serves one piece at a time, the first kind before the others. A picture whose person's weights are not on
    the GPU that is free waits for them to be read, and the person that was used longest ago makes room.
    """
    world, random, rows = simpy.Environment(), np.random.default_rng(seed), []
    pool = simpy.PriorityResource(world, capacity=gpus)
    free, held = list(range(gpus)), [{} for _ in range(gpus)]

    def serve(kind, priority):
        came = world.now
        with pool.request(priority=priority) as request:
            yield request
            wait, gpu = world.now - came, free.pop(0)
            loaded = kind == "picture" and _load(held[gpu], int(random.integers(traffic.people)), traffic.kept)
            yield world.timeout(_service(traffic, kind, random) + (traffic.load if loaded else 0.0))
            free.append(gpu)
        rows.append((kind, wait, loaded))

    def arrive(kind, priority):
        while True:
            yield world.timeout(random.exponential(3600 / traffic.rates[kind]))
            world.process(serve(kind, priority))

    for priority, kind in enumerate(traffic.rates):
        world.process(arrive(kind, priority))
    world.run(3600 * hours)
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


def gpus_for(traffic, target, hours=20, most=256, seed=0):
    """The least number of GPUs with which 95 % of pictures wait at most `target` seconds, and the table of that run.

    Below the load nothing is simulated: the queue would grow for ever.
    """
    load = sum(traffic.rates[kind] * traffic.seconds[kind] / 3600 for kind in traffic.rates)
    for gpus in range(max(1, math.ceil(load)), most + 1):
        found = simulate(traffic, gpus, hours, seed)
        if found[found.kind == "picture"].wait.quantile(0.95) <= target:
            return gpus, found
    raise ValueError(f"More than {most} GPUs. Remedy: allow a longer wait than {target} s.")


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
