"""Tables of people whose photographs were held out, from the rows of `lib.studies.held_out.run`."""

import itertools
import re

import pandas as pd

from lib.studies.arms import ARMS
from lib.studies.statistics import interval

VARIANT = re.compile(r", (\d+ references?|\d+ times the steps)$")  # names of `held_out.further` and `held_out.longer`


def summary(rows, arm="dual pivot", against="blind"):
    """One line for each person and metric: the means, and the paired difference of two arms with its 95 % interval.

    Args: rows, of `held_out.run`, those of `ceiling` are left out; arm, against. The interval is over photographs of
    one person; for `pairs`, over people.
    Returns a DataFrame indexed by person and metric: photographs, input, against, arm, difference (words).
    """
    table = pd.DataFrame([row for row in rows if "arm" in row])
    index = ["person", "metric", "fold", "image"]
    wide = table.pivot_table(index=index, columns="arm", values="value").reset_index()
    lines = {}
    for key, group in wide.groupby(["person", "metric"], sort=False):
        means = {name: f"{group[name].mean():.3f}" for name in ("input", against, arm)}
        lines[key] = {"photographs": len(group), **means, "difference": interval(group[arm] - group[against])["words"]}
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["person", "metric"])


def headline(rows):
    """`summary` in one line for each person: identity by every recogniser (input, blind, dual pivot; gain), PSNR gain.

    Where there is no ground truth, identity is that to the references. What `variants` shows is left out.
    """
    lines, left_out = {}, _variants_of(rows)
    usual = summary([row for row in rows if row["person"] not in left_out])
    for person, table in usual.groupby(level="person", sort=False):
        table = table.droplevel("person")
        kind = kind_of_identity(table.index)
        line = {"photographs": table.photographs.iloc[0]}
        for name in [name for name in table.index if name.startswith(kind)]:
            one, scorer = table.loc[name], name.removeprefix(kind)
            line[f"identity ({scorer})"] = f"{one['input']}, {one['blind']}, {one['dual pivot']}"
            line[f"gain ({scorer})"] = one["difference"]
        line["PSNR gain (dB)"] = table.difference.get("psnr", "")
        lines[person] = line
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("person")


def with_all_arms(rows):
    """The people, in order, who have every arm in rows of `held_out.run`."""
    found = pd.DataFrame([row for row in rows if "arm" in row]).groupby("person", sort=False).arm
    return [person for person, names in found if set(ARMS) <= set(names)]


def kind_of_identity(metrics):
    """What names of identity metrics begin with: where there is no ground truth, identity is that to the references."""
    return "identity " if any(name.startswith("identity ") for name in metrics) else "to_references "


def _variants_of(rows):
    """The names of those whose photographs were restored after the usual tuning, too."""
    names = dict.fromkeys(row["person"] for row in rows)
    return [name for name in names if VARIANT.search(name) and name.rsplit(", ", 1)[0] in names]


def variants(rows):
    """Dual pivot after another tuning (fewer references, more steps) of the same photographs: means and differences.

    Args: rows, of `held_out.run` on `cases`, `further` and `longer`. Returns a DataFrame indexed by person and tuning:
    photographs, identity by every recogniser and PSNR (dB), each with its paired 95 % interval over photographs. Where
    there is no ground truth, identity is that to the references.
    """
    table = pd.DataFrame([row for row in rows if row.get("arm") == "dual pivot"])
    lines = {}
    for label in _variants_of(rows):
        person, tuning = label.rsplit(", ", 1)
        usual = table[(table.person == person) & (table.fold == table[table.person == person].fold.min())]
        both = table[table.person == label].merge(usual, on=["image", "metric"])
        lines[person, tuning] = {"photographs": both.image.nunique()} | _differences(both)
    found = pd.DataFrame.from_dict(lines, orient="index")
    return found.rename_axis(["person", "tuning"]).fillna("") if lines else found


def _differences(both):
    """metric -> mean of the first value and its difference to the second, of merged rows."""
    both = both[both.metric.str.startswith((kind_of_identity(both.metric), "psnr"))]
    names = both.metric.str.replace("to_references", "identity").replace("psnr", "PSNR (dB)")
    return {
        name: f"{one.value_x.mean():.3f} ({interval(one.value_x - one.value_y)['words']})"
        for name, one in both.groupby(names, sort=False)
    }


def gains(rows, person):
    """One person's gain of every arm over blind restoration in numbers, as `figures.intervals` draws them.

    Args: rows, of `held_out.run`; person, who has every arm. Returns a DataFrame indexed by arm, with columns "METRIC"
    (the mean), "METRIC difference", "METRIC low" and "METRIC high".
    """
    table = pd.DataFrame([row for row in rows if row["person"] == person and "arm" in row])
    wide = table.pivot_table(index=["metric", "fold", "image"], columns="arm", values="value")
    lines = {}
    for arm, (metric, of_metric) in itertools.product([one for one in ARMS if one != "blind"], wide.groupby("metric")):
        found = interval(of_metric[arm] - of_metric["blind"])
        line = lines.setdefault(arm, {})
        line |= {metric: of_metric[arm].mean(), f"{metric} difference": found["mean"]}
        line |= {f"{metric} {bound}": found[bound] for bound in ("low", "high")}
    return pd.DataFrame.from_dict(lines, orient="index")


def by_arm(rows):
    """Gain of every arm over blind restoration with its 95 % interval, for the people who have all arms.

    Args: rows, of `held_out.run`. Returns a DataFrame indexed by person and arm: identity by every recogniser and
    PSNR (dB).
    """
    people = with_all_arms(rows)
    of_them = [row for row in rows if row["person"] in people]
    tables = {arm: summary(of_them, arm).difference.unstack() for arm in ARMS if arm != "blind"}
    table = pd.concat(tables, names=["arm"]).swaplevel().sort_index(level="person", sort_remaining=False)
    shown = [metric for metric in table if metric.startswith(("identity ", "psnr"))]
    return table[shown].rename(columns={"psnr": "PSNR (dB)"})
