"""What a fleet of GPUs costs on paper: people an hour, disk and memory are counted, waiting times simulated."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import simpy
from scipy import stats

from lib import checks
from lib.errors import RangeError

STEPS = {"textual": 2500, "model": 800}  # appendix C; that they belong to Table II's faster times is assumed
GAMMA = 0.5  # with which the paper's textual pivot takes STEPS
REFERENCES = 10
V100 = 15.7  # TFLOP per second at the peak of the paper's card in float32
HALF, FULL = 2, 4  # bytes of a number in an adapter and in full weights


@dataclass(frozen=True)
class Choice:
    """How people are tuned and restored: full weights or adapters of rank 3, E shared or own, gamma, sampling steps.

    prior: whether the textual pivot preserves the class (second term of eq. 2); its class images are made once a class.
    """

    adapters: bool = False
    shared_E: bool = False
    gamma: float = GAMMA
    steps: int = 50
    prior: bool = False

    def __str__(self):
        parts = ["LoRA 3" if self.adapters else "full", "E shared" if self.shared_E else "E own"]
        parts += [f"γ {self.gamma:g}", f"{self.steps} step{'s' if self.steps > 1 else ''}"]
        return ", ".join([*parts, "prior"] if self.prior else parts)


def pivots(choice, tflop):
    """TFLOP of tuning one person, by pivot (eqs 6 and 7); the references are encoded in the textual one.

    The steps of the textual pivot are proportional to 1 - gamma, the share of the schedule that is trained (section
    IV-C). Those of the model pivot are not: they are half as many because the textual pivot was in context (IV-C, Fig.
    9). A prior doubles the textual step (eq. 2). A shared E was tuned before, once for everybody (Fig. 6).
    Args: choice; tflop, of one step each (`counted.json`). Returns a dict.
    """
    kind = ", LoRA 3" if choice.adapters else ""
    steps = STEPS["textual"] * (1 - choice.gamma) / (1 - GAMMA) * (2 if choice.prior else 1)
    return {
        "textual": steps * tflop[f"textual step{kind}"] + 2 * REFERENCES * tflop["encode"],
        "model": 0.0 if choice.shared_E else STEPS["model"] * tflop[f"model step{kind}"],
    }


def tuning(choice, tflop):
    """TFLOP of tuning one person: both of `pivots`."""
    return sum(pivots(choice, tflop).values())


def restoring(choice, tflop):
    """TFLOP of restoring one picture: encoding, `steps` evaluations of G and E, decoding."""
    return tflop["encode"] + choice.steps * tflop["restoration step"] + tflop["decode"]


def disk(choice, counted):
    """Bytes that one person's weights take: of G, and of E where it is the person's own."""
    weights, size = (counted["adapter weights"], HALF) if choice.adapters else (counted["weights"], FULL)
    return size * (weights["G"] + (0 if choice.shared_E else weights["E"]))


def resident(choice, counted, memory):
    """How many people's weights fit `memory` bytes of a GPU beside the base, all in half precision.

    Raises RangeError where not even one person's do.
    """
    base = HALF * sum(counted["weights"].values())
    fit = int((memory - base) / (disk(choice, counted) * (1 if choice.adapters else HALF / FULL)))
    if fit < 1:
        raise RangeError(f"memory out of range: {memory / 1e9:.1f} GB. Remedy: the base alone takes {base / 1e9:.1f}.")
    return fit


def of_the_paper(tflop, paper):
    """The share of the V100's peak that the paper's own times mean, by stage. Args: paper, seconds by stage."""
    arithmetic = pivots(Choice(), tflop) | {"restoration": restoring(Choice(), tflop)}
    return {stage: arithmetic[stage] / checks.positive(stage, paper[stage]) / V100 for stage in arithmetic}


def seconds(tflop, peak, share):
    """How long this arithmetic takes. Args: tflop; peak, TFLOP per second; share of it that is reached, above 0."""
    return tflop / checks.positive("peak", peak) / checks.positive("share", share)


def people_an_hour(choice, tflop, peak, shares):
    """People tuned in a GPU-hour: (low, middle, high).

    In the middle each pivot reaches its own share of the peak; low and high have both at the lower and at the higher
    one. Args: shares, of `of_the_paper`.
    """
    work = pivots(choice, tflop)
    both = sorted(shares[pivot] for pivot in work)
    middle = sum(seconds(work[pivot], peak, shares[pivot]) for pivot in work)
    slow, fast = (seconds(sum(work.values()), peak, share) for share in both)
    return 3600 / slow, 3600 / middle, 3600 / fast


def pictures_an_hour(choice, tflop, peak, shares):
    """Pictures restored in a GPU-hour, at the share of the peak that the paper's restoration reached."""
    return 3600 / seconds(restoring(choice, tflop), peak, shares["restoration"])


def table(choices, counted, peak, shares, memory, people=(1e3, 1e6)):
    """What each choice costs, a row each; of people an hour the middle, with low and high in brackets.

    Args: shares, of `of_the_paper`; memory, bytes of a GPU that base and personal weights may take.
    """
    rows, tflop = {}, counted["tflop"]
    for choice in choices:
        low, middle, high = people_an_hour(choice, tflop, peak, shares)
        row = {"people an hour": f"{middle:,.0f} ({low:,.0f} to {high:,.0f})"}
        row["pictures an hour"] = f"{pictures_an_hour(choice, tflop, peak, shares):,.0f}"
        row["MB a person"] = f"{disk(choice, counted) / 1e6:,.1f}"
        row |= {f"disk, {n:,.0f} people (TB)": f"{n * disk(choice, counted) / 1e12:,.3g}" for n in people}
        rows[str(choice)] = row | {"people whose weights fit a GPU's memory": f"{resident(choice, counted, memory):,}"}
    return pd.DataFrame(rows).T


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
