"""Sweeps: what is kept and computed anew, and that every condition is what its name says."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_system
import torch

from lib import open_person, restore
from lib.errors import RangeError
from lib.runs.record import Record
from lib.studies import study as studies
from lib.studies import sweep, timesteps
from lib.studies.arms import Plan
from lib.studies.study import Study
from lib.training import shared
from lib.training.pivots import dual_pivot, model_pivot, prepare, textual_pivot
from lib.training.shared import shared_model_pivot
from lib.training.trainer import Training

THRICE = Training(steps=3, batch=1, lr=1e-2, quiet=True)
PLAN = Plan(references=3, inputs=2, steps=3, degradations=1, textual=THRICE, model=replace(THRICE, steps=2))
NAMES = ["people:9", "people:19"]


@pytest.fixture(scope="module")
def people():
    return {name: open_person(name, PLAN.recipe, 64, references=3, inputs=2) for name in NAMES}


@pytest.fixture
def study(B, people, monkeypatch):
    monkeypatch.setattr(studies, "open_person", lambda name, *_, **__: people[name])
    return Study(B, PLAN, ())


@pytest.fixture
def tunings(study, people, tmp_path):
    return sweep.Tunings(study, people["people:9"], tmp_path)


def values(rows, metric="psnr", **labels):
    """The values of the rows with these labels, by image."""
    return [row["value"] for row in rows if row["metric"] == metric and labels.items() <= row.items()]


def psnr(person, restored):
    return values(sweep.scored(person, restored))


# ---- what is kept ----


class Computing:
    """Stands for a question; remembers whom it was asked about."""

    __name__ = "computing"

    def __init__(self, fails=()):
        self.asked, self.fails = [], fails

    def __call__(self, study, person, settings, folder):
        self.asked.append(person.name)
        if person.name in self.fails:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        (folder / "checkpoint").touch()
        return [{"condition": setting, "value": len(person.name)} for setting in settings]


def empty_record():
    return Record("a study", {}, 0, "cpu")


def test_rows_are_kept_person_by_person_and_computed_once(study, tmp_path):
    compute, first, second = Computing(), empty_record(), empty_record()
    rows = sweep.run(study, NAMES, tmp_path, compute, ["a", "b"], first)
    assert rows == [dict(person=name, condition=c, value=len(name)) for name in NAMES for c in "ab"]
    assert sweep.run(study, NAMES, tmp_path, compute, ["a", "b"], second) == rows
    assert compute.asked == NAMES and first.seconds == second.seconds and first.seconds["people"] > 0
    assert not list(tmp_path.rglob("checkpoint"))


def test_an_interrupted_sweep_goes_on_with_the_person_where_it_stopped(study, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sweep.run(study, NAMES, tmp_path, Computing(fails=NAMES[1:]), ["a"])
    compute = Computing()
    assert len(sweep.run(study, NAMES, tmp_path, compute, ["a"])) == 2 and compute.asked == NAMES[1:]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}"])
def test_a_damaged_file_is_computed_anew(study, tmp_path, damage):
    sweep.run(study, NAMES[:1], tmp_path, Computing(), ["a"])
    (file,) = tmp_path.rglob("*.json")
    file.write_text(damage)
    compute = Computing()
    sweep.run(study, NAMES[:1], tmp_path, compute, ["a"])
    assert compute.asked == NAMES[:1] and json.loads(file.read_text())["rows"]


def test_other_settings_or_another_plan_are_computed_anew(study, tmp_path):
    compute = Computing()
    for other in (study, replace(study, plan=replace(PLAN, gamma=0.4))):
        for settings in (["a"], ["b"]):
            sweep.run(other, NAMES[:1], tmp_path, compute, settings)
    assert len(compute.asked) == 4


def test_means_are_over_the_images_of_a_condition_and_keep_its_labels():
    rows = [
        dict(person=p, gamma=g, metric="psnr", image=k, value=10 * k + g) for p in "ab" for g in (0, 1) for k in (0, 1)
    ]
    curve = [dict(person="a", t=t, eps=0.1 * t, x_0=0.2) for t in (1, 2)]
    kept = sweep.means(rows)
    assert kept[1] == dict(person="a", gamma=1, metric="psnr", value=6.0) and len(kept) == 4
    assert sweep.means(curve) == curve
    tables = sweep.by_question(
        [{"question": "q", **row} for row in kept] + [{"question": "r", **row} for row in sweep.means(curve)]
    )
    assert list(tables["r"]) == ["person", "t", "eps", "x_0"] and list(tables["q"].value) == [5.0, 6.0, 5.0, 6.0]
    assert sweep.wide(tables["q"], "gamma").loc["b"].to_dict() == {0: 5.0, 1: 6.0}


# ---- tunings ----


def test_a_longer_tuning_continues_the_shorter_and_ends_the_same(tunings, B, people):
    for steps in (1, 3):
        B_p = tunings.textual("kind", steps)
    data = prepare(B, people["people:9"].references, PLAN.recipe, 1)
    direct = textual_pivot(B, data, "person", THRICE)
    assert tiny_system.same(B_p.G.state_dict(), direct.G.state_dict()) and B_p.personal.steps == (3, 0)
    again = model_pivot(direct, data, PLAN.model)
    assert tiny_system.same(tunings.model("E", B_p).E.state_dict(), again.E.state_dict())


def test_the_plan_s_prior_is_used(study, people, tmp_path):
    with_prior = sweep.Tunings(replace(study, plan=replace(PLAN, prior=2)), people["people:9"], tmp_path / "a")
    without = sweep.Tunings(study, people["people:9"], tmp_path / "b")
    G, H = (one.textual("kind").G.state_dict() for one in (with_prior, without))
    assert not tiny_system.same(G, H)


# ---- when identity forms ----


def test_predictions_of_g_alone_are_those_without_e(tunings, B):
    B_p = tunings.textual("whole", gamma=0.0)
    x0, p = tunings.data.latents, B_p.personal.prompt
    (row,) = timesteps.apart((B_p, p), (B, ""), tunings.data, [300], with_E=False)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(300))
    x_t = B.scheduler.add_noise(x0, eps, torch.full((len(x0),), 300))
    with torch.no_grad():
        one, other = (
            system.G(x_t, 300, system.embed([prompt]).expand(len(x0), -1, -1)).sample
            for system, prompt in ((B_p, p), (B, ""))
        )
    assert row["eps"] == pytest.approx(float((one - other).norm() / eps.norm()), rel=1e-4)


def test_predictions_are_apart_by_what_the_schedule_makes_of_the_noise(tunings, B):
    B_p = tunings.textual("whole", gamma=0.0)
    p, ts = B_p.personal.prompt, [100, 500, 900]
    rows = timesteps.apart((B_p, p), (B, ""), tunings.data, ts)
    abar = B.scheduler.alphas_cumprod[ts]
    ratio = ((1 - abar) / abar).sqrt().numpy()  # x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar)
    sizes = [
        float(torch.randn(tunings.data.latents.shape, generator=torch.Generator().manual_seed(t)).norm()) for t in ts
    ]
    expected = [r["eps"] * k * size / float(tunings.data.latents.norm()) for r, k, size in zip(rows, ratio, sizes)]
    assert [row["x_0"] for row in rows] == pytest.approx(expected, rel=1e-4)
    assert [row["t"] for row in rows] == ts and all(row["picture"] > 0 for row in rows)
    for row in timesteps.apart((B_p, p), (B_p, p), tunings.data, ts):
        assert row["eps"] == row["x_0"] == row["picture"] == 0


def test_the_clean_latent_is_found_from_the_true_noise(B, data):
    eps = torch.randn(data.latents.shape, generator=torch.Generator().manual_seed(3))
    x_t = B.scheduler.add_noise(data.latents, eps, torch.tensor([700]))
    torch.testing.assert_close(timesteps.clean_latent(B, x_t, 700, eps), data.latents, atol=1e-4, rtol=1e-4)


def test_gamma_leaves_out_the_steps_that_hold_little_of_the_difference():
    t = np.arange(0, 1000, 50)
    assert timesteps.chosen_gamma(pd.Series(1.0, t), share=0.1) == 0.1  # evenly spread
    assert timesteps.chosen_gamma(pd.Series(np.where(t < 500, 1.0, 0.0), t)) == 0.5
    assert timesteps.chosen_gamma(pd.Series(np.where(t < 500, 0.0, 1.0), t)) == 0.0
    with pytest.raises(RangeError):
        timesteps.chosen_gamma(pd.Series(1.0, t), share=1.5)


def test_the_curve_of_a_person_has_both_pairs(study, people, tmp_path):
    rows = timesteps.when_identity_forms(study, people["people:9"], [100, 900], tmp_path)
    assert [(row["pair"], row["t"]) for row in rows] == [
        (pair, t) for pair in ("prompt − no prompt", "tuned − blind") for t in (100, 900)
    ]


# ---- gamma ----


@pytest.mark.parametrize("gammas", [[1.0], [0.5, 0.5], [-0.1], [float("nan")], []])
def test_a_gamma_that_leaves_no_step_is_refused_before_anything_is_tuned(study, people, tmp_path, gammas, monkeypatch):
    monkeypatch.setattr(sweep, "textual_pivot", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(RangeError, match="Remedy"):
        timesteps.gamma_and_training(study, people["people:9"], gammas, tmp_path)


def test_every_training_is_restored_with_its_gamma(study, people, tunings, tmp_path):
    person, noun = people["people:9"], "person"
    rows = timesteps.gamma_and_training(study, person, [0.0, 0.4], tmp_path)
    data, how = tunings.data, dict(seeds=0, steps=3)
    whole = textual_pivot(study.B, data, noun, THRICE, gamma=0.0)
    low = textual_pivot(study.B, data, noun, THRICE, gamma=0.4)
    fewer = textual_pivot(study.B, data, noun, replace(THRICE, steps=2), gamma=0.4)  # 0.6 of 3 steps
    for training, B_p in {timesteps.WHOLE: whole, timesteps.EQUAL: low, timesteps.PROPORTIONAL: fewer}.items():
        expected = psnr(person, restore(B_p, person.inputs, gamma=0.4, **how))
        assert values(rows, training=training, gamma=0.4) == pytest.approx(expected, abs=1e-4)
    assert values(rows, training="blind") == pytest.approx(psnr(person, restore(study.B, person.inputs, **how)))


# ---- steps ----


@pytest.mark.parametrize("counts", [[0], [5, 5], [], [2.5], [True]])
def test_numbers_of_steps_are_checked(counts):
    with pytest.raises(RangeError, match="steps.*Remedy"):
        timesteps.check_counts(counts)
    assert timesteps.check_counts([20, 5]) == [5, 20]


def test_quality_by_steps_has_every_kind_and_number(study, people, tunings, tmp_path):
    person = people["people:9"]
    rows = timesteps.quality_by_steps(study, person, {"textual": [1], "model": [2, 1]}, tmp_path / "x")
    found = {(row["pivot"], row["kind"], row["steps"]) for row in rows}
    kinds, around = timesteps.STEP_KINDS, timesteps.PIVOTS_OF_E
    assert found == {
        ("none", "blind", 0),
        *(("textual", kind, n) for kind in kinds for n in (1, 3)),
        *(("model", kind, n) for kind in around for n in (0, 1, 2)),
    }
    both = dual_pivot(study.B, person.references, recipe=PLAN.recipe, textual=THRICE, model=PLAN.model, degradations=1)
    expected = psnr(person, restore(both, person.inputs, seeds=0, steps=3))
    assert values(rows, pivot="model", kind="in context, low noise", steps=2) == pytest.approx(expected, abs=1e-4)
    alone = textual_pivot(study.B, tunings.data, training=replace(THRICE, steps=1), in_context=False)
    expected = psnr(person, restore(alone, person.inputs, seeds=0, steps=3))
    assert values(rows, kind="alone, low noise", pivot="textual", steps=1) == pytest.approx(expected, abs=1e-4)


# ---- one E for everybody ----


def test_a_donor_s_E_stands_beside_the_person_s_own_G(study, people, tmp_path, monkeypatch):
    monkeypatch.setattr(timesteps, "GENERIC", 2)
    ada, bo = (people[name] for name in NAMES)
    rows = timesteps.shared_encoder(study, ada, NAMES, tmp_path / "people" / "ada")
    tuned = {
        who.name: dual_pivot(
            study.B, who.references, recipe=PLAN.recipe, textual=THRICE, model=PLAN.model, degradations=1
        )
        for who in (ada, bo)
    }
    mixed = tuned[ada.name].with_(E=tuned[bo.name].E)
    restored = restore(mixed, ada.inputs, seeds=0, steps=3)
    assert values(rows, E=bo.name) == pytest.approx(psnr(ada, restored), abs=1e-4)
    own = restore(tuned[ada.name], ada.inputs, seeds=0, steps=3)
    assert values(rows, E="own") == pytest.approx(psnr(ada, own), abs=1e-4)
    (leaked, _), (to_bo, _) = (values(timesteps.leak(bo, x), "identity to donor") for x in (restored, own))
    assert values(rows, "identity to donor", E=bo.name)[0] == pytest.approx(leaked, abs=1e-4)
    assert values(rows, "identity to donor", E=f"own, beside {bo.name}")[0] == pytest.approx(to_bo, abs=1e-4)
    assert {row["E"] for row in rows} == {"base", "own", "generic", bo.name, f"own, beside {bo.name}"}


def test_donors_are_tuned_once_for_all_people_and_leave_nothing_behind(study, tmp_path, monkeypatch):
    monkeypatch.setattr(timesteps, "GENERIC", 2)
    steps, train = [], sweep.textual_pivot
    monkeypatch.setattr(
        sweep, "textual_pivot", lambda B, data, *rest, **kw: steps.append(kw) or train(B, data, *rest, **kw)
    )
    rows = sweep.run(study, NAMES, tmp_path, timesteps.shared_encoder, NAMES)
    assert {row["person"] for row in rows} == set(NAMES) and len(steps) == 4  # two of them continue what is finished
    assert sorted(path.name for path in (tmp_path / "people").iterdir()) == [
        "shared_encoder-people-19.json",
        "shared_encoder-people-9.json",
    ]


def test_differences_to_the_first_setting_are_paired_by_person():
    rows = pd.DataFrame(
        [
            dict(person=person, metric=metric, sampler=sampler, steps=steps, value=value + 10 * (metric == "psnr"))
            for metric in ("identity", "psnr")
            for person, values in {"a": (1.0, 2.0, 4.0), "b": (1.0, 5.0, 1.5)}.items()
            for (sampler, steps), value in zip([("ddpm", 50), ("ddpm", 25), ("ddim", 25)], values)
        ]
    )
    found = sweep.against(rows, "identity", ["sampler", "steps"], ("ddpm", 50))
    assert {name: part.to_dict() for name, part in found.items()} == {
        "ddpm, 25": {"a": 1.0, "b": 4.0},
        "ddim, 25": {"a": 3.0, "b": 0.5},
    }


def test_an_encoder_of_several_is_tuned_on_the_others_and_used_beside_ones_own_g(study, people, tmp_path):
    ada, bo = (people[name] for name in NAMES)
    rows = timesteps.encoder_of_several(study, ada, NAMES, tmp_path / "people" / "ada")
    tuned = {}
    for who in (ada, bo):
        data = prepare(study.B, who.references, PLAN.recipe, 1)
        tuned[who.name] = textual_pivot(study.B, data, training=THRICE), data
    E = shared_model_pivot([tuned[bo.name]], PLAN.model)
    expected = psnr(ada, restore(tuned[ada.name][0].with_(E=E), ada.inputs, seeds=0, steps=3))
    assert values(rows, E="several") == pytest.approx(expected, abs=1e-4)


def test_an_encoder_of_several_can_be_asked_of_its_own_people(study, tmp_path, monkeypatch):
    trained, train = [], shared.train
    monkeypatch.setattr(shared, "train", lambda *rest: trained.append(rest[2]) or train(*rest))
    rows = sweep.run(study, NAMES, tmp_path, timesteps.encoder_of_several, NAMES)
    assert {row["person"] for row in rows} == set(NAMES) and len(trained) == 2
    assert sorted(path.suffix for path in (tmp_path / "people").iterdir()) == [".json", ".json"]
