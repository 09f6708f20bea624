"""What a fleet of GPUs costs on paper: people an hour, disk and memory are counted."""

from dataclasses import dataclass

import pandas as pd

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
