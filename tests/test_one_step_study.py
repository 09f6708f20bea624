"""The questions of notebook 06: what a sweep computes of one person, how it is summarised, and the full-size counts."""

from dataclasses import replace

import pytest

from lib import load_system, paths
from lib.errors import MissingPicturesError, RangeError, WeightsError
from lib.models.one_step_folder import load_one_step
from lib.restoration.one_step import restore_one_step
from lib.studies import arms, one_step, one_step_counted, study
from lib.training.trainer import Training

ONCE = Training(steps=1, lr=1e-4, batch=1, quiet=True)


@pytest.fixture(scope="module")
def settings():
    return {"restorers": one_step.restorers("data/onestep"), "training": dict(steps=1, batch=1, quiet=True)}


@pytest.fixture(scope="module")
def many():
    plan = arms.Plan(3, 1, 1, "tiny-heavy", steps=2, degradations=2, textual=ONCE, model=ONCE)
    return study.Study(load_system(), plan, ())


@pytest.fixture(scope="module")
def person(many):
    return many.open("people:1309")


@pytest.fixture(scope="module")
def systems(many, person, settings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_step, "TEACHER_STEPS", 2)
        return one_step.systems(many, person, settings, tmp_path_factory.mktemp("tuning"))


def test_every_system_is_scored_and_timed_and_the_personal_ones_have_their_distillation(systems):
    names = {one_step.BLIND, one_step.ONE_BLIND, one_step.ONE, one_step.DUAL, one_step.PERSONAL, one_step.TUNED}
    of = {name: {row["metric"] for row in systems if row["system"] == name} for name in names}
    wanted = {*one_step.METRICS, "similarity_ld", "colour", "eyes", "sharpness", "seconds"}
    assert all(wanted <= of[name] for name in names)
    assert {name for name in names if "distillation" in of[name]} == {one_step.PERSONAL, one_step.TUNED}
    assert all(row["value"] > 0 for row in systems if row["metric"] in ("seconds", "distillation"))
    peaks = [row["value"] for row in systems if row["metric"] == "peak"]
    assert len(peaks) == len(names) and all(0 <= peak < 64 for peak in peaks)  # GB, of the process; 0: unknown


def test_a_restoration_in_one_step_evaluates_g_once_and_e_never(many, person, settings):
    one = one_step._only(many, settings["restorers"])
    calls = []
    hooks = [net.register_forward_hook(lambda *_: calls.append(1)) for net in (one.G, many.B.G, many.B.E)]
    restore_one_step(one, person.inputs, person.references)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 1


def test_scores_of_the_truth_itself(person):
    found = one_step.scores(person, person.targets)
    for name in ("perceptual", "colour", "eyes", "l2_ld", "similarity_ld"):
        assert float(found[name][0]) == pytest.approx(0, abs=1e-4), name
    assert float(found["identity"][0]) == pytest.approx(1, abs=1e-5)


def test_parts_numbers_and_owners_are_labelled_and_differ(many, person, settings, tmp_path):
    settings = {"restorers": settings["restorers"], "counts": [1], "strangers": ["people:1039", person.name]}
    settings["parts"] = [[], ["VRE", "FFE"], ["VRE", "FFE", "FIE"]]
    rows = [row for row in one_step.prompts(many, person, settings, tmp_path) if row["metric"] == "identity"]
    labels = [(row["parts"], row["references"], row["whose"]) for row in rows]
    everything = "FFE + FIE + VRE"
    own, other = "own", "another person's"
    assert labels == [
        ("none", 3, own),
        ("FFE + VRE", 3, own),
        (everything, 3, own),
        (everything, 1, own),
        (everything, 3, other),
    ]
    assert len({row["value"] for row in rows}) == 5
    one = load_one_step("data/onestep", many.B)
    with pytest.raises(RangeError, match="7 references of 3"):
        one_step.prompts(many, person, settings | {"counts": [7]}, tmp_path)
    assert restore_one_step(one, person.inputs, person.references).shape == person.inputs.shape


def test_restorers_are_found_alone_and_in_a_folder_of_them(many, settings, tmp_path):
    assert list(settings["restorers"]) == ["onestep"] and len(settings["restorers"]["onestep"][1]) == 16
    (tmp_path / "some").mkdir()
    for name in ("b", "a"):
        (tmp_path / "some" / name).symlink_to(paths.DATA / "onestep")
    assert list(one_step.restorers(tmp_path / "some")) == ["a", "b"]
    with pytest.raises(RangeError, match="2 restorers: a, b"):
        one_step._only(many, one_step.restorers(tmp_path / "some"))
    with pytest.raises(WeightsError, match="no one-step restorer"):
        one_step.restorers(tmp_path)


def test_the_summary_has_means_paired_intervals_and_speed():
    rows = []
    for k, person in enumerate("abc"):
        for system in (
            one_step.BLIND,
            one_step.ONE_BLIND,
            one_step.ONE,
            one_step.DUAL,
            one_step.PERSONAL,
            one_step.TUNED,
        ):
            slow = system in (one_step.BLIND, one_step.DUAL)
            values = dict.fromkeys(("psnr", "perceptual", "identity", "colour"), k + (0.0 if slow else 0.5))
            rows += [
                dict(question="systems", person=person, system=system, metric=m, value=v) for m, v in values.items()
            ]
    for name in set(one_step.LIVE.values()):
        rows.append({"question": "live", "system": name, "s a picture": 2.0 if "many" in name else 0.05})
    table = one_step.summary(rows)
    assert table.loc[one_step.DUAL, "PSNR (dB)"] == "1.00" and table.loc[one_step.DUAL, "times as fast"] == "1.0"
    assert table.loc[one_step.PERSONAL, "PSNR (dB)"] == "1.50 (+0.50 [+0.50, +0.50])"
    assert table.loc[one_step.PERSONAL, "times as fast"] == "40"


def test_the_full_size_is_within_a_twentieth_of_the_papers():
    """Table 3a: 1,059 million weights and 2,282 G multiply-adds."""
    counted = one_step_counted.count()
    for column, published in one_step_counted.PAPER.items():
        assert counted.loc["together", column] == pytest.approx(published, rel=0.05)
    assert one_step_counted.personal_megabytes() < 10


def test_a_person_without_the_ground_truth_is_an_error_with_a_remedy(person):
    assert one_step.with_targets(person) is person
    with pytest.raises(MissingPicturesError, match="lib.onestep"):
        one_step.with_targets(replace(person, targets=None))
