"""Equivalence of paired differences, and how many steps two trainings need for the same quality."""

import numpy as np
import pandas as pd
from scipy import stats

from lib import checks
from lib.errors import RangeError


def equivalence(differences, margin):
    """Two one-sided tests (Schuirmann 1987): does the mean difference lie within -margin to +margin?

    Args: differences, one for each person; margin > 0, chosen before looking, in the unit of the differences.
    Returns a dict: mean; low, high, the 90 % interval, which lies within the margin exactly when p < 0.05; p; verdict,
    "equivalent"; else "higher" or "lower", if the 95 % interval excludes zero; else "not lower" or "not higher", if one
    of the two tests holds (by more than the margin, that is); else "inconclusive".
    Raises RangeError for fewer than two people, or a margin that is not positive.
    """
    checks.positive("margin", margin)
    values = np.asarray(differences, float)
    if len(values) < 2:
        raise RangeError(f"{len(values)} people are too few for an interval. Remedy: give at least two.")
    above = stats.ttest_1samp(values, -margin, alternative="greater")
    below = stats.ttest_1samp(values, margin, alternative="less")
    either = stats.ttest_1samp(values, 0.0)
    interval = either.confidence_interval(0.9)
    p = float(max(above.pvalue, below.pvalue))
    verdicts = {
        "equivalent": p < 0.05,
        "higher": either.pvalue < 0.05 and values.mean() > 0,
        "lower": either.pvalue < 0.05 and values.mean() < 0,
        "not lower": above.pvalue < 0.05,
        "not higher": below.pvalue < 0.05,
        "inconclusive": True,
    }
    verdict = next(name for name, holds in verdicts.items() if holds)
    return dict(mean=float(values.mean()), low=float(interval.low), high=float(interval.high), p=p, verdict=verdict)


def compared(differences, margin):
    """`equivalence` of comparisons, name -> differences: a table with a row for each and the interval in words."""
    rows = {}
    for name, values in differences.items():
        found = equivalence(values, margin)
        rows[name] = found | {"in words": "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**found)}
    return pd.DataFrame(rows).T


def steps_to_reach(steps, quality, goal):
    """Steps at which a quality curve first reaches the goal, linear in log steps between its points.

    Args: steps, increasing and positive; quality, as many; goal. Returns a float: the first of the steps where the
    curve begins above the goal, infinity where it never reaches it.
    """
    steps, quality = np.asarray(steps, float), np.asarray(quality, float)
    reached = np.flatnonzero(quality >= goal)
    if not len(reached):
        return float("inf")
    k = reached[0]
    if k == 0:
        return float(steps[0])
    part = (goal - quality[k - 1]) / (quality[k] - quality[k - 1])
    return float(np.exp(np.log(steps[k - 1]) + part * np.log(steps[k] / steps[k - 1])))


def steps_ratio(first, second, start, share=0.9, draws=2000, seed=0):
    """How many times the steps of the second training the first one needs for the same quality.

    The goal is `share` of the gain that the second has at its largest number of steps, over the mean of `start`.
    Args: first, second, tables of quality, a row for each person and a column for each number of steps; start, the
    quality before tuning, a Series over the same people; share in [0, 1]; draws, bootstrap samples of people; seed.
    Returns a dict: ratio, low, high (95 % percentile interval; infinite where a sample never reaches the goal).
    """
    share = checks.fraction("share", share)
    first, second = first.loc[start.index], second.loc[start.index]

    def ratio(people):
        a, b, zero = (table.iloc[people].mean() for table in (first, second, start))
        goal = zero + share * (b.iloc[-1] - zero)
        return steps_to_reach(a.index, a, goal) / steps_to_reach(b.index, b, goal)

    g = np.random.default_rng(seed)
    samples = [ratio(g.integers(len(start), size=len(start))) for _ in range(draws)]
    low, high = np.quantile(samples, [0.025, 0.975], method="nearest")
    return dict(ratio=float(ratio(np.arange(len(start)))), low=float(low), high=float(high))
