"""The table of metrics: against other implementations, closed forms and properties; every missing value has its reason."""
import json
import math

import numpy as np
import pandas as pd
import pytest
import tiny_system
import torch
from calibration_pairs import pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import metrics, people
from lib.errors import PictureError, PictureSizeError, RangeError
from lib.faces import to_tensor
from lib.paths import DATA

CALIBRATION = json.loads((DATA / "calibration" / "pairs.json").read_text())
HERE = tuple(name for name, metric in metrics.TABLE.items() if metric.of and name != "ms_ssim")  # what runs at 128 px on the default path
SYMMETRIC = ("psnr", "ssim", "perceptual", "identity", "degrees", "embedding_distance", "l2_ld", "lle")
EXACT = {"psnr": math.inf, "ssim": 1, "perceptual": 0, "identity": 1, "degrees": 0, "embedding_distance": 0, "l2_ld": 0, "ald_eyes": 0,
         "ald_mouth": 0}


def values(*args, only=HERE, **options):
    """metric -> array, of a `measure` that must have no reason."""
    table = metrics.measure(*args, only=only, **options)
    assert set(table.reason) == {""}, set(table.reason)
    return {name: rows.sort_values("picture").value.to_numpy() for name, rows in table.groupby("metric")}


@pytest.fixture(scope="module")
def crowd():
    """Pictures of four test people, other pictures of them, and pictures of four others."""
    some, others = people.people_of("test", 4), people.people_of("test", 4, start=4)
    draw = lambda who, k: to_tensor(people.render([(p, p.shot(k)) for p in who]).pictures)  # noqa: E731
    return draw(some, 0), draw(some, 1), draw(others, 0)


@pytest.mark.parametrize("name", CALIBRATION["values"])
@pytest.mark.parametrize("metric", [name for name, metric in metrics.TABLE.items() if metric.tolerance])
def test_what_another_implementation_says(name, metric):
    clean, spoilt = (to_tensor(picture[None]) for picture in pairs()[name])
    assert values(spoilt, clean, only=(metric,))[metric][0] == pytest.approx(CALIBRATION["values"][name][metric],
                                                                             abs=metrics.TABLE[metric].tolerance)


def test_every_row_of_the_table_says_what_a_reader_needs():
    for name, metric in metrics.TABLE.items():
        assert metric.name == name and metric.label and metric.source and metric.library
        assert metric.range[0] < metric.range[1] and set(metric.needs) <= {"truth", "references", "inputs"}
        assert bool(metric.of) != bool(metric.package)
    held = {name for name, metric in metrics.TABLE.items() if metric.tolerance}
    assert held == {name for values in CALIBRATION["values"].values() for name in values}  # a tolerance that nothing holds is a guess
    assert set(metrics.STORY) == set(metrics.LABEL) <= set(metrics.TABLE)


def test_a_picture_against_itself(crowd):
    for name, value in values(crowd[0], crowd[0], only=tuple(EXACT)).items():
        assert np.allclose(value, EXACT[name], atol=0.05), name  # degrees: acos is steep at 1


def test_angle_and_distance_are_those_of_the_cosine(crowd):
    found = values(crowd[0], crowd[2], only=SYMMETRIC)
    assert np.allclose(found["degrees"], np.degrees(np.arccos(found["identity"])), atol=1e-2)
    assert np.allclose(found["embedding_distance"], np.sqrt(2 - 2 * found["identity"]), atol=1e-3)


def test_the_same_person_is_nearer_than_another_by_every_measure_of_identity(crowd):
    same, other = (values(x, crowd[0], only=SYMMETRIC) for x in crowd[1:])
    for name in ("identity", "degrees", "embedding_distance"):
        better = np.greater if metrics.TABLE[name].higher else np.less
        assert better(same[name].mean(), other[name].mean()), name


def test_the_gate_holds_restored_against_input_and_references_against_their_mean(crowd):
    found = metrics.measure(crowd[1], inputs=crowd[0], references=crowd[2], only=("gate", "to_references"))
    a, b, r = (metrics.embeddings(x).numpy() for x in (crowd[1], crowd[0], crowd[2]))
    assert np.allclose(found[found.metric == "gate"].value, (a * b).sum(1), atol=1e-5)
    assert np.allclose(found[found.metric == "to_references"].value, a @ r.mean(0) / np.linalg.norm(r.mean(0)), atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)), loud=st.floats(0.01, 1))
def test_ranges_symmetry_order_and_batch(seed, order, loud):
    x, y = tiny_system.pictures(3, seed, 128), tiny_system.pictures(3, seed + 1, 128)
    y = (x + loud * (y - x)).clamp(-1, 1)
    found, turned, mixed = values(x, y, x, x[:1]), values(y, x, only=SYMMETRIC), values(x[list(order)], y[list(order)], x[list(order)], x[:1])
    for name in HERE:
        low, high = metrics.TABLE[name].range
        assert (found[name] >= low - 1e-4).all() and (found[name] <= high + 1e-4).all(), name
        assert np.allclose(mixed[name], found[name][list(order)], atol=2e-3, rtol=1e-3), name
    for name in SYMMETRIC:
        assert np.allclose(found[name], turned[name], atol=2e-3, rtol=1e-3), name
    alone = values(x[1:2], y[1:2], x[1:2], x[:1])
    assert all(np.allclose(alone[name][0], found[name][1], atol=2e-3, rtol=1e-3) for name in HERE)


def test_no_row_is_dropped_and_every_missing_value_says_why(crowd, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    table = metrics.measure(crowd[0], crowd[1])
    assert len(table) == 4 * len(metrics.TABLE) and list(table.columns) == ["picture", "metric", "value", "reason"]
    assert (table.value.isna() == (table.reason != "")).all()
    why = table.groupby("metric").reason.first()
    assert why.gate == "needs inputs" and why.to_references == "needs references" and "161" in why.ms_ssim
    assert "pip install -e '.[full]'" in why.lpips and why.psnr == ""


def test_ms_ssim_runs_where_pictures_are_large_enough():
    clean, spoilt = (to_tensor(picture[None]) for picture in pairs()["person, blur"])
    assert 0.8 < values(spoilt, clean, only=("ms_ssim",))["ms_ssim"][0] < 1


def test_real_faces_need_a_landmark_model_of_their_own(crowd):
    table = metrics.measure(crowd[0], crowd[1], pack=metrics.RECOGNISER, only=("l2_ld", "identity"))
    why = table.groupby("metric").reason.first()
    assert "people-l knows drawn people only" in why.l2_ld and why.identity == ""
    with pytest.raises(RangeError, match="psnrr.*Remedy"):
        metrics.measure(crowd[0], crowd[1], only=("psnrr",))


def test_one_embedding_and_one_detection_a_picture_however_many_metrics(crowd, monkeypatch):
    seen, real = [], metrics.embeddings
    found, marks = [], metrics.find_landmarks
    monkeypatch.setattr(metrics, "embeddings", lambda x, pack=None: seen.append(len(x)) or real(x, pack))
    monkeypatch.setattr(metrics, "find_landmarks", lambda x, model: found.append(len(x)) or marks(x, model))
    values(crowd[0], crowd[1], crowd[0], crowd[2])
    assert len(seen) == 4 and len(found) == 2


@pytest.mark.parametrize("name", ["restored", "truth", "inputs", "references"])
def test_a_picture_that_is_none_is_named_with_its_index(name):
    x = {part: tiny_system.pictures(3, 1, 128) for part in ("restored", "truth", "inputs", "references")}
    for value in (1.5, math.nan, -math.inf):
        bad = x[name].clone()
        bad[2, 1, 5, 5] = value
        with pytest.raises(PictureError, match=f"{name}, picture 2.*Remedy"):
            metrics.measure(**{**x, name: bad})
    for odd in (x[name][:, :2], x[name][0], x[name][..., :96], x[name][:0]):
        if name != "restored" or odd.shape[-1] == 128:
            with pytest.raises(PictureSizeError, match="Remedy"):
                metrics.measure(**{**x, name: odd})


def test_the_story_is_the_same_as_in_the_table(crowd):
    story = metrics.story(crowd[1], crowd[0])
    assert list(story) == list(metrics.STORY)
    assert all(np.allclose(story[name], value) for name, value in values(crowd[1], crowd[0], only=metrics.STORY).items())
    assert isinstance(metrics.measure(crowd[1], crowd[0], only=("psnr",)), pd.DataFrame)
    assert torch.allclose(metrics.story(crowd[1], references=crowd[0])["identity"],
                          torch.tensor(values(crowd[1], references=crowd[0], only=("to_references",))["to_references"]).float(), atol=1e-6)
