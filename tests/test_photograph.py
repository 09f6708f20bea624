"""Whole photographs: what is pasted lies where it was cut, in its colours; the known person is found; others are left or restored."""

import cv2
import numpy as np
import pytest
import torch

from lib.errors import FaceError, NoFaceError, NotThePersonError, SeveralFacesError
from lib.images import to_tensor
from lib.people import alignment, procedural
from lib.people.person import load_folder
from lib.people.picture_files import save_picture
from lib.restoration import person_identity, photographs
from lib.studies import arms, person

SIZE = 128


def keep(crops):
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


def restored(scene, person=keep, blind=None, **options):
    return photographs.restore_photograph(
        scene[0], person, blind, references=scene[1], pack="people", size=SIZE, **options
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
    """A person folder of whole photographs: references of her alone, one input with somebody else in it and one without."""
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


def test_of_several_faces_in_an_input_the_person_is_restored_and_laid_back(scene, tmp_path):
    folder = folder_of(scene, tmp_path / "ada")
    with pytest.raises(SeveralFacesError):
        load_folder(folder, SIZE, "people")
    assert len(load_folder(folder, SIZE, "people", "largest").inputs) == 2
    who = person.case(str(folder), arms.Plan(shots=2), SIZE, pack="people", scorer="people")
    assert who.stems == ["alone", "both"] and (who.degraded[0] - who.degraded[1]).abs().mean() < 0.02  # she, in both
    crops = torch.tensor([250.0, 20.0, 60.0]).view(1, 3, 1, 1).expand(2, 3, SIZE, SIZE) / 127.5 - 1
    whole = arms.restored_photographs(None, who, crops, None, "leave", "people")
    assert list(whole) == who.stems and all(photo.shape == scene[0].shape for photo in whole.values())
    assert np.abs(whole["both"][140, 100].astype(int) - [250, 20, 60]).max() <= 2 and np.array_equal(
        whole["both"][:, 250:], scene[0][:, 250:]
    )


def test_a_stranger_alone_in_an_input_is_not_taken_for_the_person(scene, tmp_path):
    folder, photo = folder_of(scene, tmp_path / "ada"), scene[0].copy()
    photo[:, :240] = 120  # she is gone
    save_picture(folder / "inputs" / "both.png", photo, False)
    with pytest.raises(NotThePersonError, match="both.png.*Remedy"):
        person.case(str(folder), arms.Plan(shots=2), SIZE, pack="people", scorer="people")


def test_others_by_the_blind_system(scene, tmp_path, monkeypatch):
    who = person.case(str(folder_of(scene, tmp_path / "ada")), arms.Plan(shots=2), SIZE, pack="people", scorer="people")
    asked = []
    monkeypatch.setattr(
        arms, "restore_arms", lambda arms, crops, plan, beside: asked.append(arms) or {"": -torch.ones(1, *crops.shape)}
    )
    whole = arms.restored_photographs("B", who, who.degraded, "plan", "blind", "people")
    assert asked == [{"": ("B", "")}]  # the one other face of the two photographs, without a prompt
    assert (
        whole["both"][150, 370].tolist() == [0, 0, 0]
        and np.abs(whole["both"].astype(int) - scene[0])[60:220, 20:180].mean() < 4
    )
    with pytest.raises(FaceError, match="Remedy"):
        arms.restored_photographs("B", who, who.degraded, "plan", "everybody", "people")


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
    from lib.metrics import identity

    face = alignment.find_faces(photo, "people")[0]
    crop = to_tensor(alignment.warp(photo, alignment.similarity(face.points, alignment.template(SIZE)), SIZE)[None])
    return (
        float(identity.to_references(identity.embed(crop, "people"), identity.embed(references, "people")))
        < person_identity.LEAST - 0.02
    )
