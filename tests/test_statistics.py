"""Statistics of a study in closed form: means over people, paired intervals, Holm's adjustment, outcomes."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.metrics import headline
from lib.studies import statistics
from lib.studies.arms import ARMS


@pytest.fixture(scope="module")
def table():
    """Five people with unequal numbers of images, every arm, random values, rows in random order."""
    rng = np.random.default_rng(0)
    rows = [
        dict(person=f"people:{p}9", arm=arm, image=image, seed=seed, metric=metric, value=p + 0.3 * n + rng.normal())
        for n, arm in enumerate(("input", *ARMS))
        for p in range(5)
        for image in range(1 + p)
        for seed in range(1 if arm == "input" else 2)
        for metric in headline.HEADLINE
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def means(table, metric, arm):
    """The mean of each person's images, computed without pandas' pivoting."""
    values = {}
    for row in table.to_dict("records"):
        if (row["metric"], row["arm"]) == (metric, arm):
            values.setdefault(row["person"], []).append(row["value"])
    return np.array([np.mean(values[person]) for person in sorted(values)])


def study(changes, people=6, spread=0.01, metrics=headline.HEADLINE):
    """Rows in which an arm differs from 0 by `changes[metric, arm]` with little noise, and is noise alone otherwise."""
    rng = np.random.default_rng(1)
    rows = [
        dict(
            person=str(p),
            arm=arm,
            image=0,
            seed=0,
            metric=metric,
            value=changes.get((metric, arm), 0.0) + spread * rng.normal(),
        )
        for p in range(people)
        for arm in ARMS
        for metric in metrics
    ]
    return pd.DataFrame(rows)


def test_a_person_counts_once_however_many_images(table):
    found = statistics.per_person(table, "psnr")
    assert found.shape == (5, 7) and list(found.index) == sorted(found.index)
    for arm in ("input", "blind", "dual pivot"):
        assert np.allclose(found[arm], means(table, "psnr", arm))


@pytest.mark.parametrize("arm, against", [("dual pivot", "blind"), ("swap", "blind"), ("dual pivot", "swap")])
def test_the_paired_interval_by_hand(table, arm, against):
    d = means(table, "identity", arm) - means(table, "identity", against)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
    assert np.allclose(statistics.paired(table, "identity", arm, against), (d.mean(), d.mean() - half, d.mean() + half))
    assert statistics.paired(table, "identity", against, arm)[0] == pytest.approx(-d.mean())


def test_the_summary_has_every_arm_and_its_differences(table):
    found = statistics.summary(table)
    assert list(found.index) == ["input", *ARMS]
    for metric in headline.HEADLINE:
        for arm in found.index:
            assert found.loc[arm, metric] == pytest.approx(means(table, metric, arm).mean())
        row = found.loc["dual pivot", [f"{metric} difference", f"{metric} low", f"{metric} high"]]
        assert np.allclose(row.astype(float), statistics.paired(table, metric, "dual pivot"))
        assert found.loc["blind", [f"{metric} difference", f"{metric} low"]].isna().all()


def test_a_summary_is_rounded_with_its_interval(table):
    found = statistics.summary(table)
    text = statistics.formatted(found)
    mean, d, low, high = found.loc["dual pivot", ["psnr", "psnr difference", "psnr low", "psnr high"]]
    assert text.loc["dual pivot", headline.LABEL["psnr"]] == f"{mean:.2f} ({d:+.2f} [{low:+.2f}, {high:+.2f}])"
    assert text.loc["blind", headline.LABEL["identity"]] == f"{found.loc['blind', 'identity']:.3f}"
    alone = statistics.formatted(statistics.summary(table[table.metric == "identity"]))
    assert list(alone.columns) == [headline.LABEL["identity"]] and list(alone.index) == list(found.index)


@pytest.mark.filterwarnings("ignore")  # scipy warns of a single pair
def test_one_person_has_no_interval_and_decides_nothing(table):
    one = table[table.person == "people:19"]
    text = statistics.formatted(statistics.summary(one))
    assert not text.map(lambda cell: "nan" in cell or "[" in cell).to_numpy().any()
    assert set(statistics.outcomes(one).outcome) == {"inconclusive"}


def test_an_interval_of_differences_is_students_t():
    found = statistics.interval([1.0, 2.0, 3.0, float("nan")])
    half = 4.302653 / 3**0.5  # t of two degrees of freedom at 0.975, standard deviation 1
    assert (found["mean"], found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-5)
    assert found.words == f"+2.000 [{2 - half:+.3f}, {2 + half:+.3f}]"
    assert statistics.interval([0.25], digits=2).words == "+0.25"


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, 0.03, 0.005, np.nan])
    assert np.allclose(statistics.holm(p), [0.03, 0.06, 0.06, 0.02, np.nan], equal_nan=True)
    assert list(statistics.holm(pd.Series([0.5, 0.9]))) == [1.0, 1.0]


@pytest.mark.parametrize("change, word", [(0.5, "reproduced"), (-0.5, "contradicted"), (0.0, "inconclusive")])
def test_outcomes_follow_sign_and_p_value(change, word):
    sign = {"identity": 1, "perceptual": -1, "psnr": -1}
    found = statistics.outcomes(study({(m, "dual pivot"): change * s for m, s in sign.items()}))
    assert len(found) == len(statistics.PAPER_CLAIMS) and list(found.outcome[:3]) == [word] * 3
    assert (found.p_holm >= found.p).all() and (found.low <= found.difference).all()


def test_an_effect_where_the_paper_expects_none_contradicts_it():
    found = statistics.outcomes(study({("identity", "swap"): 0.5})).set_index("statement").outcome
    assert found["swapping in a tuned G changes nothing (Fig. 2c)"] == "contradicted"


def test_a_difference_that_many_comparisons_explain_is_inconclusive():
    """Its unadjusted interval excludes zero; its adjusted p-value is above 0.05."""
    offsets = np.array([0.2, 0.6, 1.0, 1.4, 1.8, -0.2])
    table = study({}, spread=0.0)
    table.loc[(table.metric == "psnr") & (table.arm == "swap"), "value"] = -offsets
    noise = np.random.default_rng(4).normal(size=len(table))
    table.loc[table.metric != "psnr", "value"] += noise[table.metric != "psnr"]
    row = statistics.outcomes(table).query("metric == 'psnr' and arm == 'in-context'").iloc[0]
    assert row.low > 0 and row.p < 0.05 < row.p_holm and row.outcome == "inconclusive"


@pytest.mark.parametrize("metrics, left", [(("psnr", "identity"), 9), (("psnr", "lpips", "identity"), 12)])
def test_statements_about_what_was_not_measured_are_left_out(metrics, left):
    found = statistics.outcomes(study({}, metrics=metrics))
    assert len(found) == left and ("lpips" in metrics) == (found.metric == "lpips").any()


def test_outcomes_are_rounded_for_reading():
    text = statistics.formatted_outcomes(statistics.outcomes(study({("identity", "dual pivot"): 0.5}))).iloc[0]
    assert text["measured"] == "identity, dual pivot − blind" and text["p (Holm)"] == "< 0.001"
    assert text["outcome"] == "reproduced" and text["difference"].startswith("+0.")


def test_costs_in_a_sentence():
    record = {
        "parameters": {"TEXTUAL_STEPS": 120, "MODEL_STEPS": 50, "SAMPLING_STEPS": 40},
        "peak_memory": 2.34e9,
        "seconds": {"tuning": 61.7, "restoring": 12.0},
        "metrics": [{"image": image, "arm": arm} for image in range(3) for arm in "abc"],
    }
    assert statistics.costs(record) == (
        "Both pivots (120 + 50 steps): 62 s. Restoring a picture (40 steps, in batches): 2.0 s. Peak memory: 2.3 GB."
    )
