"""Before anybody is asked: how many participants and items it takes, and whether the intervals keep their promise."""

from dataclasses import replace

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from lib.user_study import observers, preference, quality, shares

BLOCK = 500  # simulated studies held in memory at once


def detected(rng, participants, items, crowd, studies=1000):
    """The share of simulated studies of pairs whose interval (`shares.interval`) excludes one half.

    With a share of one half in the population these are false positives, otherwise it is the power.
    """
    found = [shares.crossed(y) for y in _blocks(rng, participants, items, crowd, studies)]
    _, low, high = np.concatenate([np.stack(one) for one in found], axis=1)
    return float(((low > 0.5) | (high < 0.5)).mean())


def _blocks(rng, participants, items, crowd, studies, of=observers.pairs):
    """Simulated studies, some at a time."""
    for start in range(0, studies, BLOCK):
        yield of(rng, min(BLOCK, studies - start), participants, items, crowd)


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
    found = {"t": [], "bootstrap": [], "Wilson": []}
    for y in _blocks(rng, participants, items, crowd, studies):
        found["t"].append(shares.crossed(y)[1:])
        found["bootstrap"].append(np.quantile(shares.crossed_bootstrap(y, draws, rng), [0.025, 0.975], axis=1))
        found["Wilson"].append(proportion_confint(y.sum((1, 2)), participants * items, method="wilson"))
    ends = {name: np.concatenate([np.stack(one) for one in some], axis=1) for name, some in found.items()}
    return pd.DataFrame([{"method": name, **_held(*both, truth)} for name, both in ends.items()])


def _held(low, high, truth):
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
    held, first = np.zeros((2, len(arms))), 0
    for chosen in _blocks(rng, participants, items, crowd, studies, of=observers.sets):
        y = [chosen == k for k in range(len(arms))]  # each (studies, participants, items)
        ends = np.array([shares.crossed(one)[1:] for one in y])  # (arms, 2, studies)
        held[0] += ((ends[:, 0].T <= truth) & (truth <= ends[:, 1].T)).sum(0)
        again = np.random.default_rng([seed, len(chosen)]).bit_generator.state  # every arm has the same draws
        means = np.stack([_resampled(one, draws, again) for one in y], axis=-1)  # (studies, draws, arms)
        low, high = np.quantile(log_strengths(means * participants * items), [0.025, 0.975], axis=1)
        held[1] += ((low <= log_strengths(truth)) & (log_strengths(truth) <= high)).sum(0)
        first += (np.array([one.sum((1, 2)) for one in y]).argmax(0) == truth.argmax()).sum()
    rows = [
        {"method": method, "arm": arm, "coverage": float(x), "recovered": float(first / studies)}
        for method, one in zip(("share, t", "strength, bootstrap"), held / studies)
        for arm, x in zip(arms, one)
    ]
    return pd.DataFrame(rows)


def _resampled(y, draws, state):
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    return shares.crossed_bootstrap(y, draws, rng)


def log_strengths(counts):
    """Luce's log-strengths, mean 0, of choices among all arms at once: counts (..., arms)."""
    logs = np.log(np.asarray(counts, float) + preference.ALPHA)
    return logs - logs.mean(-1, keepdims=True)


def mixed_coverage(crowd, participants, items, studies=50, seed=0):
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
