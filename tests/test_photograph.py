"""Whole photographs: the known person is found and pasted back in place; strangers are refused or left."""

import cv2
import numpy as np
import pytest
import torch

from lib.errors import FaceError, IdentityWarning, NoFaceError, NotThePersonError, SeveralFacesError
from lib.images import to_tensor
from lib.metrics import identity
from lib.people import alignment, procedural
from lib.people.person import load_folder
from lib.people.picture_files import load_picture, save_picture
from lib.restoration import person_identity, photographs
from lib.studies import arms
from lib.studies import person as studies_person

SIZE = 128


def unchanged(crops):
    return crops


def painted(colour):
    """A restorer that returns one colour, RGB in 0..255."""
    return lambda crops: torch.tensor(colour).view(1, 3, 1, 1).expand(len(crops), 3, SIZE, SIZE) / 127.5 - 1


@pytest.fixture(scope="module")
def scene():
    """Two test people side by side on grey; two references of the first, on the left and smaller."""
    one, two = procedural.people_of("test", 2, start=40)
    faces = procedural.render([(one, one.shot(0)), (two, two.shot(0))]).pictures
    photo = np.full((300, 520, 3), 120, np.uint8)
    photo[60:220, 20:180] = cv2.resize(faces[0], (160, 160), interpolation=cv2.INTER_CUBIC)
    photo[40:260, 260:480] = cv2.resize(faces[1], (220, 220), interpolation=cv2.INTER_CUBIC)
    return photo, to_tensor(procedural.render([(one, one.shot(k)) for k in (3, 4)]).pictures)


def restored(scene, person=unchanged, other=None, **options):
    return photographs.restore_photograph(
        scene[0], person, other, references=scene[1], pack="people", size=SIZE, **options
    )


@pytest.mark.parametrize("scale, angle", [(0.5, 20), (1.0, 0), (2.3, -15)])
def test_a_crop_pasted_back_is_where_it_was(scale, angle):
    """A crop of a smooth photograph, at any scale and angle, laid back unchanged, changes nothing."""
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (8, 10, 3), np.uint8), (400, 300), interpolation=cv2.INTER_CUBIC)
    matrix = cv2.getRotationMatrix2D((200, 150), angle, scale) - [[0, 0, 200 - SIZE / 2], [0, 0, 150 - SIZE / 2]]
    again = photographs.paste(photo, alignment.warp(photo, matrix, SIZE), matrix)
    change = np.abs(again.astype(int) - photo)
    moved = photographs.paste(photo, alignment.warp(photo, matrix + [[0, 0, 1], [0, 0, 0]], SIZE), matrix)
    assert (
        again.shape == photo.shape and change.max() <= 6 and np.abs(moved.astype(int) - photo).sum() > 4 * change.sum()
    )  # a pixel off shows


def test_the_mask_is_whole_inside_nothing_at_the_edge_and_smooth():
    mask = photographs.soft_mask(200)
    assert mask[40:160, 40:160].min() == 1 and max(mask[0].max(), mask[:, -1].max()) < 0.02
    assert np.abs(np.diff(mask, axis=0)).max() < 0.07 and np.allclose(mask, mask.T) and np.allclose(mask, mask[::-1])


def test_the_person_is_found_among_others_and_colours_keep_their_order(scene):
    photo, alike = restored(scene, painted((250.0, 20.0, 60.0)))
    assert len(alike) == 2 and int(alike.argmax()) == 1  # the smaller face
    changed = np.abs(photo.astype(int) - scene[0]).max(2) > 8
    assert changed[100:180, 60:140].mean() > 0.9 and not changed[:, 250:].any()
    assert np.abs(photo[140, 100].astype(int) - [250, 20, 60]).max() <= 2


def test_others_are_left_or_restored_blind_and_the_person_always_lies_on_top(scene):
    both = restored(scene, painted((0.0, 255.0, 0.0)), painted((0.0, 0.0, 255.0)), others="blind")[0]
    assert both[140, 100].tolist() == [0, 255, 0] and both[150, 370].tolist() == [0, 0, 255]
    assert np.abs(restored(scene)[0].astype(int) - scene[0]).mean() < 0.5


def test_a_restored_crop_is_laid_back_where_it_was_cut_with_others_left_or_restored(scene):
    photo, references = scene
    found = photographs.find_person(photo, references, "people", size=SIZE)
    assert found.person == 1 and found.identities.argmax() == 1 and found.crops.shape == (2, 3, SIZE, SIZE)
    green = torch.tensor([0.0, 255.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE) / 127.5 - 1
    left = photographs.paste_person(photo, green, found.matrices[1])
    assert left[140, 100].tolist() == [0, 255, 0] and np.array_equal(left[:, 250:], photo[:, 250:])
    both = photographs.paste_person(photo, green, found.matrices[1], painted((0.0, 0.0, 255.0)), "people")
    assert both[140, 100].tolist() == [0, 255, 0] and both[150, 370].tolist() == [0, 0, 255]
    assert np.array_equal(
        both, restored(scene, painted((0.0, 255.0, 0.0)), painted((0.0, 0.0, 255.0)), others="blind")[0]
    )


def folder_of(scene, where):
    """A person folder of whole photographs: one input shows the person alone, another one also somebody else."""
    photo, _ = scene
    one = procedural.people_of("test", 1, start=40)[0]
    for k, picture in enumerate(procedural.render([(one, one.shot(k)) for k in (3, 4, 5)], 160).pictures):
        save_picture(
            where / "references" / f"{k}.png", np.pad(picture, ((40, 40), (40, 40), (0, 0)), constant_values=120), False
        )
    alone = photo.copy()
    alone[:, 250:] = 120
    for name, picture in (("both", photo), ("alone", alone)):
        save_picture(where / "inputs" / f"{name}.png", picture, False)
    (where / "person.yaml").write_text("{name: ada, class_noun: woman, real: false}")
    return where


def test_of_several_faces_in_an_input_the_person_is_restored_and_pasted_back(scene, tmp_path):
    folder = folder_of(scene, tmp_path / "ada")
    with pytest.raises(SeveralFacesError):
        load_folder(folder, SIZE, "people")
    assert len(load_folder(folder, SIZE, "people", "largest").inputs) == 2
    who = load_folder(folder, SIZE, "people", find_person=photographs.PersonFinder("people", size=SIZE))
    assert who.stems == ["alone", "both"] and (who.inputs[0] - who.inputs[1]).abs().mean() < 0.02  # she, in both
    crop = painted((250.0, 20.0, 60.0))(torch.zeros(1, 3, SIZE, SIZE))
    file, matrix = who.photographs[1]
    whole = photographs.paste_person(load_picture(file), crop, matrix)
    assert whole.shape == scene[0].shape and np.abs(whole[140, 100].astype(int) - [250, 20, 60]).max() <= 2
    assert np.array_equal(whole[:, 250:], scene[0][:, 250:])


def test_a_stranger_alone_in_an_input_is_not_taken_for_the_person(scene, tmp_path):
    folder, photo = folder_of(scene, tmp_path / "ada"), scene[0].copy()
    photo[:, :240] = 120  # she is gone
    save_picture(folder / "inputs" / "both.png", photo, False)
    with pytest.raises(NotThePersonError, match="both.png.*identity.*Remedy"):
        load_folder(folder, SIZE, "people", find_person=photographs.PersonFinder("people", size=SIZE))


# ---- somebody else among the references or inputs ----


@pytest.fixture(scope="module")
def strangers():
    """Four shots of one person, and one shot of a person whose identity with the first is small by people-r."""
    one, *others = procedural.people_of("test", 8, start=40)
    own = to_tensor(procedural.render([(one, one.shot(k)) for k in (3, 4, 5, 6)]).pictures)
    crowd = to_tensor(procedural.render([(p, p.shot(0)) for p in others]).pictures)
    alike = identity.to_references(identity.embed(crowd), identity.embed(own))
    assert alike.min() < 0.1
    return own, crowd[int(alike.argmin())][None], crowd[int((alike - 0.27).abs().argmin())][None]


def test_a_reference_of_somebody_else_is_refused_with_the_numbers(strangers):
    own, stranger, _ = strangers
    check = person_identity.PersonIdentity(scorer="people").check_references
    names = ["a.png", "b.png", "c.png", "d.png"]
    check(own, names)
    with pytest.raises(NotThePersonError, match=r"b.png, identity .* -?0\.\d\d \(all: a.png 0\.\d\d, b.png.*Remedy"):
        check(torch.cat([own[:1], stranger, own[2:]]), names)


def test_a_reference_that_is_perhaps_somebody_else_causes_a_warning(strangers):
    own, _, perhaps = strangers
    check = person_identity.PersonIdentity(scorer="people").check_references
    with pytest.warns(IdentityWarning, match="d.png, identity.*Remedy"):
        check(torch.cat([own[:3], perhaps]), ["a.png", "b.png", "c.png", "d.png"])


def test_an_aligned_folder_with_a_strangers_reference_is_refused_when_there_is_a_scorer(strangers, tmp_path):
    own, stranger, _ = strangers
    for k, picture in enumerate([*own[:3], *stranger]):
        save_picture(tmp_path / "ada" / f"{k}.png", picture)
    facts = {"source": "drawn", "terms": "invented", "scorer": "people"}
    assert len(load_folder(tmp_path / "ada", SIZE, **facts).references) == 4  # nothing is compared without a function
    check = person_identity.PersonIdentity(scorer="people").check_references
    with pytest.raises(NotThePersonError, match="3.png"):
        load_folder(tmp_path / "ada", SIZE, check_references=check, **facts)


def test_inputs_that_are_perhaps_somebody_else_cause_one_warning(strangers):
    own, stranger, _ = strangers
    check = person_identity.PersonIdentity(scorer="people").check_inputs
    with pytest.warns(IdentityWarning, match="Perhaps not the person.* y -?0") as caught:
        check(torch.cat([own[3:], stranger]), own[:3], ["x", "y"])
    assert len(caught) == 1
    check(own[3:], own[:3], ["x"])
    assert len(caught) == 1


def test_a_photograph_of_perhaps_somebody_else_causes_a_warning():
    known = person_identity.PersonIdentity(scorer="people")
    with pytest.warns(IdentityWarning, match="ada.png 0.20.*Remedy"):
        known.check_found(torch.tensor([0.2, -0.1]), "ada.png")
    with pytest.raises(NotThePersonError, match="0.10"):
        known.check_found(torch.tensor([0.1, -0.1]), "ada.png")


def test_a_person_by_name_is_compared_when_a_recogniser_is_given(strangers, tmp_path):
    own, stranger, _ = strangers
    facts = {"source": "drawn", "terms": "invented", "real": False, "scorer": "people"}
    for k, picture in enumerate(own):
        save_picture(tmp_path / "ada" / f"{k}.png", picture)
    assert len(studies_person.open_person(tmp_path / "ada", **facts).references) == 4
    save_picture(tmp_path / "ada" / "stranger.png", stranger)
    with pytest.raises(NotThePersonError, match="stranger.png"):
        studies_person.open_person(tmp_path / "ada", **facts)


def test_references_are_embedded_once_for_all_photographs(scene, tmp_path, monkeypatch):
    counted, real = [], identity.embed
    monkeypatch.setattr(identity, "embed", lambda x, *rest, **how: counted.append(len(x)) or real(x, *rest, **how))
    finder = photographs.PersonFinder("people", size=SIZE)
    folder = folder_of(scene, tmp_path / "ada")
    load_folder(folder, SIZE, "people", check_references=finder.check_references, find_person=finder)
    assert counted == [3, 1, 2]  # the references, the one face of the first input, both of the second


def test_nobody_and_somebody_else_are_named(scene):
    photo, references = scene
    with pytest.raises(NoFaceError, match="ada.png.*Remedy"):
        restored((np.full_like(photo, 120), references), where="ada.png")
    strangers = [
        to_tensor(procedural.render([(p, p.shot(0))]).pictures) for p in procedural.people_of("test", 12, start=60)
    ]
    alone = photo.copy()
    alone[:, 250:] = 120
    found = [
        pytest.raises(NotThePersonError, restored, (alone, x), where="ada.png") for x in strangers if _unlike(alone, x)
    ]
    assert found and all("ada.png" in str(error.value) and "Remedy" in str(error.value) for error in found)
    with pytest.raises(FaceError, match="Remedy"):
        restored(scene, others="blind")


def _unlike(photo, references):
    face = alignment.find_faces(photo, "people")[0]
    crop = to_tensor(alignment.warp(photo, alignment.similarity(face.points, alignment.template(SIZE)), SIZE)[None])
    return (
        float(identity.to_references(identity.embed(crop, "people"), identity.embed(references, "people")))
        < person_identity.LEAST - 0.02
    )


def test_others_are_restored_by_the_blind_system(scene, tmp_path, monkeypatch):
    folder = folder_of(scene, tmp_path / "ada")
    who = load_folder(folder, SIZE, "people", find_person=photographs.PersonFinder("people", size=SIZE))
    used = []

    def black(arms, crops, plan, beside):
        used.append((list(arms.values()), len(crops)))
        return {arm: -torch.ones(1, *crops.shape) for arm in arms}

    monkeypatch.setattr(arms, "restore_arms", black)
    whole = arms.restored_photographs("B", who, who.inputs, "plan", "blind", "people")
    assert used == [(["B"], 1)]  # the one other face of the two photographs
    assert whole["both"][150, 370].tolist() == [0, 0, 0]
    assert np.abs(whole["both"].astype(int) - scene[0])[60:220, 20:180].mean() < 4
    with pytest.raises(FaceError, match="Remedy"):
        arms.restored_photographs("B", who, who.inputs, "plan", "everybody", "people")
