"""The analysis of a user study against closed forms, other implementations, and observers whose truth is known."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols

from lib import paths
from lib.errors import StoreError, StudyFileError
from lib.user_study import answers, charts, observers, power, predictors, preference, quality, shares, study_file
from lib.user_study.study_file import Exclusion

STUDY = study_file.read(paths.PARAMS / "user_study.yaml")
ITEMS = [f"person {k // 4} {k % 4}" for k in range(12)]
ARMS = STUDY.parts[1].arms
PAIR = observers.Crowd({"a": 0.0, "b": 0.0})


@pytest.fixture(scope="module")
def table():
    """Thirty simulated observers of the example study, who like the arms in this order."""
    crowd = observers.Crowd(dict(zip(ARMS, (0.0, 0.6, 1.2, 1.8))), observer=0.3, item=0.3)
    return observers.answered(STUDY, ITEMS, crowd, 30, seed=1)


def crossed(rng, N=9, M=7):
    """(participant, item, y) of a full crossing."""
    who, what = np.repeat(np.arange(N), M), np.tile(np.arange(M), N)
    return who, what, (rng.normal(size=N)[who] + rng.normal(size=M)[what] + rng.normal(size=N * M) > 0).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_the_two_way_error_is_that_of_the_analysis_of_variance(seed):
    who, what, y = crossed(np.random.default_rng(seed))
    frame = pd.DataFrame({"y": y, "who": who, "what": what})
    fit = sm.stats.anova_lm(ols("y ~ C(who) + C(what)", frame).fit())
    person, item, rest = fit["sum_sq"] / fit["df"]
    total = max(person + item - rest, person, item) / len(y)
    degrees = (total * len(y)) ** 2 / (person**2 / 8 + item**2 / 6 + rest**2 / 48)
    assert np.allclose(shares.two_way(who, what, y), (y.mean(), np.sqrt(total), degrees))


def test_one_way_alone_is_a_t_interval_over_participants():
    """Items that do not differ in sum: what is left is the variance of the participants' means."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=12)
    who, what = np.repeat(np.arange(12), 5), np.tile(np.arange(5), 12)
    mean, error, df = shares.two_way(who, what, means[who])
    assert np.isclose(mean, means.mean()) and np.isclose(error, stats.sem(means)) and np.isclose(df, 11)


def test_labels_and_order_do_not_matter():
    rng = np.random.default_rng(3)
    who, what, y = crossed(rng)
    mixed = rng.permutation(len(y))
    names = np.array([f"p{k}" for k in range(9)])[who][mixed], np.array([f"i{k}" for k in range(7)])[what][mixed]
    assert np.allclose(shares.interval(who, what, y), shares.interval(*names, y[mixed]))
    share, low, high = shares.interval(who, what, y)
    assert np.allclose(shares.interval(who, what, 1 - y), (1 - share, 1 - high, 1 - low))


def test_interval_and_p_value_say_the_same():
    rng = np.random.default_rng(5)
    for _ in range(50):
        who, what, y = crossed(rng, 6, 5)
        _, low, high = shares.interval(who, what, y)
        assert (low <= 0.5 <= high) == (shares.p_value(who, what, y) >= 0.05)
    assert shares.interval(who, what, 0 * y)[1:] == pytest.approx((0, 0.4345), abs=1e-3)  # Wilson's of 0 out of 5


def test_many_crossed_studies_at_once_are_the_same_one_by_one():
    crowd = observers.Crowd({"a": 0.0, "b": 1.5}, observer=0.2, item=0.2)
    y = observers.pairs(np.random.default_rng(2), 60, 5, 4, crowd)  # among them shares of 1
    y[0] = True
    who, what = np.repeat(np.arange(5), 4), np.tile(np.arange(4), 5)
    assert np.allclose(np.transpose(shares.crossed(y)), [shares.interval(who, what, one.ravel()) for one in y])
    means = shares.crossed_bootstrap(y, 3000, np.random.default_rng(0))
    slow = shares.resampled(who, what, 3000, np.random.default_rng(0))
    assert np.allclose(means[1].mean(), y[1].mean(), atol=0.01)
    assert np.isclose(means[1].std(), (slow @ y[1].ravel() / slow.sum(1)).std(), rtol=0.1)


def test_usual_interval_and_test_are_the_textbooks():
    y = np.repeat([1, 0], [42, 18])
    assert shares.wilson(y) == pytest.approx((0.7, 0.5749, 0.8008), abs=1e-3)
    assert shares.binomial(y) == pytest.approx(2 * stats.binom.sf(41, 60, 0.5))


def test_a_resampled_answer_counts_as_often_as_both_were_drawn():
    who, what, y = crossed(np.random.default_rng(0))
    weights = shares.resampled(who, what, 4000, np.random.default_rng(1))
    assert weights.sum(1) == pytest.approx(len(y)) and np.allclose(weights.mean(0), 1, atol=0.12)
    spread = (weights @ y / weights.sum(1)).std()
    assert shares.two_way(who, what, y)[1] < spread < 1.6 * shares.two_way(who, what, y)[1]  # Owen (2007): never less


def test_the_population_share_is_what_simulated_studies_have_on_average():
    crowd = observers.Crowd({"a": 0.0, "b": 0.9}, observer=0.4, item=0.6, lazy=0.1, side=0.5)
    drawn = observers.pairs(np.random.default_rng(0), 4000, 6, 6, crowd)
    assert observers.share(crowd) == pytest.approx(drawn.mean(), abs=4 * 0.0035)
    assert observers.share(observers.with_share(crowd, 0.62)) == pytest.approx(0.62)
    assert observers.share(PAIR) == pytest.approx(0.5)


def test_intervals_hold_the_truth_and_the_usual_one_does_not():
    found = power.coverage(PAIR, 30, 11, studies=300, draws=200).set_index("method")
    assert 0.92 <= found.coverage["t"] <= 0.985 and 0.92 <= found.coverage["bootstrap"] <= 0.985
    assert found.coverage["Wilson"] < 0.75 and found.excludes_half["t"] == pytest.approx(1 - found.coverage["t"])


def test_power_grows_with_items_and_with_the_preference():
    curve = power.curve(PAIR, 0.65, [30], [6, 24], studies=200)
    assert curve.loc[24, 30] > curve.loc[6, 30] + 0.2
    found, least = power.detectable(PAIR, 30, 11, (0.55, 0.7, 0.9), studies=200)
    assert found[0.55] < 0.4 < 0.6 < found[0.7] < found[0.9] and 0.6 < least < 0.9
    assert np.isnan(power.detectable(PAIR, 5, 4, (0.55,), studies=50)[1])


def test_strengths_are_choixs_and_for_whole_sets_the_shares():
    crowd = observers.Crowd(dict(zip("abcd", (0.0, 0.3, 0.1, 0.8))))
    chosen = observers.sets(np.random.default_rng(0), 1, 30, 10, crowd)[0].ravel()
    rows = pd.DataFrame({"chosen": np.array(list("abcd"))[chosen], "options": [tuple("abcd")] * len(chosen)})
    logs = power.log_strengths(np.bincount(chosen, minlength=4))
    assert np.allclose(preference.strengths(rows, list("abcd")), logs, atol=2e-3)


def test_strengths_of_overlapping_sets_are_recovered():
    """Not everybody sees every arm: shares would mislead, strengths do not."""
    rng, worth, rows = np.random.default_rng(0), dict(a=0.0, b=1.0, c=2.0), []
    for some, count in ((("a", "b"), 900), (("b", "c"), 300)):
        p = 1 / (1 + np.exp(worth[some[0]] - worth[some[1]]))
        rows += [(some[int(x)], some) for x in rng.random(count) < p]
    rows = pd.DataFrame(rows, columns=["chosen", "options"])
    assert np.allclose(preference.strengths(rows, list("abc")), [-1, 0, 1], atol=0.15)
    assert rows.chosen.value_counts().idxmax() == "b"


def test_a_known_ranking_is_recovered(table):
    rows = quality.choices(table, "identity", "blind")
    found = preference.strength_table(rows, list(ARMS), draws=60)
    assert list(found.strength.sort_values().index) == list(ARMS)
    assert (found.low < found.strength).all() and (found.strength < found.high).all()
    shown = preference.table_of(table, "identity", ARMS)
    assert shown.share.is_monotonic_increasing and shown.share.sum() == pytest.approx(1)
    assert shown.p["dual pivot"] < 0.05 and preference.contested(rows, list(ARMS)).sum(
        axis=1
    ).to_numpy() == pytest.approx(1)


def test_part_a_by_every_method(table):
    rows = quality.choices(table, "quality", "dual pivot")
    found = quality.summary(rows, draws=300)
    assert found.share.nunique() == 1 and found.p[quality.BOTH] < 0.05
    width = found.high - found.low
    assert width[quality.INDEPENDENT] < width[quality.BOTH]
    model = quality.mixed_model(rows)
    assert abs(model["share"] - found.share.iloc[0]) < 0.08 and model["item"] > 0 and model["participant"] > 0
    assert (quality.per_item(rows).share - 0.5).abs().is_monotonic_increasing
    with pytest.raises(StoreError, match="Remedy"):
        quality.choices(table, "quality", "nobody")


def test_the_mixed_model_sees_a_side():
    crowd = observers.Crowd(
        {"blind": 0.0, "dual pivot": 0.3, "one step": 0.0, "one step with references": 0.0}, side=0.0
    )
    some = observers.answered(STUDY, ITEMS, crowd, 20, seed=2)
    rows = quality.choices(some, "quality", "dual pivot")
    biased = rows.assign(y=np.where(np.arange(len(rows)) % 2 == 0, rows.side > 0, rows.y).astype(int))
    assert quality.mixed_model(biased)["side"] > quality.mixed_model(rows)["side"] + 0.5


def test_agreement_is_fleiss(table):
    same = quality.choices(table, "quality", "blind")
    alike = same.assign(chosen=np.where(same.item < "person 1 2", "blind", "dual pivot"))
    assert quality.agreement(alike)[0] == pytest.approx(1)
    dice = same.assign(chosen=np.random.default_rng(0).permutation(np.resize(["blind", "dual pivot"], len(same))))
    assert abs(quality.agreement(dice)[0]) < 0.1
    kappa, fewest, count = quality.agreement(same[same.participant == 0])
    assert np.isnan(kappa) and (fewest, count) == (1, 11)
    same, of = quality.consistency(table, "quality")
    assert of == 30 and 15 < same <= 30


def test_careless_observers_are_left_out_by_the_rule_alone():
    crowd = observers.Crowd(dict.fromkeys(ARMS, 0.0), lazy=0.0, careless=0.3)
    table = observers.answered(STUDY, ITEMS, crowd, 40, seed=0)
    checks = table[table.kind == "attention"]
    wrong = checks[checks.correct == 0].groupby("participant").size()
    out = answers.excluded(table, Exclusion(failed=0, seconds=0.0))
    assert set(out.index) == set(wrong.index) and len(out) > 5 and set(out.why) == {"attention checks"}
    assert set(answers.kept(table, Exclusion(0, 0.0)).participant) == set(range(40)) - set(out.index)
    with pytest.raises(StoreError, match="all 40 participants"):
        answers.kept(table, Exclusion(99, 60.0))
    hasty = answers.excluded(table, Exclusion(failed=99, seconds=1.5))
    assert set(hasty.why) == {"haste"} and (hasty["median seconds"] < 1.5).all()
    assert answers.excluded(table, Exclusion(failed=99, seconds=0.0)).empty


def test_simulated_and_real_answers_are_never_mixed(table):
    assert answers.label(table) == "30 SIMULATED observers"
    assert answers.label(table.assign(origin="browser")) == "30 participants"
    for wrong in (table.iloc[:0], table.assign(origin=np.where(table.participant > 3, "browser", "simulated"))):
        with pytest.raises(StoreError):
            answers.label(wrong)


def test_a_table_that_is_no_table_of_answers_is_refused(tmp_path, table):
    file = tmp_path / "answers.csv"
    stored = table.assign(options=table.options.map(answers.joined)).to_dict("records")
    file.write_text(answers.to_csv(stored))
    again = answers.read(file)
    assert list(again.options) == list(table.options) and list(again.chosen) == list(table.chosen)
    twice = [{**row, "kind": "trial", "part": "p", "item": "i", "participant": 0} for row in stored[:2]]
    other = [{**stored[1], "chosen": "nobody"}]
    for wrong, says in ((twice, "twice"), (other, "none of its options"), ([{**stored[0], "item": ""}], "Empty")):
        file.write_text(answers.to_csv(wrong))
        with pytest.raises(StoreError, match=says):
            answers.read(file)
    file.write_text("participant,part\n1,2\n")
    with pytest.raises(StoreError, match="Column missing"):
        answers.read(file)
    with pytest.raises(StoreError, match="Remedy"):
        answers.read(tmp_path / "nowhere.csv")
    with pytest.raises(StoreError, match="Remedy"):
        answers.read(tmp_path / "nowhere.sqlite")


def test_a_metric_that_people_follow_is_seen_to_be_followed():
    rng = np.random.default_rng(0)
    values = [dict(item=item, arm=arm, metric=name, value=rng.normal()) for name in ("identity", "perceptual", "psnr") for item in ITEMS for arm in ARMS]  # fmt: skip  # noqa: E501
    metrics = pd.DataFrame(values)
    worth = {key: 6 * value for key, value in predictors.worths(metrics, "perceptual").items()}
    crowd = observers.Crowd(dict.fromkeys(ARMS, 0.0), observer=0.0, item=0.0, lazy=0.0, side=0.0)
    table = observers.answered(STUDY, ITEMS, crowd, 12, 0, worth)
    found = predictors.agreement(quality.choices(table, "identity", "blind"), metrics)
    assert found.share["perceptual (people-p)"] > 0.85 and found.low["perceptual (people-p)"] > 0.25  # lower is better
    assert found.share["identity (people-r)"] < 0.6 and set(found.chance) == {0.25}
    with pytest.raises(StudyFileError, match="Not measured"):
        predictors.agreement(quality.choices(table, "identity", "blind"), metrics[metrics["item"] != ITEMS[0]])


def test_one_participant_is_enough_for_every_function(table):
    one = table[table.participant == 3]
    rows = quality.choices(one, "quality", "dual pivot")
    assert quality.summary(rows, draws=50).notna().all().drop("p").all() and quality.mixed_model(rows).isna().all()
    alike = quality.choices(table, "quality", "dual pivot").assign(y=1)
    assert quality.mixed_model(alike).isna().all() and quality.summary(alike, draws=50).share.eq(1).all()
    assert len(preference.strength_table(quality.choices(one, "identity", "blind"), list(ARMS), draws=20)) == 4
    assert preference.table_of(one, "identity", ARMS).share.sum() == pytest.approx(1)


def test_figures_say_who_answered(table):
    rows = quality.choices(table, "quality", "dual pivot")
    who = answers.label(table)
    drawn = [
        charts.dots({"": quality.summary(rows, draws=50)}, "share", {"chance": 0.5}, who),
        charts.choices(rows, ("blind", "dual pivot"), who),
        charts.item_shares(
            preference.contested(quality.choices(table, "identity", "blind"), list(ARMS)), list(ARMS), who
        ),
    ]
    for figure in drawn:
        assert "30 SIMULATED observers" in figure._repr_mimebundle_()[1]["image/png"]["alt"]
