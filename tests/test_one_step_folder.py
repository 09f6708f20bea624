"""python -m lib.onestep: a folder of pictures restored in one step, and what it refuses before any work."""

import numpy as np
import pytest
import tiny_one_step
from PIL import Image

from lib import onestep
from lib.errors import IdentityWarning, MissingPicturesError, NotThePersonError, PictureSizeError, RangeError, SaveError
from lib.images import to_tensor
from lib.models.one_step_folder import save_one_step
from lib.people.person import procedural_person
from lib.people.picture_files import load_picture, save_picture
from lib.restoration import one_step_folder
from lib.restoration.one_step import restore_one_step


@pytest.fixture(scope="module")
def here(B, tmp_path_factory):
    """A base, a restorer of it, a folder of pictures, and one of references of the same person."""
    folder = tmp_path_factory.mktemp("folder")
    person = procedural_person("people:1269", size=64, references=3, inputs=2)
    B.save(folder / "system")
    base = one_step_folder.load_system(folder / "system")
    save_one_step(folder / "restorer", tiny_one_step.build(base))
    for name, pictures in {"pictures": person.targets, "references": person.references}.items():
        for k, picture in enumerate(pictures):
            save_picture(folder / name / f"i{k}.png", picture, synthetic=False)
    return folder


def restore(here, *more, output="out"):
    where = [str(here / "pictures"), "--system", str(here / "system"), "--restorer", str(here / "restorer")]
    return onestep.main([*where, "--output", str(here / output), *map(str, more)])


def test_a_folder_is_restored_and_marked_as_synthetic(here, capsys):
    assert restore(here, output="blind") == 0
    files = sorted((here / "blind").iterdir())
    assert [file.name for file in files] == ["i0.png", "i1.png"] and "restored:" in capsys.readouterr().out
    assert "Synthetic" in Image.open(files[0]).text
    one = one_step_folder.load_one_step(here / "restorer", one_step_folder.load_system(here / "system"))
    expected = restore_one_step(one, to_tensor([load_picture(here / "pictures" / file.name) for file in files]))
    found = to_tensor([load_picture(file) for file in files])
    assert (found - expected).abs().max() < 0.02


def test_references_change_what_is_restored(here):
    assert restore(here, output="without") == 0
    assert restore(here, "--references", here / "references", output="with") == 0
    a, b = (load_picture(here / name / "i0.png").astype(int) for name in ("without", "with"))
    assert np.abs(a - b).max() > 0


def test_references_of_two_people_are_refused_or_warned_of_with_the_numbers(here, monkeypatch):
    names = [(here / "references" / f"i{k}.png") for k in range(3)]
    pictures = to_tensor([load_picture(file) for file in names])
    one_step_folder.check_one_person(names, pictures, pictures, names)
    pictures[1] = procedural_person("people:1309", size=64, references=3, inputs=1).references[0]
    numbers = r"i1.png, identity with the other references -?0\.\d\d \(all: i0.png 0\.\d\d"
    with pytest.raises(NotThePersonError, match=numbers):
        one_step_folder.check_one_person(names, pictures, pictures[:1], names[:1])
    monkeypatch.setattr("lib.restoration.person_identity.LEAST", -1.0)
    with pytest.warns(IdentityWarning, match=numbers):
        one_step_folder.check_one_person(names, pictures, pictures[:1], names[:1])


def test_bad_input_is_refused_before_the_weights_are_opened(here, monkeypatch):
    def opened(*_):
        raise AssertionError("weights were opened")

    monkeypatch.setattr(one_step_folder, "load_one_step", opened)

    def restored(folder, **options):
        return one_step_folder.restore_folder(folder, system=here / "system", restorer=here / "restorer", **options)

    with pytest.raises(MissingPicturesError):
        restored(here / "nothing")
    with pytest.raises(MissingPicturesError):
        restored(here / "pictures", output=here / "x", references=here / "nothing")
    (here / "there").mkdir()
    with pytest.raises(SaveError, match="output exists"):
        restored(here / "pictures", output=here / "there")
    (here / "file").write_text("")
    with pytest.raises(SaveError, match="Could not make"):
        restored(here / "pictures", output=here / "file" / "out")
    with pytest.raises(RangeError, match="--personal"):
        restored(here / "pictures", output=here / "x", references=here / "references", personal="p")
    save_picture(here / "wide" / "i0.png", np.zeros((64, 80, 3), np.uint8))
    with pytest.raises(PictureSizeError, match="80x64"):
        restored(here / "wide")
    assert not (here / "wide-restored").exists() and not (here / "x").exists()


def test_the_command_says_what_is_wrong_and_exits_with_1(here, capsys):
    assert restore(here, "--references", here / "nothing", output="y") == 1
    assert "MissingPicturesError" in capsys.readouterr().err
