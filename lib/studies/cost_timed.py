"""The time of a tuning step and of a restoration on this machine: the library's loop, its options, a baseline loop."""

import statistics
import time
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler

from lib import checks
from lib.degradation.degrade import degrade
from lib.models.personal_weights import Personal
from lib.models.precision import offloaded, parse
from lib.restoration.sampling import restore
from lib.runs import record
from lib.studies.cost_counted import GB, tuned
from lib.training.pivots import Prepared, model_pivot, prepare, textual_pivot

BASELINE = "baseline loop"
SPEED_UP = "baseline / this"
WARM_UP = 2  # untimed steps of a loop: the first compiles kernels, the last has no successor to end it


# ---- the library's loop ----


@dataclass
class Clocked(Prepared):
    """Prepared pictures that note the time of each batch, so that the loop of `lib.training` itself is timed."""

    ticks: list = field(default_factory=list)

    def sample(self, count, g):
        self.ticks.append(_now(self.latents.device))
        return super().sample(count, g)


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_ours(B, prepared, training, part="G"):
    """Seconds of each step of the library's textual pivot (part "G") or model pivot ("E"), without warm-up."""
    clocked = Clocked(prepared.latents, prepared.hints)
    training = replace(training, steps=training.steps + WARM_UP, quiet=True)
    if part == "G":
        textual_pivot(B, clocked, training=training)
    else:
        model_pivot(B, clocked, training)
    return _between(clocked.ticks)


# ---- the baseline loop ----


def time_baseline(B, pictures, degraded, prompt, training, part="G"):
    """Seconds of each step of a loop as the diffusers examples write it (train_dreambooth.py, train_controlnet.py)."""
    inside = tuned(B, part, training.lora)
    with offloaded(B, part):  # `inside` has a copy of it
        return _baseline_steps(inside, pictures, degraded, prompt, training, part)


def _baseline_steps(B, pictures, degraded, prompt, training, part):
    weights = [weight for weight in getattr(B, part).parameters() if weight.requires_grad]
    optimiser, ticks = torch.optim.AdamW(weights, lr=training.lr), []
    schedule = get_scheduler("constant", optimizer=optimiser)
    for step in range(training.steps + WARM_UP):
        ticks.append(_now(B.device))
        baseline_loss(B, pictures, degraded, prompt, training.batch, torch.Generator().manual_seed(step)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    return _between(ticks)


def baseline_loss(B, pictures, degraded, prompt, batch, g):
    """The loss of one step of the baseline loop, which encodes pictures and prompts again at every step."""
    i = torch.randint(len(pictures), (batch,), generator=g)
    with torch.no_grad():
        x0 = B.posterior(pictures[i]).sample(g if B.device.type == "cpu" else None) * B.vae.config.scaling_factor
        hint = B.encode(B.clean(degraded[i]))  # (batch, C, h, w)
        null, text = B.embed(["", prompt])  # (L, D) each
    eps = torch.randn(x0.shape, generator=g).to(x0)
    t = torch.randint(B.scheduler.config.num_train_timesteps, (batch,), generator=g).to(B.device)
    x_t = B.scheduler.add_noise(x0, eps, t)
    text, null = (words.expand(batch, -1, -1) for words in (text, null))
    return F.mse_loss(B.predict(x_t, t, text, hint, null), eps)


def _between(ticks):
    return [b - a for a, b in zip(ticks[1:], ticks[2:])]


# ---- tables ----


def variants(options, lora=0):
    """Ways to tune, for `time_tuning`: name -> changes of a Training.

    Args: options, each some words of `precision.parse`; lora, a rank for one more way, or 0.
    """
    found = {"ours": {}} | {words: {"precision": parse(words)} for words in options}
    return found | ({f"LoRA {lora}": {"lora": lora}} if lora else {})


def time_tuning(B, pictures, ways, training, rounds=3, part="G"):
    """A table with one row per way of tuning: median seconds per step, speed-up over the baseline loop, peak GB.

    Args: pictures (N, 3, H, W) of one person; ways, of `variants`; training, what they change; rounds, in each of which
    every way has its turn, so that other load on the machine meets all alike; part, "G" or "E".
    """
    checks.whole("rounds", rounds, least=1)
    prompt, prepared = Personal().prompt, prepare(B, pictures, "tiny", degradations=2)
    degraded = degrade(pictures, "tiny", range(len(pictures)))
    works = {BASELINE: lambda: time_baseline(B, pictures, degraded, prompt, training, part)}
    for name, changes in ways.items():
        works[name] = lambda changes=changes: time_ours(B, prepared, replace(training, **changes), part)
    seconds, peaks = {name: [] for name in works}, dict.fromkeys(works, 0)
    for _ in range(rounds):
        for name, work in works.items():
            peaks[name] = max(peaks[name], _peak(B.device, lambda: seconds[name].extend(work())))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    speed_up = {name: median[BASELINE] / value for name, value in median.items()}
    return _with_peaks(pd.DataFrame({"seconds per step": median, SPEED_UP: speed_up}), peaks)


def time_restoring(B, pictures, steps=50, batches=(1, 4), options=("", "bfloat16"), rounds=3):
    """A table with one row per batch size and option: median seconds per picture, degraded to restored, and peak GB."""
    seconds, peaks = {}, {}
    for words in options:
        for count in batches:
            name = f"batch {count}{f', {words}' if words else ''}"
            seconds[name], peaks[name] = _time_restoring(B, pictures[:1], count, steps, parse(words), rounds)
    return _with_peaks(pd.DataFrame({"seconds per picture": seconds}), peaks)


def _time_restoring(B, picture, count, steps, precision, rounds):
    batch = picture.repeat(count, 1, 1, 1)  # (count, 3, H, W)

    def work(steps):
        restore(B, batch, seeds=range(count), steps=steps, batch=count, precision=precision)

    work(2)  # warm-up
    seconds, peaks = zip(*[_timed(B.device, lambda: work(steps)) for _ in range(rounds)])
    return statistics.median(seconds) / count, max(peaks)


def _with_peaks(table, peaks):
    """The table with a column of peak GB, where the system can tell them."""
    return table.assign(**{"peak GB": pd.Series(peaks) / GB}) if all(peaks.values()) else table


def _timed(device, work):
    start, peak = _now(device), _peak(device, work)
    return _now(device) - start, peak


def _peak(device, work):
    """Bytes held at most during `work`: on a GPU, or by this process on a CPU; 0 where the system cannot tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    return record.peak_during(work)


def card(device):
    """The GPU's name as its driver reports it, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def part_of(rows, part):
    """The rows of a record that belong to one part, such as "textual step": a table with one row per way."""
    return pd.DataFrame([row for row in rows if row["part"] == part]).drop(columns=["part", "card"]).set_index("way")
