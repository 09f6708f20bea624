"""What a person costs on the clock: the loop that tunes, step by step and switch by switch, against a plain loop; and restoring."""

import statistics
import time
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers.optimization import get_scheduler

from lib import checks
from lib.degradation.degrade import degrade
from lib.models.precision import Precision, offloaded
from lib.models.system import RARE_TOKEN
from lib.restoration.sampling import restore
from lib.runs import record
from lib.studies.cost_counted import GB, tuned
from lib.training.pivots import Prepared, model_pivot, prepare, textual_pivot


@dataclass
class Clocked(Prepared):
    """Shots that note when they are asked, once a step: so the very loop that tunes is timed."""

    ticks: list = field(default_factory=list)

    def draw(self, count, g):
        self.ticks.append(_now(self.latents.device))
        return super().draw(count, g)


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(B, shots, prompt, tuning, part="G"):
    """Seconds of each step of a pivot, its first left out."""
    clocked = Clocked(shots.latents, shots.hints)
    (textual_pivot if part == "G" else model_pivot)(
        B, clocked, prompt, replace(tuning, steps=tuning.steps + 2, quiet=True)
    )
    return _between(clocked.ticks)


def plain(B, pictures, degraded, prompt, tuning, part="G"):
    """The same step as the diffusers examples write it (train_dreambooth.py, train_controlnet.py): every step encodes its pictures and
    its prompt, clips gradients and asks a learning-rate schedule; E steers here as there. Seconds of each step, its first left out."""
    inside = tuned(B, part, tuning.lora)
    with offloaded(B, part):  # the original, which its copy stands for
        return _plain_steps(inside, pictures, degraded, prompt, tuning, part)


def _plain_steps(inside, pictures, degraded, prompt, tuning, part):
    weights = [weight for weight in getattr(inside, part).parameters() if weight.requires_grad]
    optimiser, ticks = torch.optim.AdamW(weights, lr=tuning.lr), []
    schedule = get_scheduler("constant", optimizer=optimiser)
    for step in range(tuning.steps + 2):
        ticks.append(_now(inside.device))
        g = torch.Generator().manual_seed(step)
        loss = _plain_loss(inside, pictures, degraded, prompt, tuning, g)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    return _between(ticks)


def _plain_loss(B, pictures, degraded, prompt, tuning, g):
    i = torch.randint(len(pictures), (tuning.batch,), generator=g)
    with torch.no_grad():
        x0 = B.posterior(pictures[i]).sample(g if B.device.type == "cpu" else None) * B.vae.config.scaling_factor
    hint, (null, text) = B.encode(B.clean(degraded[i])), B.embed(["", prompt]).split(1)
    eps, t = (
        torch.randn(x0.shape, generator=g).to(x0),
        torch.randint(B.scheduler.config.num_train_timesteps, (len(x0),), generator=g).to(B.device),
    )
    null, text = (words.expand(len(x0), -1, -1) for words in (null, text))
    return F.mse_loss(B.predict(B.scheduler.add_noise(x0, eps, t), t, text, hint, null), eps)


def _between(ticks):
    return [b - a for a, b in zip(ticks[1:], ticks[2:])]


def timed(B, pictures, variants, tuning, rounds=3, part="G"):
    """A row for each variant, interleaved: median seconds a step, how many times the plain loop is slower, peak GB.

    variants: name -> how it changes `tuning`; the plain loop comes with them. rounds: how often each takes its turn.
    """
    checks.whole("rounds", rounds, least=1)
    prompt, shots, degraded = (
        f"a photo of a {RARE_TOKEN} person",
        prepare(B, pictures, degradations=2),
        degrade(pictures, "tiny", list(range(len(pictures)))),
    )
    works = {
        name: (lambda how=how: ours(B, shots, prompt, replace(tuning, **how), part)) for name, how in variants.items()
    }
    works = {"plain loop": lambda: plain(B, pictures, degraded, prompt, tuning, part)} | works
    seconds, peaks = {name: [] for name in works}, {}
    for _ in range(rounds):
        for name, work in works.items():
            peaks[name] = max(peaks.get(name, 0), _peak(B.device, lambda: seconds[name].extend(work())))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    table = pd.DataFrame({"seconds a step": median})
    table["plain loop / this"] = median["plain loop"] / table["seconds a step"]
    return table.assign(**{"peak GB": [peaks[name] / GB for name in table.index]} if all(peaks.values()) else {})


def restoring(B, pictures, steps=50, batches=(1, 4), ways=(Precision(), Precision(bf16=True)), rounds=3):
    """A row for each number of pictures at once and each of the levers `ways`: median seconds a picture from degraded to restored, peak GB."""
    rows = {}
    for levers in ways:
        for count in batches:
            again = lambda steps: restore(
                B,
                pictures[:1].repeat(count, 1, 1, 1),
                seeds=list(range(count)),
                steps=steps,
                batch=count,
                levers=levers,
            )  # noqa: E731
            again(2)  # warms up
            seconds, peaks = zip(*[_once(B.device, lambda: again(steps)) for _ in range(rounds)])
            measured = {"seconds a picture": statistics.median(seconds) / count} | (
                {"peak GB": max(peaks) / GB} if all(peaks) else {}
            )
            rows[f"{count} at once{', bf16' * levers.bf16}"] = measured
    return pd.DataFrame(rows).T


def _once(device, work):
    start, peak = _now(device), _peak(device, work)
    return _now(device) - start, peak


def card(device):
    """The name of the device as its driver has it; "cpu" for a CPU, whose seconds are of no interest elsewhere."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peak(device, work):
    """Bytes held at most during `work`: by the device, or where that is a CPU by this process; 0 where nobody can tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    return record.peak_during(work)


def part_of(rows, part):
    """The rows of a record that are of one part, "textual step", say: a table with a row a way."""
    return pd.DataFrame([row for row in rows if row["part"] == part]).drop(columns=["part", "card"]).set_index("way")
