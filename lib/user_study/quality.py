"""Part A, two restorations side by side (Fig. 14): how often one arm was chosen, by every method, and who agrees."""

import numpy as np
import pandas as pd
from statsmodels.genmod.bayes_mixed_glm import BinomialBayesMixedGLM
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from lib.errors import StoreError
from lib.user_study import shares
from lib.user_study.design import REPEAT, TRIAL

INDEPENDENT = "Wilson, answers independent"
RESAMPLED = "bootstrap, participants and items"
BOTH = "t, participants and items"


def choices(table, part, arm):
    """The trials of a part, one row per answer, with `y` 1 where the arm was chosen, and `side`.

    side: +0.5 where the arm stood first, -0.5 where it stood last, between them for more than two options.
    Raises StoreError where the part has no trials or an answer lacks that arm.
    """
    rows = table[(table.part == part) & (table.kind == TRIAL)]
    if rows.empty or not rows.options.map(lambda some: arm in some).all():
        there = sorted(set(table.part))
        raise StoreError(f"No choices of {arm} in part {part}. Remedy: the table has the parts {', '.join(there)}.")
    places = [0.5 - some.index(arm) / (len(some) - 1) for some in rows.options]
    return rows.assign(y=(rows.chosen == arm).astype(int), side=places)


def summary(rows, chance=0.5, draws=2000, seed=0):
    """The share of `y` by three methods, one row each: share, low, high (95 %) and p against chance.

    Only the last counts participants and items as samples and is exact enough for few of them; see `shares`.
    The bootstrap's p-value is left out: its percentiles are an interval, not a test.
    """
    who, what, y = rows.participant, rows.item, rows.y
    found = {
        INDEPENDENT: (*shares.wilson(y), shares.binomial(y, chance)),
        RESAMPLED: (*shares.bootstrap(who, what, y, draws, seed), np.nan),
        BOTH: (*shares.interval(who, what, y), shares.p_value(who, what, y, chance)),
    }
    return pd.DataFrame.from_dict(found, orient="index", columns=["share", "low", "high", "p"])


def mixed_model(rows):
    """Logistic regression of `y` on an intercept and the side, participants and items as random effects.

    By variational Bayes (statsmodels). Its posterior of the intercept treats the random effects as independent of it
    and is too narrow; so take its interval from `summary`, and from here the size of the effects.
    Returns a Series: intercept and side (log-odds), participant and item (standard deviations on that scale), and
    share, of a typical participant and item. All NaN where there is nothing to fit: one participant, one item, or the
    same arm always.
    """
    if min(rows.participant.nunique(), rows.item.nunique(), rows.y.nunique()) < 2:
        return pd.Series(np.nan, index=["intercept", "side", "participant", "item", "share"])
    fit = fitted(rows)
    intercept, side = fit.fe_mean
    sizes = dict(zip(fit.model.vcp_names, np.exp(fit.vcp_mean)))
    found = {"intercept": intercept, "side": side, **sizes, "share": 1 / (1 + np.exp(-intercept))}
    return pd.Series({name: float(value) for name, value in found.items()})


def fitted(rows):
    """The fit of `mixed_model` as statsmodels gives it; priors: N(0, 4) of the intercept, log sd ~ N(0, 1)."""
    effects = {"participant": "0 + C(participant)", "item": "0 + C(item)"}
    data = rows[["y", "side", "participant", "item"]].reset_index(drop=True)
    return BinomialBayesMixedGLM.from_formula("y ~ side", effects, data, vcp_p=1, fe_p=2).fit_vb()


def agreement(rows, seed=0):
    """Fleiss' kappa of the chosen arms: 0, no more agreement than chance; 1, everybody chose alike on every item.

    Where not everybody saw every item, as many answers of each item are drawn as the least answered one has.
    Returns (kappa, answers per item, items); kappa is NaN where there is nothing to compare.
    """
    fewest = int(rows.groupby("item").size().min())
    drawn = rows.sample(frac=1, random_state=seed).groupby("item", sort=True).head(fewest)
    coded = pd.factorize(drawn.chosen)[0]
    ratings = np.stack([coded[(drawn.item == item).to_numpy()] for item in sorted(set(drawn.item))])  # (items, answers)
    if fewest < 2 or len(np.unique(ratings)) < 2:
        return float("nan"), fewest, len(ratings)
    return float(fleiss_kappa(aggregate_raters(ratings)[0])), fewest, len(ratings)


def consistency(table, part):
    """How many repeats got the same arm as before: (same, of)."""
    there = table[table.part == part]
    first = there[there.kind == TRIAL].set_index(["participant", "item"]).chosen
    again = there[there.kind == REPEAT].set_index(["participant", "item"]).chosen
    both = pd.concat([first, again], axis=1, keys=["first", "again"], join="inner")
    return int((both["first"] == both["again"]).sum()), len(both)


def per_item(rows):
    """The share of `y` on each item, most contested (nearest to one half) first."""
    found = rows.groupby("item").y.agg(["mean", "size"]).rename(columns={"mean": "share", "size": "answers"})
    return found.iloc[(found.share - 0.5).abs().argsort(kind="stable")]
