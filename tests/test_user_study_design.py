"""The study file, the pictures and the trials of a user study."""

import re
from collections import Counter

import numpy as np
import pytest
import tiny_study
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib import paths
from lib.errors import StudyFileError
from lib.user_study import design, picture_sets, sheet, study_file
from lib.user_study.study_file import Exclusion, Part, Study

EXAMPLE = paths.PARAMS / "user_study.yaml"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    return [tiny_study.folder(root, "ada"), tiny_study.folder(root, "bo")]


def read(tmp_path, found):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(found, sort_keys=False))
    return study_file.read(file)


def test_the_example_asks_what_the_paper_asked():
    study = study_file.read(EXAMPLE)
    counts = {part.kind: (part.trials, len(part.arms)) for part in study.parts}
    assert counts == {"quality": (11, 2), "identity": (10, 4)} and study.participants == 30  # appendix A, c


def test_every_fault_of_a_study_file_is_named_at_once(tmp_path, pictures):
    found = tiny_study.described(pictures, participants=0, colour="red", title="x" * 200)
    found["parts"]["quality"] |= {"arms": ["blind", "../../etc/passwd"], "trials": "many", "kind": "quantity"}
    del found["parts"]["identity"]["question"], found["consent"]
    with pytest.raises(StudyFileError) as error:
        read(tmp_path, found)
    said = str(error.value)
    for words in ("participants", "colour", "title", "trials", "question is missing", "consent is missing"):
        assert words in said
    assert "Remedy" in said
    found = tiny_study.described(pictures)
    found["parts"]["quality"] |= {"arms": ["blind", "../../etc/passwd"], "kind": "quantity", "repeats": 9}
    with pytest.raises(StudyFileError, match="3 faults") as error:
        read(tmp_path, found)
    assert "passwd" in str(error.value) and "quantity" in str(error.value) and "repeats" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "notebook: 00_start_here", "user_study: 2", "user_study: 1\nparts: 3", "\x00"]
)
def test_what_is_no_study_file_is_refused(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(StudyFileError, match="Remedy"):
        study_file.read(tmp_path / "study.yaml")


def test_pictures_are_collected_from_folders_of_several_runs(tmp_path, pictures):
    study = read(tmp_path, tiny_study.described(pictures))
    items = picture_sets.collect(study)
    assert sorted(items) == [f"{person} i{k}" for person in ("ada", "bo") for k in range(3)]
    assert all(set(item.restored) == set(tiny_study.ARMS) for item in items.values())
    more = tiny_study.folder(tmp_path / "more", "ada", arms=("inward",))  # the same person from another run
    found = tiny_study.described([*pictures[:1], more])
    found["parts"]["quality"] |= {"arms": ["blind", "inward"], "trials": 3}
    del found["parts"]["identity"]
    assert len(picture_sets.collect(read(tmp_path, found))) == 3


@pytest.mark.parametrize(
    ("what", "says"),
    [("input", "Two runs disagree"), ("size", "Not one size"), ("arm", "Arm not restored"), ("none", "No folder"),
     ("text", "Not a picture"), ("few", "Too few items")],
)  # fmt: skip
def test_pictures_that_cannot_be_compared_are_refused(tmp_path, what, says):
    one = tiny_study.folder(tmp_path / "a", "ada")
    found = tiny_study.described([one])
    found["parts"]["quality"]["trials"] = found["parts"]["identity"]["trials"] = 99 if what == "few" else 3
    if what == "input":
        other = tiny_study.folder(tmp_path / "b", "ada")
        tiny_study.save(other / "inputs" / "i0.png", tiny_study.picture(99))
        found["pictures"].append(str(other))
    elif what == "size":
        tiny_study.save(one / "restored" / "i1-blind.png", tiny_study.picture(1, size=64))
    elif what == "arm":
        (one / "restored" / "swap" / "i2.png").unlink()
    elif what == "text":
        (one / "inputs" / "i0.png").write_text("no picture")
    elif what == "none":
        found["pictures"] = [str(tmp_path / "nobody-*")]
    with pytest.raises(StudyFileError, match=f"{says}[^$]*Remedy"):
        picture_sets.collect(read(tmp_path, found))


def test_what_is_shown_holds_pixels_alone(pictures):
    file = pictures[0] / "restored" / "i0-blind.png"
    assert b"Arm" in file.read_bytes()
    shown = picture_sets.encoded(picture_sets._read(file))
    kinds = re.findall(rb"(IHDR|tEXt|iTXt|zTXt|eXIf|tIME|iCCP|pHYs|IEND)", shown)
    assert kinds == [b"IHDR", b"IEND"] and b"blind" not in shown
    (pictures[0] / "shown.tmp").write_bytes(shown)
    with Image.open(pictures[0] / "shown.tmp") as image:
        assert not image.info and np.array_equal(image, picture_sets._read(file))
    (pictures[0] / "shown.tmp").unlink()


def test_a_changed_picture_is_another_study(tmp_path, pictures):
    study = read(tmp_path, tiny_study.described(pictures))
    items = picture_sets.collect(study)
    before = picture_sets.fingerprint(study, items)
    items["ada i0"].restored["blind"] = items["ada i0"].restored["blind"] ^ np.uint8(1)
    assert picture_sets.fingerprint(study, items) != before


def test_a_sheet_brings_its_items_back(tmp_path, pictures):
    items = picture_sets.collect(read(tmp_path, tiny_study.described(pictures)))
    sheet.save(items, tiny_study.ARMS, tmp_path / "sheet.webp")
    again = sheet.load(tmp_path / "sheet.webp", list(items), tiny_study.ARMS)
    for name, item in items.items():
        assert list(again[name].restored) == list(tiny_study.ARMS)
        assert np.abs(again[name].restored["swap"].astype(int) - item.restored["swap"]).mean() < 6
    assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "sheet.webp").read_bytes()
    with pytest.raises(StudyFileError):
        sheet.load(tmp_path / "sheet.webp", ["one"] * 7, tiny_study.ARMS)


def a_study(arms, trials, seed, practice=1, attention=2, repeats=1):
    kind = "quality" if arms == 2 else "identity"
    names = tuple(f"arm {k}" for k in range(arms))
    part = Part("p", kind, "?", "!", names, trials, practice, attention, min(repeats, trials))
    return Study("t", "c", "n", ("x",), 30, (part,), Exclusion(), seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 14), st.integers(0, 5), st.integers(0, 2**32 - 1), st.integers(1, 14))
def test_trials_are_balanced_whatever_the_seed(arms, trials, more, seed, participants):
    study, items = a_study(arms, trials, seed), [f"item {k}" for k in range(trials + more)]
    found = design.imbalance(study, items, participants)["p"]
    assert found["own places"] <= 1 and found["places"] <= 1 and found["views"] <= arms
    whole = design.imbalance(study, items, 2 * arms)["p"]
    assert whole["places"] == 0 and (whole["order"] == 0 or arms % 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_participant_sees_each_item_once_and_the_checks_in_between(arms, trials, seed, participant):
    study, items = a_study(arms, trials, seed), [f"item {k}" for k in range(trials)]
    some = design.trials_of(study, items, participant)
    assert some == design.trials_of(study, items[::-1], participant)  # whatever order the folders came in
    counts = Counter(trial.kind for trial in some)
    assert counts == {"practice": 1, "trial": trials, "repeat": 1, "attention": 2}
    assert sorted(trial.item for trial in some if trial.kind == "trial") == sorted(items)
    assert some[0].kind == "practice" and all(trial.kind != "practice" for trial in some[1:])
    for trial in some:
        obvious = trial.kind in ("practice", "attention")
        assert len(trial.options) == arms and (trial.options.count(None) == arms - 1) == obvious
        assert trial.right == (next(k for k, arm in enumerate(trial.options) if arm) if obvious else None)
    again = next(trial for trial in some if trial.kind == "repeat")
    first = next(trial for trial in some if trial.kind == "trial" and trial.item == again.item)
    assert again.options == first.options[::-1]


def test_the_check_sees_a_design_that_is_not_balanced(monkeypatch):
    study, items = a_study(2, 6, 0), [f"item {k}" for k in range(6)]
    monkeypatch.setattr(design.np, "roll", lambda order, by: np.arange(len(order)))  # the same side always
    assert design.imbalance(study, items, 4)["p"]["own places"] == 6
