"""Edits and face swaps: drawings are of the edited person, and every measure is 0 and 1 where it should be."""

import math

import pytest
import tiny_system
import torch

from lib import open_person, restore
from lib.errors import BadPersonError, RangeError
from lib.people import procedural
from lib.studies import editing, sweep
from lib.studies import study as studies
from lib.studies.arms import Plan
from lib.studies.study import Study
from lib.training.pivots import dual_pivot
from lib.training.trainer import Training

ONCE = Training(steps=2, batch=1, lr=1e-2, quiet=True)
PLAN = Plan(references=3, inputs=2, steps=4, degradations=1, textual=ONCE, model=ONCE)


@pytest.fixture(scope="module")
def people():
    return {name: open_person(name, PLAN.recipe, 64, references=3, inputs=2) for name in ("people:9", "people:19")}


@pytest.fixture
def ada(people):
    return people["people:9"]


@pytest.fixture
def study(B, people, monkeypatch):
    monkeypatch.setattr(studies, "open_person", lambda name, *_, **__: people[name])
    return Study(B, PLAN, ())


@pytest.fixture(scope="module")
def B_p(B, people):
    references = people["people:9"].references
    return dual_pivot(B, references, recipe=PLAN.recipe, textual=ONCE, model=ONCE, degradations=1)


def with_eyes(colour):
    return next(p for p in procedural.people_of("test", 50) if p.genes.iris == colour)


def test_only_the_eyes_of_a_drawing_change_colour():
    person = with_eyes("brown")
    drawn = editing.draw_edit(person.name, "blue eyes", 3)
    masks = procedural.render([(person, person.shot(100 + k)) for k in drawn.images], 128, masks=True).masks
    eyes = torch.from_numpy(masks["eyes"] > 0)
    changed = drawn.changed[:, 0]
    assert changed.any() and (changed & eyes).sum() / changed.sum() > 0.9
    blue = (drawn.after - drawn.before)[:, 2]  # the blue channel rises where the picture changes most
    assert blue[eyes & changed].mean() > 0.1


def test_images_that_have_the_words_already_or_cannot_have_them_are_left_out():
    assert editing.draw_edit(with_eyes("blue").name, "blue eyes", 4).images == []
    bald = next(p for p in procedural.people_of("test", 50) if p.genes.hair == "bald")
    assert editing.draw_edit(bald.name, "grey hair", 4).images == []
    person = procedural.parse("people:9")
    smiles = [person.shot(100 + k).smile > 0.4 for k in range(8)]
    assert editing.draw_edit(person.name, "smiling", 8).images == [k for k in range(8) if not smiles[k]]


def test_the_share_is_the_part_of_the_drawn_edit_whatever_else_changes():
    drawn = editing.draw_edit(with_eyes("green").name, "blue eyes", 2)
    x, edit = tiny_system.pictures(2, 3, 128), drawn.after - drawn.before
    for part in (0.0, 0.4, 1.0):
        share = editing.edit_share(x + part * edit, x, drawn)
        torch.testing.assert_close(share, torch.full((2,), part), atol=1e-4, rtol=0)
    elsewhere = x + torch.randn_like(x) * ~drawn.changed
    torch.testing.assert_close(editing.edit_share(elsewhere, x, drawn), torch.zeros(2), atol=1e-4, rtol=0)
    assert editing.psnr_where(x + edit, x, ~drawn.changed).min() > 80
    assert editing.psnr_where(elsewhere, x, ~drawn.changed).max() < 10


@pytest.mark.parametrize(
    "share, word",
    [([0.7, 0.8, 0.9], "made"), ([0.3, 0.4, 0.5], "begun"), ([-0.3, 0.1, 0.9], "not made"), ([0.9], "not made")],
)
def test_an_edit_is_made_where_its_interval_says_so(share, word):
    assert editing.outcome(share) == word


def test_psnr_over_a_mask_is_that_of_its_pixels():
    a, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    b = torch.where(mask, 0.2, -1.0).expand_as(a)
    assert float(editing.psnr_where(a, b, mask)) == pytest.approx(20 * math.log10(2 / 0.2), abs=1e-4)


def test_rows_of_edits_are_of_their_prompt_and_noise(study, B_p, ada, tmp_path):
    settings = {"edits": ["round glasses", "smiling"], "guidance": [[3.0, 0.0]]}
    rows = editing.edit_by_text(study, ada, settings, tmp_path)
    how = dict(steps=4, w=3.0, gamma=0.0, allow_untuned_steps=True)
    for edit in settings["edits"]:
        drawn = editing.draw_edit(ada.name, edit, 2, 64)
        found = [row["value"] for row in rows if row["metric"] == "share" and row["edit"] == edit]
        assert len(found) == len(drawn.images)
        for k, value in zip(drawn.images, found):
            inputs = ada.inputs[k : k + 1]
            plain = restore(B_p, inputs, seeds=k, **how)
            edited = restore(B_p, inputs, f"{B_p.personal.prompt}, {edit}", seeds=k, **how)
            true = drawn.after - drawn.before
            one = true[drawn.images.index(k)]
            assert value == pytest.approx(float(((edited - plain)[0] * one).sum() / one.square().sum()), abs=1e-4)
    assert {row["metric"] for row in rows} == {"share", "psnr outside", "identity, edited", "identity, unedited"}


def test_rows_of_a_swap_are_of_the_sources_pictures_restored_as_the_person(study, B_p, ada, people, tmp_path):
    source = people["people:19"]
    rows = editing.face_swap(study, ada, ["people:9", "people:19"], tmp_path)
    assert {(row["system"], row["source"]) for row in rows} == {
        ("own pictures", "people:9"),
        ("blind", "people:19"),
        ("swap", "people:19"),
    }
    behind = editing.background("people:19", 2, 64)
    assert 0.05 < behind.float().mean() < 0.8
    restored = restore(B_p, source.inputs, seeds=0, steps=4)
    expected = editing.psnr_where(restored, source.targets, behind).tolist()
    swapped = [row for row in rows if row["system"] == "swap"]
    assert [row["value"] for row in swapped if row["metric"] == "psnr of the background"] == pytest.approx(
        expected, abs=1e-3
    )


def test_the_truth_of_a_source_scores_as_itself(people):
    source, person = people["people:19"], people["people:9"]
    scores = editing.swap_scores(source.targets, source, person)
    assert (scores["identity to the source"] > scores["identity to the person"]).all()
    assert float(scores["landmarks (px)"].abs().max()) == 0
    assert float(scores["psnr of the background"].min()) > 80


@pytest.mark.parametrize("edits", [["unicorn"], ["blue eyes", "purplish eyes"], ["smiling", "smiling"]])
def test_words_that_no_caption_has_are_refused(B, edits):
    with pytest.raises(RangeError, match="Remedy"):
        editing.check_edits(B, edits)


def test_every_word_of_a_caption_is_known(B):
    edits = ["wavy auburn hair", "a beard", *editing.EDITS]
    assert editing.check_edits(B, edits) == edits


@pytest.mark.parametrize(
    "name, edit, error", [("people:9", "older", RangeError), ("folder", "smiling", BadPersonError)]
)
def test_what_cannot_be_drawn_is_refused(name, edit, error):
    with pytest.raises(error, match="Remedy"):
        editing.draw_edit(name, edit, 2)


@pytest.mark.parametrize("names, edits", [(["photographs/ada"], ["smiling"]), (["people:9"], ["freckles"])])
def test_a_study_of_edits_is_of_people_and_edits_that_can_be_drawn(names, edits):
    with pytest.raises((BadPersonError, RangeError), match="Remedy"):
        editing.check_drawn(names, edits)


@pytest.mark.parametrize(
    "settings", [{"edits": ["older"], "guidance": [[1.0, 0.5]]}, {"edits": ["smiling"], "guidance": [[math.nan, 0.5]]}]
)
def test_wrong_settings_are_refused_before_anything_is_tuned(study, ada, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(sweep, "textual_pivot", lambda *_, **__: pytest.fail("tuned"))
    with pytest.raises(RangeError, match="Remedy"):
        editing.edit_by_text(study, ada, settings, tmp_path)
