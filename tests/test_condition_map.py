"""The map of conditions: each cell is the arm, degradation and strength of E that its labels name."""

from dataclasses import replace

import pandas as pd
import pytest
import tiny_system
import torch

from lib import open_person, restore
from lib.errors import RangeError, RecipeError
from lib.metrics import image
from lib.studies import condition_map, sweep
from lib.studies import study as studies
from lib.studies.arms import Plan
from lib.studies.study import Study
from lib.training.pivots import model_pivot, prepare, textual_pivot
from lib.training.trainer import Training

FOUR = Training(steps=4, batch=1, lr=1e-2, quiet=True)
PLAN = Plan(references=3, inputs=1, steps=3, degradations=1, textual=FOUR, model=replace(FOUR, steps=2))
CONDITIONS = {"recipes": ["tiny", "tiny-extreme"], "factors": [1.0, 2.0], "budgets": [4, 2]}


def opened(recipe):
    return open_person("people:9", recipe, 64, references=3, inputs=1)


@pytest.fixture(scope="module")
def people():
    return {recipe: opened(recipe) for recipe in CONDITIONS["recipes"]}


@pytest.fixture
def study(B, people, monkeypatch):
    monkeypatch.setattr(studies, "open_person", lambda name, recipe, *_, **__: people[recipe])
    return Study(B, PLAN, ())


def test_the_residuals_of_a_scaled_encoder_are_so_many_times_as_large(B, data):
    x, t, null = data.latents, torch.full((3,), 500), B.embed([""]).expand(3, -1, -1)
    hint, before = data.hints[:, 0], {name: w.clone() for name, w in B.E.state_dict().items()}
    down, mid = B.E(x, t, null, controlnet_cond=hint, return_dict=False)
    more, more_mid = condition_map.scaled(B.E, 1.5)(x, t, null, controlnet_cond=hint, return_dict=False)
    for one, other in zip((*down, mid), (*more, more_mid)):
        torch.testing.assert_close(1.5 * one, other, atol=1e-5, rtol=1e-5)
    assert float(mid.abs().max()) > 0 and tiny_system.same(before, B.E.state_dict())
    with pytest.raises(RangeError):
        condition_map.scaled(B.E, 0.0)


def test_every_cell_is_what_its_labels_say(study, B, people, tmp_path):
    rows = condition_map.where_the_arms_part(study, people["tiny"], CONDITIONS, tmp_path)
    found = {(r["recipe"], r["factor"], r["budget"], r["arm"]): r["value"] for r in rows if r["metric"] == "psnr"}
    assert len(found) == 2 * 2 * (1 + 2 * 3)

    strong = B.with_(E=condition_map.scaled(B.E, 2.0))
    person = people["tiny-extreme"]
    data = prepare(strong, person.references, "tiny-extreme", 1)
    inside = textual_pivot(strong, data, training=replace(FOUR, steps=2))
    alone = textual_pivot(
        B, prepare(B, person.references, "tiny", 1), training=replace(FOUR, steps=2), in_context=False
    )
    systems = {
        "blind": strong,
        "swap": alone.with_(E=strong.E),
        "in-context": inside,
        "dual pivot": model_pivot(inside, data, replace(FOUR, steps=1)),
    }
    for arm, system in systems.items():
        made = restore(system, person.inputs, seeds=0, steps=3)
        expected = float(image.psnr(made, person.targets))
        assert found["tiny-extreme", 2.0, 0 if arm == "blind" else 2, arm] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"recipes": ["tiny", "tiny"]}, RangeError),
        ({"recipes": ["none such"]}, RecipeError),
        ({"factors": [0.0]}, RangeError),
        ({"factors": []}, RangeError),
        ({"budgets": [0]}, RangeError),
    ],
)
def test_wrong_conditions_are_refused_before_anything_is_tuned(study, people, tmp_path, wrong, error, monkeypatch):
    monkeypatch.setattr(sweep, "textual_pivot", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(error, match="Remedy"):
        condition_map.where_the_arms_part(study, people["tiny"], CONDITIONS | wrong, tmp_path)


def test_differences_and_contrasts_of_a_map_are_paired_by_person():
    rows = pd.DataFrame(
        [
            dict(person=who, recipe=recipe, factor=f, budget=b, arm=arm, metric=metric, value=value)
            for metric, sign in (("identity", 1), ("psnr", -1))
            for who, k in (("b", 1), ("a", 2))
            for recipe in ("tiny", "tiny-extreme")
            for f in (0.5, 2.0)
            for b in (20, 120)
            for arm, value in (("swap", 7.0), ("in-context", 5.0), ("dual pivot", 7.0 + sign * k * f * (b == 20)))
        ]
    )
    cells = condition_map.differences(rows, "identity")
    assert cells["tiny", 2.0, 20].to_dict() == {"a": 4.0, "b": 2.0}
    assert condition_map.differences(rows, "psnr")["tiny", 2.0, 20].to_dict() == {"a": -4.0, "b": -2.0}
    assert condition_map.contrast(cells, "factor", 2.0, 0.5).to_dict() == {"a": 1.5, "b": 0.75}
    assert condition_map.contrast(cells, "budget", 20, 120).to_dict() == {"a": 2.5, "b": 1.25}
    assert condition_map.contrast(cells, "recipe", "tiny-extreme", "tiny").to_dict() == {"a": 0.0, "b": 0.0}
