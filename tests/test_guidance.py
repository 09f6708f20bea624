"""Guidance, passes and samplers: every row is of the restoration that its labels name, and the cost is what was run."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tiny_system
import torch

from lib import open_person, restore
from lib.errors import RangeError
from lib.images import to_uint8
from lib.metrics import image
from lib.studies import guidance, sweep
from lib.studies import study as studies
from lib.studies.arms import Plan
from lib.studies.study import Study
from lib.training.pivots import dual_pivot
from lib.training.trainer import Training

ONCE = Training(steps=2, batch=1, lr=1e-2, quiet=True)
PLAN = Plan(references=3, inputs=2, steps=4, degradations=1, textual=ONCE, model=ONCE)


@pytest.fixture(scope="module")
def ada():
    return open_person("people:9", PLAN.recipe, 64, references=3, inputs=2)


@pytest.fixture
def study(B, ada, monkeypatch):
    monkeypatch.setattr(studies, "open_person", lambda *_, **__: ada)
    return Study(B, PLAN, ())


@pytest.fixture(scope="module")
def B_p(B, ada):
    return dual_pivot(B, ada.references, recipe=PLAN.recipe, textual=ONCE, model=ONCE, degradations=1)


def psnr(rows, **labels):
    return [row["value"] for row in rows if row["metric"] == "psnr" and labels.items() <= row.items()]


def test_sharpness_is_zero_for_a_flat_picture_and_falls_with_blur():
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 32))).float()
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert image.sharpness(torch.zeros(2, 3, 16, 16)).tolist() == [0.0, 0.0]
    assert 0 < image.sharpness(blurred) < image.sharpness(x) / 4
    grey = np.round(to_uint8(x)[0] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float)
    assert float(image.sharpness(x)) == pytest.approx(cv2.filter2D(grey.astype(float), -1, kernel).var(), rel=0.01)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm++"])
@pytest.mark.parametrize("w, gamma, interval", [(1.0, 0.5, (0, 1000)), (3.0, 0.5, (0, 1000)), (3.0, 0.0, (200, 600))])
def test_the_cost_is_what_a_restoration_runs(B_p, ada, monkeypatch, w, gamma, interval, sampler):
    ran = {"E": 0, "G": 0}
    for name in ran:
        network = getattr(B_p, name)

        def counted(*args, forward=network.forward, name=name, **kwargs):
            ran[name] += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(network, "forward", counted)
    how = dict(steps=8, gamma=gamma, w=w, w_interval=interval, sampler=sampler)
    restore(B_p, ada.inputs[:1], seeds=0, allow_untuned_steps=True, **how)
    assert ran == guidance.evaluations(B_p, **how)


def test_guidance_rows_are_of_their_w_gamma_and_interval(study, B_p, ada, tmp_path):
    settings = [(3.0, 0.5, (0, 1000)), (3.0, 0.0, (0, 400))]
    rows = guidance.guidance_scale(study, ada, settings, tmp_path)
    for w, gamma, interval in settings:
        restored = restore(
            B_p, ada.inputs, seeds=0, steps=4, w=w, gamma=gamma, w_interval=interval, allow_untuned_steps=True
        )
        expected = image.psnr(restored, ada.targets).tolist()
        assert psnr(rows, w=w, gamma=gamma, high=interval[1]) == pytest.approx(expected, abs=1e-3)
    assert {row["metric"] for row in rows} >= {"psnr", "ssim", "identity", "sharpness"}
    assert len(psnr(rows, system="blind")) == 2


def test_rows_of_samplers_are_of_their_steps(study, B_p, ada, tmp_path):
    rows = guidance.fewer_steps(study, ada, [("ddpm", 4), ("dpm++", 3)], tmp_path)
    restored = restore(B_p, ada.inputs, seeds=0, steps=3, sampler="dpm++")
    expected = image.psnr(restored, ada.targets).tolist()
    assert psnr(rows, system="dual pivot", sampler="dpm++", steps=3) == pytest.approx(expected, abs=1e-3)
    assert {(row["system"], row["sampler"], row["steps"]) for row in rows} == {
        (name, *setting) for name in ("blind", "dual pivot") for setting in (("ddpm", 4), ("dpm++", 3))
    }


def test_a_pass_restores_what_the_pass_before_made(study, B_p, ada, tmp_path):
    rows = guidance.several_passes(study, ada, {"most": 2, "recipes": [PLAN.recipe]}, tmp_path)
    first = restore(B_p, ada.inputs, seeds=0, steps=4)
    second = restore(B_p, first, seeds=10_000, steps=4)
    for number, made in ((0, ada.inputs), (1, first), (2, second)):
        expected = image.psnr(made, ada.targets).tolist()
        assert psnr(rows, system="dual pivot" if number else "input", number=number) == pytest.approx(
            expected, abs=1e-3
        )


@pytest.mark.parametrize(
    "compute, settings",
    [
        (guidance.guidance_scale, [(float("nan"), 0.5, (0, 1000))]),
        (guidance.guidance_scale, [(1.0, 1.5, (0, 1000))]),
        (guidance.guidance_scale, [(1.0, 0.5, (900, 100))]),
        (guidance.fewer_steps, [("euler", 10)]),
        (guidance.fewer_steps, [("ddpm", 1)]),
        (guidance.several_passes, {"most": 0, "recipes": ["tiny"]}),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_tuned(study, ada, tmp_path, compute, settings, monkeypatch):
    monkeypatch.setattr(sweep, "textual_pivot", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(RangeError, match="Remedy"):
        compute(study, ada, settings, tmp_path)


def test_a_person_without_ground_truth_has_identity_and_sharpness(study, B, ada):
    rows = guidance._rows(replace(ada, targets=None), tiny_system.pictures(2, 3), system="blind")
    assert {row["metric"] for row in rows} == {"identity", "sharpness"}
