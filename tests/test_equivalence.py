"""Equivalence against the intervals it stands for, and steps to equal quality against curves whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lib.errors import RangeError
from lib.studies.equivalence import compared, equivalence, steps_ratio, steps_to_reach


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=12).filter(np.ptp), st.floats(0.01, 2))
def test_equivalent_is_when_the_ninety_per_cent_interval_lies_within_the_margin(values, margin):
    found = equivalence(values, margin)
    half = stats.sem(values) * stats.t.ppf(0.95, len(values) - 1)
    assert found["low"] == pytest.approx(np.mean(values) - half) and found["high"] == pytest.approx(
        np.mean(values) + half
    )
    assert (found["verdict"] == "equivalent") == (-margin < found["low"] and found["high"] < margin)


def test_the_verdicts():
    assert equivalence([0.011, 0.010, 0.012, 0.009], 0.02)["verdict"] == "equivalent"  # though it is not zero
    assert equivalence([0.011, 0.010, 0.012, 0.009], 0.005)["verdict"] == "higher"
    assert equivalence([-0.011, -0.010, -0.012, -0.009], 0.005)["verdict"] == "lower"
    assert equivalence([0.9, -0.9, 0.5, -0.4], 0.005)["verdict"] == "inconclusive"
    assert equivalence([0.05, -0.01, 0.04, -0.005], 0.02)["verdict"] == "not lower"  # by more than the margin
    assert equivalence([-0.05, 0.01, -0.04, 0.005], 0.02)["verdict"] == "not higher"


def test_comparisons_make_a_table_with_the_interval_in_words():
    found = compared({"a": [0.011, 0.010, 0.012, 0.009], "b": [0.9, -0.9, 0.5, -0.4]}, 0.02)
    assert list(found.index) == ["a", "b"] and list(found.verdict) == ["equivalent", "inconclusive"]
    assert found.loc["a", "in words"] == "+0.0105 [+0.0090, +0.0120]"


@pytest.mark.parametrize("values, margin", [([0.1], 0.1), ([], 0.1), ([0.1, 0.2], 0.0), ([0.1, 0.2], -1.0)])
def test_one_person_or_no_margin_is_refused(values, margin):
    with pytest.raises(RangeError, match="Remedy"):
        equivalence(values, margin)


def test_the_goal_is_reached_between_the_steps():
    assert steps_to_reach([10, 40, 160], [0.0, 0.5, 1.0], 0.25) == pytest.approx(20)  # halfway in log steps
    assert steps_to_reach([10, 40, 160], [0.3, 0.5, 1.0], 0.25) == 10
    assert steps_to_reach([10, 40, 160], [0.0, 0.5, 1.0], 1.1) == float("inf")
    assert steps_to_reach([10, 40, 160], [0.0, 0.9, 0.1], 0.9) == pytest.approx(40)  # the first time counts


def test_a_training_that_learns_twice_as_fast_needs_half_the_steps():
    steps, people = np.array([5, 10, 20, 40, 80, 160]), 8
    rises = np.linspace(0.1, 0.2, people)[:, None]
    slow = pd.DataFrame(0.5 + rises * np.log(steps / 5), columns=steps)
    fast = pd.DataFrame(0.5 + rises * np.log(2 * steps / 5), columns=steps)
    found = steps_ratio(fast, slow, pd.Series(0.5, slow.index))
    assert list(found.values()) == pytest.approx([0.5] * 3)


def test_people_count_in_the_interval():
    steps = np.array([5, 20, 80, 320])
    g = np.random.default_rng(0)
    slow = pd.DataFrame(0.5 + 0.1 * np.log(steps / 5) + 0.05 * g.normal(size=(12, 4)), columns=steps)
    fast = pd.DataFrame(0.5 + 0.1 * np.log(2 * steps / 5) + 0.05 * g.normal(size=(12, 4)), columns=steps)
    found = steps_ratio(fast, slow, pd.Series(0.5, slow.index))
    assert found["low"] < found["ratio"] < found["high"] and found["low"] < 0.5 < found["high"]
    never = steps_ratio(fast * 0 + 0.4, slow, pd.Series(0.5, slow.index))
    assert never["ratio"] == never["low"] == float("inf")
