"""Tables of recorded restorations: paired differences over people, the paper's statements and their outcomes, costs."""

import numpy as np
import pandas as pd
from scipy import stats

from lib.metrics import headline, registry
from lib.restoration import baselines
from lib.runs import figures
from lib.studies.arms import ARMS

PAPER = {"GFPGAN": 0.75, "CodeFormer": 0.76, "blind": 0.76, "dual pivot": 0.88}  # identity by ArcFace, Table I
ROWS = ("input", *baselines.PUBLISHED, *ARMS)
LEVEL = 0.05  # family-wise error rate of `outcomes`

# What the paper says: metric, arm, the arm it is compared with, the expected sign (0: no effect), the claim.
PAPER_CLAIMS = (
    ("identity", "dual pivot", "blind", +1, "dual pivot raises identity (Table I)"),
    ("perceptual", "dual pivot", "blind", -1, "dual pivot lowers the perceptual distance (Table I)"),
    ("psnr", "dual pivot", "blind", -1, "dual pivot lowers PSNR (Table I)"),
    ("identity", "swap", "blind", 0, "swapping in a tuned G changes nothing (Fig. 2c)"),
    ("perceptual", "encoder-only", "blind", +1, "tuning E alone loses detail (Fig. 2d)"),
    ("identity", "dual pivot", "encoder-only", +1, "dual pivot raises identity over tuning E alone (Fig. 2d, e)"),
    ("identity", "in-context", "swap", +1, "tuning inside B raises identity over swapping (Fig. 9a, c)"),
    ("psnr", "in-context", "swap", +1, "tuning inside B raises PSNR over swapping (section IV-B, after eq. 6)"),
    ("identity", "dual pivot", "in-context", +1, "the model pivot raises identity after in-context tuning (Fig. 9b)"),
    ("perceptual", "dual pivot", "in-context", -1, "the model pivot lowers the perceptual distance (Fig. 9b)"),
    ("identity", "swap + model pivot", "swap", +1, "the model pivot raises identity after swapping (Fig. 9d)"),
    ("identity", "swap + model pivot", "dual pivot", 0, "after it, swapping is level with dual pivot (Fig. 9d)"),
)


def per_person(table, metric):
    """Means over images and seeds: a table with one row per person and one column per arm."""
    return table[table.metric == metric].pivot_table(index="person", columns="arm", values="value", aggfunc="mean")


def paired(table, metric, arm, against="blind"):
    """Mean difference `arm` - `against` over people, and its paired 95 % t interval: (mean, low, high)."""
    means = per_person(table, metric)
    interval = _t_test(means, arm, against).confidence_interval(0.95)
    return float((means[arm] - means[against]).mean()), float(interval.low), float(interval.high)


def interval(differences, digits=3):
    """The mean of differences, one for each person, and its 95 % t interval.

    Args: differences, numbers (missing ones are left out); digits of the words.
    Returns a Series: mean, low, high (NaN for fewer than two people), words.
    """
    values = np.asarray(differences, float)
    values = values[~np.isnan(values)]
    few = len(values) < 2
    low, high = (np.nan, np.nan) if few else stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    mean = values.mean() if len(values) else np.nan
    words = f"{mean:+.{digits}f}" + ("" if few else f" [{low:+.{digits}f}, {high:+.{digits}f}]")
    return pd.Series(dict(mean=mean, low=low, high=high, words=words))


def _t_test(means, arm, against):
    return stats.ttest_rel(means[arm], means[against])


def summary(table, against="blind"):
    """One row per arm: the mean of each metric, and the paired difference to `against` with its 95 % interval."""
    rows = []
    for arm in [name for name in ROWS if name in set(table.arm)]:
        row = {"arm": arm}
        for metric in [name for name in registry.TABLE if name in set(table.metric)]:
            row[metric] = per_person(table, metric)[arm].mean()
            if arm != against:
                columns = [f"{metric} {part}" for part in ("difference", "low", "high")]
                row |= dict(zip(columns, paired(table, metric, arm, against)))
        rows.append(row)
    return pd.DataFrame(rows).set_index("arm")


def holm(p):
    """Holm's step-down adjustment (1979) of a Series of p-values; a missing value stays missing.

    Comparing the result with a level alpha keeps the chance of one or more false rejections at most alpha.
    """
    ranked = p.dropna().sort_values()
    adjusted = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return adjusted.reindex(p.index)


def outcomes(table):
    """The paper's statements (PAPER_CLAIMS) and what the recorded rows say about them, one row per statement.

    The outcome is "inconclusive" unless Holm's adjusted p-value is below 0.05. Then it is "reproduced" if the
    difference has the sign that the paper expects, and "contradicted" otherwise. A statement of no effect can
    be contradicted but not reproduced: an interval that contains zero does not show that there is no effect.

    Args: table, tidy rows (person, arm, image, seed, metric, value). Statements about a metric or an arm that was
    not measured are left out. LPIPS replaces the perceptual distance where it was recorded.
    Returns columns statement, metric, arm, against, expected, difference, low, high, p, p_holm, outcome; low and high
    are the ends of the 95 % interval, not adjusted.
    """
    metrics, arms = set(table.metric), set(table.arm)
    rows = []
    for metric, arm, against, expected, statement in PAPER_CLAIMS:
        metric = "lpips" if metric == "perceptual" and "lpips" in metrics else metric
        if metric not in metrics or not {arm, against} <= arms:
            continue
        difference, low, high = paired(table, metric, arm, against)
        p = float(_t_test(per_person(table, metric), arm, against).pvalue)
        row = dict(statement=statement, metric=metric, arm=arm, against=against, expected=expected)
        rows.append(row | dict(difference=difference, low=low, high=high, p=p))
    found = pd.DataFrame(rows)
    found["p_holm"] = holm(found.p)
    found["outcome"] = [_outcome(row) for row in found.itertuples()]
    return found


def _outcome(row):
    if not row.p_holm < LEVEL:  # one person gives NaN: inconclusive
        return "inconclusive"
    return "reproduced" if row.difference * row.expected > 0 else "contradicted"


def formatted_outcomes(found):
    """The table of `outcomes`, rounded for reading."""
    return pd.DataFrame(
        {
            "the paper says": found.statement,
            "measured": [f"{row.metric}, {row.arm} − {row.against}" for row in found.itertuples()],
            "difference": found.difference.map("{:+.3f}".format),
            "95 % interval": [f"[{row.low:+.3f}, {row.high:+.3f}]" for row in found.itertuples()],
            "p (Holm)": found.p_holm.map("{:.3f}".format).replace("0.000", "< 0.001"),
            "outcome": found.outcome,
        }
    )


def formatted(summary, labels=headline.LABEL):
    """A `summary` rounded for reading: means, with the difference to blind and its interval in brackets."""
    out = pd.DataFrame(index=summary.index)
    for metric, label in [(metric, label) for metric, label in labels.items() if metric in summary]:
        digits = 2 if metric == "psnr" else 3
        columns = [summary[f"{metric} {part}"] for part in ("difference", "low", "high")]
        brackets = [_bracket(*row, digits) for row in zip(*columns)]
        out[label] = [f"{mean:.{digits}f}{text}" for mean, text in zip(summary[metric], brackets)]
    return out


def _bracket(difference, low, high, digits):
    """ " (+0.12 [+0.08, +0.16])"; without an interval for one person, and empty for blind itself."""
    interval = "" if pd.isna(low) else f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return "" if pd.isna(difference) else f" ({difference:+.{digits}f}{interval})"


def costs(record):
    """One sentence on what dual-pivot tuning costs, from a record of notebook 00 (arms blind and dual pivot)."""
    values, seconds = record["parameters"], record["seconds"]
    restored = 2 * len({row["image"] for row in record["metrics"]})
    return (
        f"Both pivots ({values['TEXTUAL_STEPS']} + {values['MODEL_STEPS']} steps): {seconds['tuning']:.0f} s. "
        f"Restoring a picture ({values['SAMPLING_STEPS']} steps, in batches): {seconds['restoring'] / restored:.1f} s. "
        f"Peak memory: {record['peak_memory'] / 1e9:.1f} GB."
    )


def markdown(table):
    """The `formatted` summary of tidy rows as a Markdown table, as the README shows it."""
    return figures.markdown(formatted(summary(table)))
