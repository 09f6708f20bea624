"""Metrics against other implementations, closed forms and properties; every missing value has its reason."""

import json
import math

import numpy as np
import onnx
import pandas as pd
import pytest
import tiny_system
import torch
import torch.nn.functional as F
from calibration_pairs import EXCEPTIONS, FILE, pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pack import write_detector, write_recogniser

from lib.errors import NoFaceError, PictureError, PictureSizeError, RangeError
from lib.images import to_tensor
from lib.metrics import headline, identity, image, landmark_distances, pyiqa_metrics, registry
from lib.people import procedural

CALIBRATION = json.loads(FILE.read_text())
HERE = tuple(
    name for name, metric in registry.TABLE.items() if metric.of and name != "ms_ssim"
)  # what runs at 128 px on the default path
SYMMETRIC = ("psnr", "ssim", "perceptual", "identity", "degrees", "embedding_distance", "l2_ld", "lle")
EXACT = {
    "psnr": math.inf,
    "ssim": 1,
    "perceptual": 0,
    "identity": 1,
    "degrees": 0,
    "embedding_distance": 0,
    "l2_ld": 0,
    "ald_eyes": 0,
    "ald_mouth": 0,
}
ANGLES = ("identity", "degrees", "embedding_distance", "to_references", "gate")  # held by known rotations of embeddings
PLACES = ("l2_ld", "lle", "ald_eyes", "ald_mouth")  # held by known shifts of landmarks
FACE = procedural.render([(procedural.ProceduralPerson(9), procedural.ProceduralPerson(9).shot(0))]).landmarks[
    0
]  # (68, 2) in pixels of 128


def values(*args, only=HERE, **options):
    """metric -> array, of a `measure` that must have no reason."""
    table = registry.measure_all(*args, only=only, **options)
    assert set(table.reason) == {""}, set(table.reason)
    return {name: rows.sort_values("picture").value.to_numpy() for name, rows in table.groupby("metric")}


@pytest.fixture(scope="module")
def crowd():
    """Pictures of four test people, other pictures of them, and pictures of four others."""
    some, others = procedural.people_of("test", 4), procedural.people_of("test", 4, start=4)
    draw = lambda who, k: to_tensor(procedural.render([(p, p.shot(k)) for p in who]).pictures)  # noqa: E731
    return draw(some, 0), draw(some, 1), draw(others, 0)


# ---- held from outside: other implementations, closed forms ----


@pytest.mark.parametrize("metric", next(iter(CALIBRATION["values"].values())))
def test_what_another_implementation_says(metric):
    clean, spoilt = (to_tensor(list(pictures)) for pictures in zip(*pairs().values()))
    expected = [CALIBRATION["values"][name][metric] for name in pairs()]
    assert len(expected) == 20 and np.allclose(
        values(spoilt, clean, only=(metric,))[metric], expected, rtol=0, atol=registry.TABLE[metric].tolerance
    )


def test_the_perceptual_distance_is_what_its_weights_say():
    """Computed again from the shipped file's weights, by another library than the one that runs it."""
    stored = onnx.load(image.PERCEPTUAL).graph.initializer
    weights = {one.name.removesuffix(".half"): torch.tensor(onnx.numpy_helper.to_array(one)).float() for one in stored}

    def features(x):
        for stage in range(4):
            for layer, stride in ((0, 2), (2, 1)):
                name = f"features.stages.{stage}.{layer}"
                x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, 1).relu()
            yield x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()

    clean, spoilt = (
        to_tensor([picture[32:160, 32:160] for picture in pictures]) for pictures in zip(*pairs().values())
    )
    by_hand = sum((a - b).square().sum(1).mean((1, 2)) for a, b in zip(features(clean), features(spoilt)))
    found = values(spoilt, clean, only=("perceptual",))["perceptual"]
    assert found.min() > 0.01 and np.allclose(found, by_hand, rtol=0, atol=registry.TABLE["perceptual"].tolerance)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
def test_psnr_of_known_noise_and_of_a_known_shift(sigma):
    noise = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).clamp(-1.5, 1.5)
    noisy = sigma * noise / noise.square().mean().sqrt()
    assert values(noisy, 0 * noisy, only=("psnr",))["psnr"][0] == pytest.approx(10 * math.log10(4 / sigma**2), abs=1e-3)
    wave = sigma * torch.sin(torch.arange(128) * math.pi / 8).expand(1, 3, 128, 128)
    moved = wave.roll(8, 3)  # half a period: the difference is twice the wave
    assert values(moved, wave, only=("psnr",))["psnr"][0] == pytest.approx(
        10 * math.log10(4 / (2 * sigma**2)), abs=1e-3
    )


@pytest.mark.parametrize("a, b", [(0.2, 0.5), (-0.9, 0.9), (-0.3, -0.3)])
def test_ssim_of_two_even_pictures_is_its_term_of_light(a, b):
    x, y = (torch.full((1, 3, 192, 192), value) for value in (a, b))
    p, q = (a + 1) / 2, (b + 1) / 2
    light = (2 * p * q + 1e-4) / (p**2 + q**2 + 1e-4)
    found = values(x, y, only=("ssim", "ms_ssim"))
    assert found["ssim"][0] == pytest.approx(light, abs=1e-3) and found["ms_ssim"][0] == pytest.approx(
        light**0.1333, abs=1e-3
    )


@pytest.mark.parametrize("angle", [0.0, 7.0, 60.0, 90.0, 151.0])
def test_embeddings_turned_by_a_known_angle(monkeypatch, angle):
    """Here a picture's embedding is a unit vector whose direction, in half turns, is the picture's brightness."""

    def turned(x, scorer=None):
        direction = x.mean((1, 2, 3)) * math.pi
        return torch.stack([direction.cos(), direction.sin(), 0 * direction], 1)

    monkeypatch.setattr(identity, "embed", turned)
    even = lambda *degrees: torch.tensor(degrees).view(-1, 1, 1, 1).expand(-1, 3, 128, 128) / 180  # noqa: E731
    found = values(even(10.0, angle), even(10.0, 0.0), even(20.0, 0.0), even(-10.0, 0.0, 10.0), only=ANGLES)
    cosine, radians = math.cos(math.radians(angle)), math.radians(angle)
    assert np.allclose(found["identity"], [1, cosine], atol=1e-6)
    assert np.allclose(found["degrees"], [0, angle], atol=0.03)  # acos is steep at 1
    assert np.allclose(found["embedding_distance"], [0, 2 * math.sin(radians / 2)], atol=1e-3)
    assert np.allclose(found["gate"], [math.cos(math.radians(10)), cosine], atol=1e-6)
    assert np.allclose(
        found["to_references"], [math.cos(math.radians(10)), cosine], atol=1e-6
    )  # their mean points to 0


def as_points(moved):
    """A landmarker that returns FACE for dark pictures (the ground truth) and `moved` for light ones (restored)."""
    return lambda x: torch.stack([torch.tensor(moved if one.mean() > 0 else FACE) for one in x]).double()


def test_landmarks_moved_by_a_known_shift():
    dark, light = torch.full((2, 3, 64, 64), -0.5), torch.full((2, 3, 64, 64), 0.5)
    shift, map_ = np.array([3.0, -4.0]), np.array([[1.1, 0.2], [-0.1, 0.9]])
    found = values(light, dark, only=PLACES, landmarker=as_points(FACE + shift))
    assert np.allclose(found["l2_ld"], 5) and np.allclose(found["lle"], 5 * 512 / 64)
    assert np.abs([found["ald_eyes"], found["ald_mouth"]]).max() < 1e-9
    mapped = values(light, dark, only=PLACES, landmarker=as_points(FACE @ map_.T + shift))
    assert np.abs([mapped["ald_eyes"], mapped["ald_mouth"]]).max() < 1e-9 and mapped["l2_ld"].min() > 5
    for name, group, other in (("ald_eyes", "eyes", "ald_mouth"), ("ald_mouth", "mouth border", "ald_eyes")):
        moved, points = FACE.copy(), FACE[list(landmark_distances.GROUPS[group])]
        moved[landmark_distances.GROUPS[group][3]] += shift
        lifted, goal = np.column_stack([points, np.ones(len(points))]), points
        lifted[3, :2] += shift
        left = np.linalg.lstsq(lifted, goal, rcond=None)[1].sum()
        one = values(light, dark, only=PLACES, landmarker=as_points(moved))
        assert (
            np.allclose(one[name], left, rtol=1e-9)
            and np.abs(one[other]).max() < 1e-9
            and np.allclose(one["l2_ld"], 5 / 68)
        )


def test_every_metric_is_held_by_something():
    calibrated = {name for values in CALIBRATION["values"].values() for name in values}
    assert {name for name, metric in registry.TABLE.items() if metric.tolerance} == calibrated | {
        "perceptual"
    }  # no tolerance is a guess
    assert (
        CALIBRATION["exceptions"] == EXCEPTIONS
        and all(EXCEPTIONS.values())
        and set(CALIBRATION["values"]) == set(pairs())
    )
    assert calibrated | {"perceptual", *ANGLES, *PLACES, *EXCEPTIONS} == set(registry.TABLE)
    assert not set(EXCEPTIONS) & {
        name for name, metric in registry.TABLE.items() if metric.of
    }  # what runs by default is held


def test_every_row_of_the_table_is_complete():
    for name, metric in registry.TABLE.items():
        assert metric.name == name and metric.label and metric.source and metric.library and metric.accepts
        assert metric.range[0] < metric.range[1] and set(metric.needs) <= {"ground_truth", "references", "inputs"}
        assert bool(metric.of) != bool(metric.package)
    assert set(headline.HEADLINE) == set(headline.LABEL) <= set(registry.TABLE)


# ---- properties ----


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
        better = np.greater if registry.TABLE[name].higher else np.less
        assert better(same[name].mean(), other[name].mean()), name


def test_the_gate_holds_restored_against_input_and_references_against_their_mean(crowd):
    found = registry.measure_all(crowd[1], inputs=crowd[0], references=crowd[2], only=("gate", "to_references"))
    a, b, r = (identity.embed(x).numpy() for x in (crowd[1], crowd[0], crowd[2]))
    assert np.allclose(found[found.metric == "gate"].value, (a * b).sum(1), atol=1e-5)
    assert np.allclose(
        found[found.metric == "to_references"].value, a @ r.mean(0) / np.linalg.norm(r.mean(0)), atol=1e-5
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(3)), loud=st.floats(0.01, 1))
def test_ranges_symmetry_order_and_batch(seed, order, loud):
    """With points that wander with the picture in place of landmarks: there is no face in such pictures."""
    options = {
        "landmarker": lambda x: torch.tensor(FACE) + 9 * F.adaptive_avg_pool2d(x[:, :2], (17, 4)).flatten(2).mT.double()
    }
    x, y = tiny_system.pictures(3, seed, 128), tiny_system.pictures(3, seed + 1, 128)
    y = (x + loud * (y - x)).clamp(-1, 1)
    order = list(order)
    found, turned = values(x, y, x, x[:1], **options), values(y, x, only=SYMMETRIC, **options)
    mixed, alone = (
        values(x[order], y[order], x[order], x[:1], **options),
        values(x[1:2], y[1:2], x[1:2], x[:1], **options),
    )
    for name in HERE:
        low, high = registry.TABLE[name].range
        assert (found[name] >= low - 1e-4).all() and (found[name] <= high + 1e-4).all(), name
        assert np.allclose(mixed[name], found[name][order], atol=2e-3, rtol=1e-3), name
        assert np.allclose(alone[name][0], found[name][1], atol=2e-3, rtol=1e-3), name
    for name in SYMMETRIC:
        assert np.allclose(found[name], turned[name], atol=2e-3, rtol=1e-3), name


# ---- what has no value says why ----


def test_no_row_is_dropped_and_every_missing_value_says_why(crowd, monkeypatch):
    monkeypatch.setattr(pyiqa_metrics, "find_spec", lambda name: None)
    table = registry.measure_all(crowd[0], crowd[1])
    assert len(table) == 4 * len(registry.TABLE) and list(table.columns) == ["picture", "metric", "value", "reason"]
    assert (table.value.isna() == (table.reason != "")).all()
    why = table.groupby("metric").reason.first()
    assert why.gate == "needs inputs" and why.to_references == "needs references" and "161" in why.ms_ssim
    assert "pip install -e '.[full]'" in why.lpips and why.psnr == ""


def by_picture(table, metric):
    rows = table[table.metric == metric].sort_values("picture")
    return rows.value.to_numpy(), rows.reason.tolist()


def test_a_face_missing_in_one_picture_costs_that_row_alone(crowd, monkeypatch):
    seen = []

    def some(x, *_):
        seen.append(len(x))
        points = torch.tensor(FACE).repeat(len(x), 1, 1) + x.mean((1, 2, 3))[:, None, None]
        points[len(seen)] = torch.nan
        return points

    restored, ground_truth = crowd[:2]
    monkeypatch.setattr(registry, "find_landmarks", some)
    table = registry.measure_all(restored, ground_truth, only=("psnr", *PLACES))
    for metric in PLACES:
        value, reasons = by_picture(table, metric)
        assert np.isnan(value).tolist() == [False, True, True, False] and reasons[::3] == ["", ""]
        assert reasons[1].startswith("restored, picture 1: no face detected. Remedy") and reasons[2].startswith(
            "ground_truth, picture 2: no face detected."
        )
    moved = (restored - ground_truth).mean((1, 2, 3)).abs() * 2**0.5
    assert np.allclose(by_picture(table, "l2_ld")[0][::3], moved[::3], atol=1e-4)
    assert seen == [4, 4] and by_picture(table, "psnr")[1] == [""] * 4  # found in one go, and once


def test_the_shipped_detector_says_where_there_is_no_face(crowd):
    empty = crowd[0].clone()
    empty[1] = 0.1
    value, reasons = by_picture(registry.measure_all(empty, crowd[1], only=("ald_eyes",)), "ald_eyes")
    assert np.isnan(value).tolist() == [False, True, False, False] and reasons[1].startswith(
        "restored, picture 1: no face detected. Remedy"
    )
    assert np.allclose(value[[0, 2, 3]], values(*crowd[:2], only=("ald_eyes",))["ald_eyes"][[0, 2, 3]], rtol=1e-3)
    alone = registry.measure_all(crowd[0][:1], empty[1:2], only=("lle",)).reason[0]
    assert alone.startswith("ground_truth, picture 0: no face detected. Remedy")


def test_points_on_a_line_or_an_embedding_that_fails_cost_one_row_alone(crowd, monkeypatch):
    def lines(x):
        points = torch.tensor(FACE).repeat(len(x), 1, 1)
        points[2, :, 1] = points[2, :, 0]
        return points

    table = registry.measure_all(crowd[0], crowd[1], only=PLACES, landmarker=lines)
    for metric in ("ald_eyes", "ald_mouth"):
        value, reasons = by_picture(table, metric)
        assert np.isnan(value).tolist() == [False, False, True, False] and reasons[2].startswith(
            "restored, picture 2: Collinear"
        )
    assert by_picture(table, "l2_ld")[1] == [""] * 4

    def particular(x, scorer=None):
        if (x.flatten(1).std(1) == 0).any():
            raise NoFaceError("an even picture. Remedy: another.")
        return real(x, scorer)

    real, expected, even = identity.embed, values(*crowd[:2], only=("identity", "degrees")), crowd[0].clone()
    even[3] = 0.5
    monkeypatch.setattr(identity, "embed", particular)
    table = registry.measure_all(even, crowd[1], only=("identity", "degrees"))
    for metric in ("identity", "degrees"):
        value, reasons = by_picture(table, metric)
        assert reasons == ["", "", "", "restored, picture 3: an even picture. Remedy: another."]
        assert np.allclose(value[:3], expected[metric][:3], atol=1e-2)
    table = registry.measure_all(crowd[0], references=even, only=("to_references",))
    assert set(table.reason) == {"references: an even picture. Remedy: another."}


def test_ms_ssim_runs_where_pictures_are_large_enough():
    clean, spoilt = (to_tensor(picture[None]) for picture in pairs()["person, blur"])
    assert 0.8 < values(spoilt, clean, only=("ms_ssim",))["ms_ssim"][0] < 1


def test_models_that_cannot_be_used_are_reasons_of_the_metrics_that_need_them(crowd, tmp_path):
    detector, recogniser = (
        write_detector(tmp_path / "detector"),
        write_recogniser(tmp_path / "r.onnx", np.ones((3 * 112 * 112, 8))),
    )
    for scorer, metric, said in (
        (detector, "identity", "No recogniser in the pack"),
        (detector, "l2_ld", "No landmark model in the pack"),
        (recogniser, "l2_ld", "A recogniser alone gives no landmarks"),
        (detector / "det.onnx", "gate", "Not a recogniser"),
        (tmp_path / "absent", "degrees", "No insightface pack"),
        (tmp_path / "absent", "ald_eyes", "No insightface pack"),
        (tmp_path / "absent.onnx", "to_references", "No recogniser file"),
    ):
        table = registry.measure_all(*crowd[:2], crowd[0], crowd[2], scorer=scorer, only=("psnr", metric))
        assert all(said in reason and "Remedy" in reason for reason in by_picture(table, metric)[1])
        assert by_picture(table, "psnr")[1] == [""] * 4
    table = registry.measure_all(*crowd[:2], only=("l2_ld",), landmarker=recogniser)
    assert all("Not a landmark model" in reason and "Remedy" in reason for reason in table.reason)
    table = registry.measure_all(*crowd[:2], only=("ald_eyes",), landmarker=lambda x: x[:, 0, :5, :2])  # 5 points
    assert all("68 points" in reason and "Remedy" in reason for reason in table.reason)


def test_each_picture_is_embedded_and_detected_once_however_many_metrics(crowd, monkeypatch):
    seen, real = [], identity.embed
    found, marks = [], registry.find_landmarks
    monkeypatch.setattr(identity, "embed", lambda x, scorer=None: seen.append(len(x)) or real(x, scorer))
    monkeypatch.setattr(registry, "find_landmarks", lambda x, *options: found.append(len(x)) or marks(x, *options))
    values(crowd[0], crowd[1], crowd[0], crowd[2])
    assert len(seen) == 4 and len(found) == 2


# ---- bad input ----


def test_unknown_metrics_are_named(crowd):
    with pytest.raises(RangeError, match="psnrr.*Remedy"):
        registry.measure_all(crowd[0], crowd[1], only=("psnrr",))


@pytest.mark.parametrize("name", ["restored", "ground_truth", "inputs", "references"])
def test_a_picture_that_is_none_is_named_with_its_index(name):
    x = {part: tiny_system.pictures(3, 1, 128) for part in ("restored", "ground_truth", "inputs", "references")}
    for value in (1.5, math.nan, -math.inf):
        bad = x[name].clone()
        bad[2, 1, 5, 5] = value
        with pytest.raises(PictureError, match=f"{name}, picture 2.*Remedy"):
            registry.measure_all(**{**x, name: bad})
    for odd in (x[name][:, :2], x[name][..., :96], x[name][:0], x[name][0, 0]):
        with pytest.raises(PictureSizeError, match="shape.*Remedy"):
            registry.measure_all(**{**x, name: odd})
    if name != "references":  # of which there may be any number
        for odd in (x[name][:2], x[name][0]):
            with pytest.raises(PictureSizeError, match="as many.*"):
                registry.measure_all(**{**x, name: odd})
    for odd in (x[name].numpy(), (x[name] * 127).to(torch.uint8), list(x[name]), None if name == "restored" else 3):
        with pytest.raises(PictureError, match=f"{name}: .*not a float tensor. Remedy"):
            registry.measure_all(**{**x, name: odd})
    with pytest.raises(
        PictureSizeError, match=rf"{name}, picture 1: \(3, 64, 128\), where picture 0 is \(3, 128, 128\). Remedy"
    ):
        registry.measure_all(**{**x, name: [x[name][0], x[name][1, :, :64], x[name][2]]})


@pytest.mark.parametrize(
    "size, metric, said",
    [
        (8, "ssim", "8 px are too few for an 11 px window"),
        (128, "ms_ssim", "128 px are too few"),
        (64, "perceptual", "people-p reads .128, 128. px"),
    ],
)
def test_a_size_that_a_metric_cannot_take_is_its_reason(size, metric, said):
    x = tiny_system.pictures(2, 1, size)
    table = registry.measure_all(x, x, only=("psnr", metric))
    assert all(pd.Series(by_picture(table, metric)[1]).str.contains(f"{said}.*Remedy")) and by_picture(table, "psnr")[
        1
    ] == ["", ""]


def test_pictures_may_be_of_any_float_and_carry_gradients(crowd):
    expected = values(*crowd[:2], only=("psnr", "ssim", "perceptual", "identity"))
    for odd in (crowd[0].double(), crowd[0].clone().requires_grad_()):
        assert all(
            np.allclose(value, expected[name], atol=1e-4)
            for name, value in values(odd, crowd[1], only=tuple(expected)).items()
        )


def test_the_headline_metrics_are_those_of_the_table(crowd):
    found = headline.headline_values(crowd[1], crowd[0])
    assert list(found) == list(headline.HEADLINE)
    assert all(
        np.allclose(found[name], value) for name, value in values(crowd[1], crowd[0], only=headline.HEADLINE).items()
    )
    assert isinstance(registry.measure_all(crowd[1], crowd[0], only=("psnr",)), pd.DataFrame)
    assert torch.allclose(
        headline.headline_values(crowd[1], references=crowd[0])["identity"],
        torch.tensor(values(crowd[1], references=crowd[0], only=("to_references",))["to_references"]).float(),
        atol=1e-6,
    )


# ---- the front door: measure ----


def test_measure_gives_one_row_per_picture_with_the_headline_metrics(crowd):
    table = headline.measure(crowd[1], crowd[0])
    assert list(table.columns) == ["psnr", "perceptual", "identity"] and list(table.index) == [0, 1, 2, 3]
    for name, value in headline.headline_values(crowd[1], crowd[0]).items():
        assert np.allclose(table[name], value)
    by_references = headline.measure(crowd[1], references=crowd[0])
    assert list(by_references.columns) == ["identity"] and len(by_references) == 4


def test_measure_takes_single_pictures_and_another_recogniser(crowd, tmp_path):
    one = headline.measure(crowd[1][0], crowd[0][0])
    assert len(one) == 1 and np.allclose(one, headline.measure(crowd[1][:1], crowd[0][:1]))
    scorer = write_recogniser(tmp_path / "r.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    other = headline.measure(crowd[1][0], crowd[0][0], scorer=scorer)
    assert other.psnr[0] == one.psnr[0] and abs(other.identity[0] - one.identity[0]) > 1e-3
    expected = identity.cosine(identity.embed(crowd[1][:1], scorer), identity.embed(crowd[0][:1], scorer))
    assert other.identity[0] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("restored, targets", [(1.5, 0.0), (0.0, math.nan)])
def test_measure_refuses_what_is_not_a_picture(restored, targets):
    with pytest.raises(PictureError, match="picture 0.*Remedy"):
        headline.measure(torch.full((1, 3, 128, 128), restored), torch.full((1, 3, 128, 128), targets))


def test_measure_needs_something_to_compare_with(crowd):
    with pytest.raises(PictureError, match="targets.*references"):
        headline.measure(crowd[0])
    with pytest.raises(PictureSizeError, match="ground_truth.*Remedy"):
        headline.measure(crowd[0], crowd[1][:2])


def test_measure_without_a_perceptual_metric_has_no_such_column(monkeypatch):
    x = tiny_system.pictures(2, 1, 64)
    monkeypatch.setattr(pyiqa_metrics, "find_spec", lambda name: None)
    headline.headline_metrics.cache_clear()
    try:
        assert list(headline.measure(x, x).columns) == ["psnr", "identity"]
    finally:
        headline.headline_metrics.cache_clear()
