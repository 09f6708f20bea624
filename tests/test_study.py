"""The study: people opened for it, what is kept of them and when it is computed anew, and their scores."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_system
import torch
from tiny_pack import write_recogniser

from lib import open_person, paths
from lib.degradation.degrade import degrade
from lib.errors import MissingPicturesError, PackError, PersonCardError, RangeError, SplitError
from lib.images import to_tensor, to_uint8
from lib.people import procedural
from lib.people.picture_files import save_picture
from lib.restoration.baselines import Baselines
from lib.runs.record import Record
from lib.studies import kept as kept_results
from lib.studies import person as persons
from lib.studies import study as studies
from lib.studies.arms import BLIND, DUAL, Plan, restore_arms
from lib.studies.study import Study, run, score
from lib.training.trainer import Training

ONCE = Training(steps=1, batch=1, quiet=True)
PLAN = Plan(references=3, inputs=2, seeds=2, steps=2, degradations=1, textual=ONCE, model=ONCE)
NAMES = ["people:9", "people:19"]


def empty_record():
    return Record("a study", {}, 0, "cpu")


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def study(B):
    return Study(B, PLAN, (BLIND,))


@pytest.fixture(scope="module")
def opened():
    """name -> the person, drawn once for all tests."""
    return {name: open_person(name, PLAN.recipe, 64, references=3, inputs=2) for name in NAMES}


@pytest.fixture
def people(opened, monkeypatch):
    """The people whom a study finds by name; a test may change them."""
    found = dict(opened)
    monkeypatch.setattr(studies, "open_person", lambda name, *_, **__: replace(found[name], name=name))
    return found


@pytest.fixture
def tuned(monkeypatch):
    """Names of the people who are tuned, in order."""
    names, tune_arms = [], studies.tune_arms
    monkeypatch.setattr(
        studies, "tune_arms", lambda B, person, *rest: names.append(person.name) or tune_arms(B, person, *rest)
    )
    return names


# ---- people ----


def test_a_procedural_person_s_inputs_are_not_among_the_references(opened):
    first, again = opened["people:19"], open_person("people:19", PLAN.recipe, 64, references=3, inputs=2)
    drawn = procedural.ProceduralPerson(19)
    pictures = to_tensor(procedural.render([(drawn, drawn.shot(k)) for k in (0, 1, 2)], 64).pictures)
    assert first.class_noun == "person" and torch.equal(first.references, pictures)
    assert first.targets.shape == first.inputs.shape == (2, 3, 64, 64) and len(first.stems) == 2
    assert min(float((t - r).abs().mean()) for t in first.targets for r in first.references) > 0.02
    assert torch.equal(first.inputs, again.inputs) and not torch.equal(first.inputs, first.targets)


def test_every_input_is_degraded_with_a_seed_of_its_own(opened):
    for number in (9, 19):
        person = opened[f"people:{number}"]
        seeds = [number * 100, number * 100 + 1]
        assert torch.equal(degrade(person.targets, PLAN.recipe, seeds), person.inputs)


def test_people_of_the_training_split_and_facts_about_known_people_are_refused():
    with pytest.raises(SplitError, match="Remedy"):
        open_person("people:1001", size=64)
    with pytest.raises(PersonCardError, match="class_noun.*Remedy"):
        open_person("people:9", size=64, class_noun="man")


def test_prior_pictures_are_of_training_people(monkeypatch):
    seen, real = [], procedural.render
    monkeypatch.setattr(procedural, "render", lambda pairs, size: seen.extend(p for p, _ in pairs) or real(pairs, size))
    assert persons.prior_pictures(5, 32).shape == (5, 3, 32, 32)
    assert len(set(seen)) == 5 and {p.split for p in seen} == {"train"}


def test_class_images_of_real_people_are_generated_once(B, opened, tmp_path, monkeypatch):
    asked, generate = [], persons.generate
    monkeypatch.setattr(persons.paths, "RUNS", tmp_path)
    monkeypatch.setattr(
        persons,
        "generate",
        lambda B, prompt, seeds, *rest, **kw: asked.append((prompt, seeds)) or generate(B, prompt, seeds, *rest, **kw),
    )
    real = replace(opened["people:9"], real=True, class_noun="woman")
    assert persons.prior_data(B, real, 0, PLAN.recipe) is None and asked == []
    first = persons.prior_data(B, real, 5, PLAN.recipe, steps=2)
    assert asked == [("a photo of a woman", [0, 1, 2, 3]), ("a photo of a woman", [4])]
    again = persons.prior_data(B, real, 5, PLAN.recipe, steps=2)
    assert len(asked) == 2 and torch.equal(first.latents, again.latents) and len(first.latents) == 5
    drawn = persons.prior_data(B, opened["people:9"], 2, PLAN.recipe)
    assert len(asked) == 2 and torch.equal(drawn.latents, B.encode(persons.prior_pictures(2, 64)))


def test_relative_paths_are_seen_from_the_repository_whatever_the_kernel_s_folder(tmp_path, monkeypatch):
    """A notebook's kernel runs in notebooks/, but paths are typed as seen from the repository."""
    somebody = tmp_path / "somebody"
    for part, count in (("references", 3), ("inputs", 2)):
        for k, picture in enumerate(tiny_system.pictures(count, 5, 64)):
            save_picture(somebody / part / f"{k}.png", picture)
    (somebody / "person.yaml").write_text("{name: somebody, class_noun: person, real: false}")
    pack = write_recogniser(tmp_path / "pack.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    typed = [os.path.relpath(path, paths.ROOT) for path in (somebody, pack)]
    monkeypatch.setattr(persons.PersonFinder, "check_references", lambda *_: None)  # these pictures show nobody
    monkeypatch.setattr(persons.PersonFinder, "check_inputs", lambda *_: None)
    found = open_person(typed[0], size=64, scorer=typed[1])
    assert found.inputs.shape == (2, 3, 64, 64) and found.targets is None
    rows = pd.DataFrame(score(found, {BLIND: found.references[None, :2]}))
    assert set(rows.metric) == {"identity"} and set(rows.arm) == {"input", BLIND}


# ---- scores ----


def test_scores_are_tidy_and_of_the_right_pictures(opened, monkeypatch):
    asked = []

    def values(x, targets, references, scorer, identity):
        asked.append((targets, references, scorer, identity))
        return {"psnr": x.mean((1, 2, 3))}

    monkeypatch.setattr(studies, "headline_values", values)
    person = replace(opened["people:9"], scorer="pack")
    restored = {BLIND: torch.arange(4.0).reshape(2, 2, 1, 1, 1).expand(2, 2, 3, 8, 8)}
    rows = pd.DataFrame(score(person, restored))
    assert list(rows.columns) == ["person", "arm", "seed", "metric", "image", "value"]
    assert set(rows.person) == {"people:9"}
    blind = rows[rows.arm == BLIND].set_index(["seed", "image"]).value
    assert blind.to_dict() == {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}
    of_input = rows[rows.arm == "input"]
    assert np.allclose(of_input.value, person.inputs.mean((1, 2, 3))) and set(of_input.seed) == {0}
    assert all(given == (person.targets, person.references, "pack", True) for given in asked) and len(asked) == 3


# ---- what is kept ----


def test_a_finished_study_is_not_computed_again(study, people, tuned, tmp_path):
    first, second = empty_record(), empty_record()
    rows, (person, restored) = run(study, iter(NAMES), tmp_path, first)
    assert tuned == NAMES and [row["person"] for row in rows] == [name for name in NAMES for _ in range(len(rows) // 2)]
    assert person.name == NAMES[-1] and restored.keys() == {BLIND} and restored[BLIND].shape == (2, 2, 3, 64, 64)
    again, (_, kept) = run(study, NAMES, tmp_path, second)
    assert tuned == NAMES  # the last person, too
    assert again == rows and torch.equal(kept[BLIND], restored[BLIND])
    want = restore_arms({BLIND: study.B}, person.inputs, PLAN)[BLIND].flatten(0, 1)
    assert abs(to_uint8(want).astype(int) - to_uint8(restored[BLIND].flatten(0, 1))).max() <= 1
    assert first.seconds == second.seconds and min(first.seconds.values()) > 0


def test_the_seconds_of_kept_people_are_in_the_record_of_a_resumed_run(study, people, tuned, tmp_path):
    run(study, NAMES[:1], tmp_path)
    record = empty_record()
    record.seconds["tuning"] = 100.0
    run(study, NAMES, tmp_path, record)
    assert tuned == NAMES
    kept = [json.loads(file.read_text())["seconds"] for file in (tmp_path / "people").glob("*.json")]
    assert len(kept) == 2 and record.seconds.keys() == {"tuning", "restoring"}
    assert record.seconds["tuning"] == pytest.approx(100 + sum(seconds["tuning"] for seconds in kept))
    assert record.seconds["restoring"] == pytest.approx(sum(seconds["restoring"] for seconds in kept))


@pytest.mark.parametrize("part", ["references", "inputs", "targets"])
def test_a_person_with_other_pictures_is_computed_anew(study, people, tuned, tmp_path, part):
    run(study, NAMES, tmp_path)
    tuned.clear()
    people["people:9"] = replace(people["people:9"], **{part: -getattr(people["people:9"], part)})
    run(study, NAMES, tmp_path)
    assert tuned == ["people:9"]


def test_people_are_computed_anew_with_another_plan_and_not_with_another_progress_bar(study, people, tuned, tmp_path):
    run(study, NAMES[:1], tmp_path)
    shown = replace(PLAN, textual=replace(ONCE, quiet=False, every=3, folder="x"))
    run(replace(study, plan=shown), NAMES[:1], tmp_path)
    assert tuned == NAMES[:1]
    run(replace(study, plan=replace(PLAN, w=2.0)), NAMES[:1], tmp_path)
    assert tuned == 2 * NAMES[:1]


@pytest.mark.parametrize(
    "change",
    [
        lambda study: replace(study, B=tiny_system.build(1)),
        lambda study: replace(study, plan=replace(PLAN, gamma=0.25)),
        lambda study: replace(study, arms=(BLIND, DUAL)),
        lambda study: replace(study, scorer="other.onnx"),
        lambda study: replace(study, baselines=Baselines({}, {}, {"GFPGAN": "0" * 64})),
    ],
    ids=["system", "plan", "arms", "scorer", "baselines"],
)
def test_what_decides_a_result_is_in_its_key(study, opened, change):
    person = opened["people:9"]
    assert change(study).key(person) != study.key(person) == replace(study).key(person)


@pytest.mark.parametrize("damage", ["", "[]", "{}", "{"])
def test_a_damaged_result_is_computed_anew(study, people, tuned, tmp_path, damage):
    rows, _ = run(study, NAMES[:1], tmp_path)
    file = next((tmp_path / "people").glob("*.json"))
    file.write_text(damage)
    assert run(study, NAMES[:1], tmp_path)[0] == rows and tuned == 2 * NAMES[:1]
    file.with_suffix(".npz").unlink()
    assert run(study, NAMES[:1], tmp_path)[0] == rows and tuned == 3 * NAMES[:1]


def test_an_old_result_never_stands_beside_new_pictures(study, people, tuned, tmp_path, monkeypatch):
    run(study, NAMES[:1], tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept_results, "write_json", interrupt)  # the pictures are kept already
        run(replace(study, plan=replace(PLAN, w=2.0)), NAMES[:1], tmp_path)
    run(study, NAMES[:1], tmp_path)
    assert tuned == 3 * NAMES[:1]


def test_every_person_has_a_file_of_their_own(study, people, tuned, tmp_path):
    names = ["people:9", "a/obama", "b/obama", "obama/", "x/" * 150 + "obama", "y/" * 150 + "obama"]
    people.update(dict.fromkeys(names, people["people:9"]))
    run(study, names, tmp_path)
    assert (tmp_path / "people" / "people-9.json").is_file()
    run(study, names, tmp_path)
    assert tuned == names and len(list((tmp_path / "people").iterdir())) == 2 * len(names)


def test_class_images_are_prepared_once_for_a_class_of_real_or_drawn_people(study, people, tmp_path, monkeypatch):
    prepared, given = [], {}

    def prior_data(B, person, count, *_):
        prepared.append((person.class_noun, person.real))
        return prepared[-1]

    def tune_arms(B, person, plan, arms, prior, folder):
        given[person.name] = prior
        return {BLIND: B}

    monkeypatch.setattr(studies, "check_scorer", lambda person: None)
    monkeypatch.setattr(studies, "prior_data", prior_data)
    monkeypatch.setattr(studies, "tune_arms", tune_arms)
    kinds = {"adam": ("man", True), "eve": ("woman", True), "carl": ("man", True), "dan": ("man", False)}
    for name, (noun, real) in kinds.items():
        people[name] = replace(people["people:9"], class_noun=noun, real=real)
    run(study, kinds, tmp_path)
    assert given == kinds and prepared == [("man", True), ("woman", True), ("man", False)]


# ---- before anything is tuned ----


@pytest.mark.parametrize(
    "names, error",
    [
        ([], RangeError),
        (["people:9", "people:9"], RangeError),
        (["people:1001"], SplitError),
        (["people:9", "people:18"], SplitError),
        (["people:9", "people:1019", "nobody"], MissingPicturesError),
    ],
)
def test_every_person_is_found_before_the_first_is_tuned(study, tmp_path, tuned, names, error):
    with pytest.raises(error, match="Remedy"):
        run(study, names, tmp_path)
    assert tuned == []


def test_a_missing_scorer_is_named_before_the_first_is_tuned(study, people, tmp_path, tuned):
    people["people:19"] = replace(people["people:19"], real=True)
    with pytest.raises(PackError, match="Remedy"):
        run(study, NAMES, tmp_path)
    assert tuned == []


def test_an_absent_scorer_file_is_named_before_the_first_is_tuned(study, tmp_path, tuned):
    with pytest.raises(PackError, match="nothing.onnx.*Remedy"):
        run(replace(study, scorer="nothing.onnx"), NAMES, tmp_path)
    assert tuned == []


def test_a_person_without_inputs_is_named_before_the_first_is_tuned(study, people, tmp_path, tuned):
    people["people:19"] = replace(people["people:19"], inputs=None, targets=None)
    with pytest.raises(MissingPicturesError, match="No inputs.*people:19.*Remedy"):
        run(study, NAMES, tmp_path)
    assert tuned == []
