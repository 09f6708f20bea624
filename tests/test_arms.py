"""The six arms: what is tuned for each, what two of them share, and the noise from which all of them restore."""

from dataclasses import fields, replace

import pytest
import tiny_system
import torch

from lib.errors import RangeError, RecipeError
from lib.images import to_uint8
from lib.models.precision import Precision
from lib.people.person import Person
from lib.restoration.sampling import restore
from lib.studies import arms
from lib.studies.arms import BLIND, DUAL, ENCODER, IN_CONTEXT, SWAP, SWAP_MODEL, Plan, restore_arms, tune_arms
from lib.training import pivots
from lib.training.trainer import Training

P = "a photo of a sks man"
ONCE = Training(steps=1, lr=1e-3, batch=1, quiet=True)
PLAN = Plan(references=3, inputs=2, seeds=2, steps=3, gamma=0.25, w=1.5, degradations=2, textual=ONCE, model=ONCE)


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def person():
    x = tiny_system.pictures(7)
    facts = dict(class_noun="man", source="", terms="", real=False)
    return Person("people:9", **facts, references=x[:3], inputs=x[3:5], targets=x[5:], stems=["a", "b"])


@pytest.fixture(scope="module")
def tuned(B, person):
    """The six arms, and the names of the trainings that were made for them."""
    names, train = [], pivots.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pivots, "train", lambda name, *rest: names.append(name) or train(name, *rest))
        return tune_arms(B, person, PLAN), names


@pytest.fixture(scope="module")
def data(B, person):
    return pivots.prepare(B, person.references, PLAN.recipe, PLAN.degradations, PLAN.textual.seed)


def equal(a, b):
    return tiny_system.same(a.G.state_dict(), b.G.state_dict()) and tiny_system.same(a.E.state_dict(), b.E.state_dict())


# ---- tuning ----


def test_six_arms_and_what_two_share_is_tuned_once(B, tuned):
    systems, names = tuned
    assert list(systems) == list(arms.ARMS)
    assert names == ["G alone", "E", "G in context", "E", "E"]
    assert systems[BLIND] is B
    assert systems[SWAP].E is systems[IN_CONTEXT].E is B.E and systems[ENCODER].G is B.G
    assert systems[SWAP_MODEL].G is systems[SWAP].G and systems[DUAL].G is systems[IN_CONTEXT].G
    different = [systems[arm].G for arm in (BLIND, SWAP, IN_CONTEXT)]
    different += [systems[arm].E for arm in (BLIND, SWAP_MODEL, DUAL, ENCODER)]
    assert not any(tiny_system.same(a.state_dict(), b.state_dict()) for a in different for b in different if a is not b)


def test_every_arm_carries_its_prompt_and_the_plan_s_gamma(tuned):
    systems, _ = tuned
    personal = [systems[arm].personal for arm in (SWAP, IN_CONTEXT, SWAP_MODEL, DUAL)]
    assert {(settings.prompt, settings.gamma) for settings in personal} == {(P, 0.25)}
    assert systems[BLIND].personal is None and systems[ENCODER].personal.prompt == ""


@pytest.mark.parametrize("arm, in_context", [(SWAP_MODEL, False), (DUAL, True)])
def test_an_arm_is_two_lines_of_the_training_package(B, data, tuned, arm, in_context):
    B_p = pivots.textual_pivot(B, data, "man", ONCE, gamma=0.25, in_context=in_context)
    assert equal(tuned[0][arm], pivots.model_pivot(B_p, data, ONCE))


def test_the_encoder_alone_is_tuned_around_the_base(B, data, tuned):
    assert equal(tuned[0][ENCODER], pivots.model_pivot(B, data, ONCE))


def test_the_prior_reaches_the_textual_pivots(B, person, data, tuned):
    prior = pivots.prepare(B, tiny_system.pictures(2, 8), PLAN.recipe, 1)
    found = tune_arms(B, person, PLAN, (SWAP,), prior=prior)[SWAP]
    assert equal(found, pivots.textual_pivot(B, data, "man", ONCE, gamma=0.25, in_context=False, prior=prior))
    assert not equal(found, tuned[0][SWAP])


@pytest.fixture
def order(monkeypatch):
    """What `tune_arms` does, in order; nothing is tuned."""
    seen = []

    def textual(B, data, class_noun, training, *, in_context, **options):
        seen.append("G in context" if in_context else "G alone")
        return B.with_()

    def model(B, data, training, *, trained):
        seen.append(f"E {trained}")
        return B.with_()

    monkeypatch.setattr(arms, "move_to_device", lambda B, others: seen.append(len(list(others))))
    monkeypatch.setattr(arms, "textual_pivot", textual)
    monkeypatch.setattr(arms, "model_pivot", model)
    return seen


@pytest.mark.parametrize(
    "wanted, trainings",
    [
        ((BLIND,), []),
        ((DUAL, BLIND), ["G in context", "E repo150"]),
        ((SWAP,), ["G alone"]),
        ((IN_CONTEXT, ENCODER), ["G in context", "E repo150"]),
        ((SWAP_MODEL, SWAP), ["G alone", "E repo150"]),
    ],
)
def test_only_the_wanted_arms_are_tuned(B, person, order, wanted, trainings):
    assert list(tune_arms(B, person, replace(PLAN, trained="repo150"), wanted)) == list(wanted)
    assert [step for step in order if isinstance(step, str)] == trainings


def test_all_other_systems_make_room_before_each_training(B, person, order):
    tune_arms(B, person, PLAN)
    trainings = ["G alone", "E all", "G in context", "E all", "E all"]
    assert order[1::2] == trainings and order[::2] == [1, 2, 3, 4, 5]


def test_unknown_and_missing_arms_are_named(B, person, order):
    with pytest.raises(RangeError, match="'triple'.*Remedy.*dual pivot"):
        tune_arms(B, person, PLAN, ("triple",))
    with pytest.raises(RangeError, match="no blind.*Remedy"):
        arms.check_arms((DUAL,), needed=(BLIND,))
    assert order == []


@pytest.mark.parametrize("where", ["argument", "training"])
def test_each_arm_has_checkpoints_of_its_own(B, person, tmp_path, where):
    """Three arms train a network of the same name."""
    plan = PLAN
    if where == "training":
        plan = replace(PLAN, textual=replace(ONCE, folder=str(tmp_path)), model=replace(ONCE, folder=str(tmp_path)))
    wanted, folder = (DUAL, ENCODER), tmp_path if where == "argument" else None
    first = tune_arms(B, person, plan, wanted, folder=folder)
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.pt")}
    assert files == {"in-context/G in context.pt", "dual pivot/E.pt", "encoder-only/E.pt"}
    again = tune_arms(B, person, plan, wanted, folder=folder)  # from the checkpoints
    assert all(equal(first[arm], again[arm]) for arm in wanted)


# ---- restoring ----


def test_all_arms_restore_from_the_same_noise(B, person, tuned):
    systems = {arm: tuned[0][arm] for arm in (BLIND, DUAL)}
    restored = restore_arms(systems, person.inputs, PLAN)
    assert {arm: tuple(x.shape) for arm, x in restored.items()} == dict.fromkeys(systems, (2, 2, 3, 64, 64))
    for arm, system in systems.items():
        for seed, image in ((0, 0), (1, 1)):
            alone = restore(system, person.inputs[image], seeds=1000 * seed + image, steps=3, w=1.5)
            assert abs(to_uint8(alone).astype(int) - to_uint8(restored[arm][seed, image])).max() <= 1
    assert not torch.allclose(restored[BLIND], restored[DUAL], atol=1e-3)
    assert not torch.allclose(restored[BLIND][0], restored[BLIND][1], atol=1e-3)


def test_a_restoring_arm_has_the_plan_s_precision_and_the_device_alone(B, person, monkeypatch):
    seen, other = [], tiny_system.build(1)
    low = replace(PLAN, textual=replace(ONCE, precision=Precision("bfloat16")))
    monkeypatch.setattr(arms, "move_to_device", lambda system, others: seen.append((system, [id(x) for x in others])))
    monkeypatch.setattr(
        arms, "restore", lambda system, x, precision, **_: seen.append((system, precision.dtype)) or torch.zeros_like(x)
    )
    systems = {BLIND: B, DUAL: B.with_()}
    restore_arms(systems, person.inputs, low, beside=[other])
    everybody = [id(system) for system in (*systems.values(), other)]
    expected = [step for system in systems.values() for step in ((system, everybody), (system, "bfloat16"))]
    assert [(id(system), what) for system, what in seen] == [(id(system), what) for system, what in expected]


@pytest.mark.parametrize("size, batch", [(64, 8), (128, 8), (256, 8), (512, 4), (1024, 1)])
def test_batches_hold_fewer_large_pictures(size, batch):
    class Sized:
        def __init__(self, size):
            self.size = size

    assert arms.batch_size(Sized(size)) == batch


# ---- plans ----


@pytest.mark.parametrize(
    "wrong",
    [dict(steps=1), dict(seeds=0), dict(inputs=-3), dict(references=0), dict(prior=-1), dict(degradations=0)]
    + [dict(gamma=3.0), dict(gamma=float("nan")), dict(w=float("nan")), dict(trained="some")],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_at_once(wrong):
    with pytest.raises(RangeError, match=f"(?i){list(wrong)[0]} out of range.*Remedy"):
        replace(PLAN, **wrong)


def test_an_unknown_recipe_and_adapters_of_a_part_are_refused_at_once():
    with pytest.raises(RecipeError, match="Remedy"):
        replace(PLAN, recipe="no such recipe")
    with pytest.raises(RangeError, match="Remedy"):
        replace(PLAN, trained="repo150", model=replace(ONCE, lora=4))


def test_a_plan_has_one_gamma():
    assert "gamma" not in {field.name for field in fields(Training)}


@pytest.mark.parametrize("change", [dict(quiet=False), dict(folder="elsewhere"), dict(every=7)])
def test_settings_without_influence_are_not_in_the_key(change):
    other = replace(PLAN, textual=replace(ONCE, **change), model=replace(ONCE, **change))
    assert other.key() == PLAN.key() and other != PLAN


@pytest.mark.parametrize(
    "change",
    [dict(gamma=0.3), dict(w=1.0), dict(steps=4), dict(seeds=1), dict(recipe="tiny-heavy"), dict(degradations=3)]
    + [dict(prior=1), dict(trained="repo150"), dict(references=4), dict(inputs=1)]
    + [
        {part: replace(ONCE, **setting)}
        for part in ("textual", "model")
        for setting in (dict(lr=2e-3), dict(steps=2), dict(seed=1), dict(lora=2), dict(batch=2))
    ],
)
def test_settings_that_decide_a_result_are_in_the_key(change):
    assert replace(PLAN, **change).key() != PLAN.key()
