"""Tables of recorded restorations: paired intervals over people, the paper's statements held against them, costs."""

import pandas as pd
from scipy import stats

from lib.metrics import headline, registry
from lib.restoration import baselines
from lib.runs import figures
from lib.studies.arms import ARMS

PAPER = {"GFPGAN": 0.75, "CodeFormer": 0.76, "blind": 0.76, "dual pivot": 0.88}  # identity by ArcFace, Table I
ROWS = ("input", *baselines.PUBLISHED, *ARMS)


def per_person(table, metric):
    """Means over shots and seeds: a table with a row a person and a column an arm."""
    return table[table.metric == metric].pivot_table(index="person", columns="arm", values="value", aggfunc="mean")


def paired(table, metric, arm, against="blind"):
    """Mean difference `arm` - `against` over people, and its paired 95 % t interval: (mean, low, high)."""
    means = per_person(table, metric)
    test = stats.ttest_rel(means[arm], means[against])
    interval = test.confidence_interval(0.95)
    return float((means[arm] - means[against]).mean()), float(interval.low), float(interval.high)


def summary(table, against="blind"):
    """A row an arm: the mean of each metric, and the paired difference to `against` with its 95 % interval."""
    rows = []
    for arm in [a for a in ROWS if a in set(table.arm)]:
        row = {"arm": arm}
        for metric in [m for m in registry.TABLE if m in set(table.metric)]:  # without truth, identity alone
            row[metric] = per_person(table, metric)[arm].mean()
            if arm != against:
                row[f"{metric} difference"], row[f"{metric} low"], row[f"{metric} high"] = paired(
                    table, metric, arm, against
                )
        rows.append(row)
    return pd.DataFrame(rows).set_index("arm")


PAPER_CLAIMS = (  # what the paper says of the arms: metric, arm, the arm it is held against, the sign it expects (0: no effect)
    ("identity", "dual pivot", "blind", +1, "dual pivot brings identity (Table I)"),
    ("perceptual", "dual pivot", "blind", -1, "dual pivot lowers the perceptual distance (Table I)"),
    ("psnr", "dual pivot", "blind", -1, "dual pivot costs some PSNR (Table I)"),
    ("identity", "swap", "blind", 0, "B ignores a swapped prior (Fig. 2c)"),
    ("perceptual", "encoder-only", "blind", +1, "E tuned alone loses detail (Fig. 2d)"),
    ("identity", "dual pivot", "encoder-only", +1, "dual pivot brings more identity than E tuned alone (Fig. 2d, e)"),
    ("identity", "in-context", "swap", +1, "tuning inside B brings more identity than swapping (Fig. 9a, c)"),
    ("psnr", "in-context", "swap", +1, "and restores better (section IV-B, after eq. 6)"),
    ("identity", "dual pivot", "in-context", +1, "the model pivot adds identity to in-context tuning (Fig. 9b)"),
    ("perceptual", "dual pivot", "in-context", -1, "and perceptual quality (Fig. 9b)"),
    ("identity", "swap + model pivot", "swap", +1, "the model pivot mends a swapped prior (Fig. 9d)"),
    ("identity", "swap + model pivot", "dual pivot", 0, "and closes the gap to dual pivot (Fig. 9d)"),
)


def verdicts(table):
    """The paper's statements beside the paired differences: reproduced, contradicted, or open where the interval holds zero.

    A statement on a metric or an arm that was not measured is left out. Where the paper expects no effect, an interval that holds zero leaves it
    open, too: it does not show that there is none.
    """
    rows = []
    there, arms = set(table.metric), set(table.arm)
    for metric, arm, against, sign, words in PAPER_CLAIMS:
        metric = (
            "lpips" if metric == "perceptual" and "lpips" in there else metric
        )  # the paper's own, at other sizes than 128 px
        if metric not in there or not {arm, against} <= arms:
            continue
        mean, low, high = paired(table, metric, arm, against)
        side = 1 if low > 0 else -1 if high < 0 else 0  # one person has no interval: open
        rows.append(
            {
                "the paper says": words,
                "measured": f"{metric}, {arm} − {against}",
                "difference": f"{mean:+.3f}",
                "95 % interval": f"[{low:+.3f}, {high:+.3f}]",
                "verdict": "open" if side == 0 else "reproduced" if side == sign else "contradicted",
            }
        )
    return pd.DataFrame(rows)


def formatted(summary, labels=headline.LABEL):
    """A `summary` rounded for reading: means, with the difference to blind and its interval in brackets."""
    out = pd.DataFrame(index=summary.index)
    for metric, label in [(m, label) for m, label in labels.items() if m in summary]:
        digits = 2 if metric == "psnr" else 3
        difference = [
            _bracket(*row, digits)
            for row in zip(*(summary[f"{metric} {what}"] for what in ("difference", "low", "high")))
        ]
        out[label] = [f"{mean:.{digits}f}{text}" for mean, text in zip(summary[metric], difference)]
    return out


def _bracket(difference, low, high, digits):
    """ " (+0.12 [+0.08, +0.16])"; a single person has no interval, and blind no difference."""
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if low == low else ""
    return f" ({difference:+.{digits}f}{interval})" if difference == difference else ""


def costs(record):
    """What dual-pivot tuning costs, in a sentence, from notebook 00's record, whose arms are blind and dual pivot."""
    steps, pictures = record["parameters"], 2 * len({row["shot"] for row in record["metrics"]})
    return (
        f"Both pivots ({steps['TEXTUAL_STEPS']} + {steps['MODEL_STEPS']} steps): {record['seconds']['tuning']:.0f} s. "
        f"Restoring a picture ({steps['SAMPLING_STEPS']} steps, in batches): {record['seconds']['restoring'] / pictures:.1f} s. "
        f"Peak memory: {record['peak_memory'] / 1e9:.1f} GB."
    )


def markdown(table):
    """The `shown` summary of tidy rows as a Markdown table: what README holds."""
    return figures.markdown(formatted(summary(table)))
