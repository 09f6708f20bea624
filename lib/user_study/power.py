"""Before anybody is asked: how many participants and items it takes, and whether the intervals keep their promise."""

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.user_study import observers, preference, quality, shares


def detected(rng, participants, items, crowd, studies=1000):
    """The share of simulated studies of pairs whose `shares.p_value` is below 0.05.

    With a share of one half in the population these are false positives, otherwise it is the power.
    """
    return float(
        np.mean([not low <= 0.5 <= high for _, low, high in _studied(rng, participants, items, crowd, studies)])
    )


def _studied(rng, participants, items, crowd, studies):
    """(share, low, high) of each simulated study, by `shares.interval`."""
    rows, columns = np.repeat(np.arange(participants), items), np.tile(np.arange(items), participants)
    for y in observers.pairs(rng, studies, participants, items, crowd):
        yield shares.interval_of(rows, columns, y.ravel().astype(float))


def curve(crowd, wanted, participants, items, studies=1000, seed=0):
    """Power against numbers of participants and items: a table, items down, participants across.

    Args: crowd, whose random effects are taken; wanted, the share of choices in the population; lists of numbers.
    """
    one, rng = observers.with_share(crowd, wanted), np.random.default_rng(seed)
    found = {N: [detected(rng, N, M, one, studies) for M in items] for N in participants}
    return pd.DataFrame(found, index=pd.Index(items, name="items")).rename_axis(columns="participants")


def detectable(crowd, participants, items, wanted=(0.55, 0.6, 0.65, 0.7, 0.75, 0.8), studies=1000, seed=0, power=0.8):
    """Power of one size of study at several shares: a Series; and the share at which it reaches `power`, interpolated.

    The share is NaN where none of `wanted` reaches it.
    """
    rng = np.random.default_rng(seed)
    found = [detected(rng, participants, items, observers.with_share(crowd, one), studies) for one in wanted]
    reached = float(np.interp(power, np.maximum.accumulate(found), wanted)) if max(found) >= power else float("nan")
    return pd.Series(found, index=wanted), reached


def coverage(crowd, participants, items, studies=1000, draws=400, seed=0):
    """How often intervals of pairs hold the population's share, one row per method; and false positives if it is 0.5.

    Columns: method, coverage, width (mean), excludes_half. Of the bootstrap, the percentile interval.
    """
    rng, truth = np.random.default_rng(seed), observers.share(crowd)
    rows, columns = np.repeat(np.arange(participants), items), np.tile(np.arange(items), participants)
    found = {"t": [], "bootstrap": [], "Wilson": []}
    for k, y in enumerate(observers.pairs(rng, studies, participants, items, crowd)):
        y = y.ravel().astype(float)
        found["t"].append(shares.interval_of(rows, columns, y)[1:])
        found["bootstrap"].append(shares.bootstrap(rows, columns, y, draws, seed=[seed, k])[1:])
        found["Wilson"].append(shares.wilson(y)[1:])
    return pd.DataFrame([{"method": name, **_held(np.array(ends), truth)} for name, ends in found.items()])


def _held(ends, truth):
    low, high = ends.T
    return {
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "width": float((high - low).mean()),
        "excludes_half": float(((low > 0.5) | (high < 0.5)).mean()),
    }


def strength_coverage(crowd, participants, items, studies=1000, draws=300, seed=0):
    """The same of part B: shares of the arms by `shares.interval`, strengths by bootstrap percentiles.

    Everybody sees every arm of every item, where Luce's strengths are the shares themselves, up to a factor; a test
    holds that against choix. Returns columns method, arm, coverage, and recovered: how often the best arm came first.
    """
    rng, arms = np.random.default_rng(seed), list(crowd.worth)
    truth = observers.arm_shares(crowd)
    rows, columns = np.repeat(np.arange(participants), items), np.tile(np.arange(items), participants)
    held, first = np.zeros((2, len(arms))), 0
    for chosen in observers.sets(rng, studies, participants, items, crowd):
        y = (chosen.ravel()[:, None] == np.arange(len(arms))).astype(float)  # (answers, arms)
        ends = np.array([shares.interval_of(rows, columns, one)[1:] for one in y.T])
        held[0] += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        low, high = np.quantile(log_strengths(shares.resampled(rows, columns, draws, rng) @ y), [0.025, 0.975], axis=0)
        held[1] += (low <= log_strengths(truth)) & (log_strengths(truth) <= high)
        first += y.sum(0).argmax() == truth.argmax()
    names = ("share, t", "strength, bootstrap")
    both = [
        dict(method=name, arm=arm, coverage=float(x))
        for name, one in zip(names, held / studies)
        for arm, x in zip(arms, one)
    ]
    return pd.DataFrame(both).assign(recovered=first / studies)


def log_strengths(counts):
    """Luce's log-strengths, mean 0, of choices among all arms at once: counts (..., arms)."""
    logs = np.log(np.asarray(counts, float) + preference.ALPHA)
    return logs - logs.mean(-1, keepdims=True)


def mixed_coverage(crowd, participants, items, studies=200, seed=0):
    """How often the variational interval of the mixed model's intercept (1.96 posterior sd) holds the true one.

    For a crowd without lazy moments, whose second arm's worth less the first's is the true intercept.
    """
    rng, held = np.random.default_rng(seed), 0
    first, second = crowd.worth.values()
    frame = pd.DataFrame(
        {"participant": np.repeat(np.arange(participants), items), "item": np.tile(np.arange(items), participants)}
    )
    for y in observers.pairs(rng, studies, participants, items, replace(crowd, lazy=0.0)):
        sides = np.where((frame.item + frame.participant) % 2, 0.5, -0.5)
        fit = quality.fitted(frame.assign(y=y.ravel().astype(int), side=sides))
        held += abs(fit.fe_mean[0] - (second - first)) < 1.96 * fit.fe_sd[0]
    return held / studies
