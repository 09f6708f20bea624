"""Metrics against people: how often the chosen restoration is the one that a metric puts first."""

import pandas as pd

from lib.errors import StudyFileError
from lib.metrics import headline, registry
from lib.user_study import shares

WITH_TARGET = ("identity", "perceptual", "ald_eyes", "ald_mouth", "psnr")
WITHOUT = ("to_references",)


def measured(items, arms, scorer=None):
    """Metrics of every restoration of a study: rows item, arm, metric, value (NaN where a face is not found).

    Args: items, as of `picture_sets.collect`; arms; scorer, the recogniser of real faces, people-r of drawn ones.
    Where an item has no target, identity is that to the references. Raises as `registry.measure_all`.
    """
    from lib.images import to_tensor

    rows = []
    for item in items.values():
        restored = to_tensor([item.restored[arm] for arm in arms])  # (arms, 3, S, S)
        target = None if item.target is None else to_tensor([item.target] * len(arms))
        names = WITHOUT if target is None else [name for name in WITH_TARGET if _applies(name, restored.shape[-1])]
        found = registry.measure_all(
            restored, target, references=to_tensor(item.references), scorer=scorer or None, only=tuple(names)
        )
        found = found.assign(item=item.name, arm=[arms[k] for k in found.picture])
        rows += found[["item", "arm", "metric", "value"]].to_dict("records")
    return pd.DataFrame(rows)


def _applies(name, size):
    return name != "perceptual" or name in headline.headline_metrics(size)[0]


def agreement(rows, metrics):
    """How often the chosen arm is the metric's best of the trial, with chance, and an interval over both samples.

    Args: rows, choices of one part, as of `quality.choices`; metrics, as of `measured`.
    Returns one row per metric: share, low, high, chance (equal values share a first place). Raises StudyFileError where
    an item was not measured.
    """
    if missing := sorted(set(rows.item) - set(metrics.item)):
        raise StudyFileError(f"Not measured: {missing[0]}. Remedy: measure the pictures of this study.")
    found = {}
    for name, values in metrics.dropna().groupby("metric", sort=False):
        lookup = values.set_index(["item", "arm"]).value * (1 if registry.HIGHER_IS_BETTER[name] else -1)
        complete = [all((item, arm) in lookup.index for arm in some) for item, some in zip(rows.item, rows.options)]
        own = rows[complete]
        best = [_best(lookup, row) for row in own.itertuples()]
        y = [(row.chosen in some) / len(some) for row, some in zip(own.itertuples(), best)]
        label = registry.TABLE[name].label
        found[label] = (*shares.interval(own.participant, own.item, y), 1 / len(own.options.iloc[0]))
    return pd.DataFrame.from_dict(found, orient="index", columns=["share", "low", "high", "chance"])


def _best(lookup, row):
    """The arms that a metric puts first in a trial."""
    values = {arm: lookup[row.item, arm] for arm in row.options}
    return [arm for arm, value in values.items() if value == max(values.values())]


def worths(metrics, name, scale=1.0):
    """Utilities for simulated observers who see what a metric sees: dict of (item, arm) to standardised values."""
    values = metrics[metrics.metric == name].set_index(["item", "arm"]).value
    values = values if registry.HIGHER_IS_BETTER[name] else -values
    standard = scale * (values - values.mean()) / values.std()
    return standard.to_dict()
