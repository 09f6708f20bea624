"""Part B, one of several restorations (Fig. 16): shares of the arms, and their strengths in Luce's model of choice.

Plackett-Luce, of which one choice is the first place: P(a of S) = s_a / sum of s over S. For two options it is
Bradley-Terry. Strengths are fitted by choix.
"""

import choix
import numpy as np
import pandas as pd

from lib.user_study import quality, shares

ALPHA = 0.01  # choix's regularisation, in choices: an arm that nobody chose has a strength, too


def table_of(table, part, arms):
    """One row per arm: share of choices, with its 95 % interval over participants and items and p against chance."""
    found = {}
    for arm in arms:
        rows = quality.choices(table, part, arm)
        who, what, y = rows.participant, rows.item, rows.y
        found[arm] = (*shares.interval(who, what, y), shares.p_value(who, what, y, 1 / len(arms)))
    return pd.DataFrame.from_dict(found, orient="index", columns=["share", "low", "high", "p"])


def encoded(rows, arms):
    """Choices as choix takes them: [(chosen, the others)], arms by their place in `arms`."""
    place = {arm: k for k, arm in enumerate(arms)}
    return [
        (place[chosen], tuple(place[arm] for arm in options if arm != chosen))
        for chosen, options in zip(rows.chosen, rows.options)
    ]


def strengths(rows, arms):
    """Log-strengths of the arms, mean 0, by maximum likelihood (Maystre and Grossglauser's I-LSR in choix)."""
    found = choix.ilsr_top1(len(arms), encoded(rows, arms), alpha=ALPHA)
    return pd.Series(found - found.mean(), index=arms)


def strength_table(rows, arms, draws=400, seed=0):
    """`strengths` with 95 % percentile intervals of a bootstrap of participants and items: strength, low, high."""
    rng = np.random.default_rng(seed)
    weights = shares.resampled(rows.participant, rows.item, draws, rng)
    chosen = encoded(rows, arms)
    drawn = [np.repeat(np.arange(len(chosen)), one) for one in weights]
    fits = [choix.ilsr_top1(len(arms), [chosen[k] for k in some], alpha=ALPHA) for some in drawn if len(some)]
    fits = np.array(fits) - np.mean(fits, axis=1, keepdims=True)
    low, high = np.quantile(fits, [0.025, 0.975], axis=0)
    return pd.DataFrame({"strength": strengths(rows, arms), "low": low, "high": high})


def contested(rows, arms):
    """The shares of the arms on each item, the most contested (largest entropy) first."""
    found = rows.groupby("item").chosen.value_counts(normalize=True).unstack(fill_value=0.0)
    found = found.reindex(columns=arms, fill_value=0.0)
    entropy = -(found * np.log(found.where(found > 0, 1.0))).sum(axis=1)
    return found.loc[entropy.sort_values(ascending=False, kind="stable").index]
