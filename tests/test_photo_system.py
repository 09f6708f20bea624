"""The shipped photo system on a photograph that no training saw: scikit-image's astronaut (NASA, public domain)."""

import numpy as np
import pytest
import skimage.data
import yaml

from lib import degrade, load_system, paths, restore
from lib.images import to_tensor
from lib.metrics.image import psnr, sharpness
from lib.people import alignment
from lib.people.picture_files import save_picture
from lib.runs import parameters, record, runner

POINTS = [[203.4, 103.6], [247.5, 104.4], [224.1, 127.7], [204.0, 143.1], [242.9, 143.7]]  # eyes, nose, mouth corners


@pytest.fixture(scope="module")
def B():
    return load_system("data/photo_system")


@pytest.fixture(scope="module")
def face():
    """An aligned crop (1, 3, 128, 128)."""
    matrix = alignment.similarity(np.array(POINTS), alignment.template(128))
    return to_tensor(alignment.warp(skimage.data.astronaut(), matrix, 128))


def test_it_has_the_classes_of_the_tiny_system_and_fits_into_45_mb(B):
    tiny = load_system()
    assert [type(part) for part in B.modules().values()] == [type(part) for part in tiny.modules().values()]
    assert B.size == tiny.size == 128
    files = [file for file in (paths.DATA / "photo_system").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 45e6


def test_its_provenance_says_whose_photographs_it_saw(B):
    said = json_words(B.provenance)
    assert all(word in said for word in ("SFHQ", "Beniaguev", "MIT", "no real face", "do not exist"))
    assert set(B.provenance["stages"]) == {"autoencoder", "cleaner", "G", "G and E", "decoder"}


def json_words(value):
    return " ".join(map(json_words, value.values())) if isinstance(value, dict) else str(value)


def test_its_autoencoder_keeps_a_real_face_and_the_tiny_one_does_not(B, face):
    kept, drawn = (float(psnr(s.decode(s.encode(face)), face)) for s in (B, load_system()))
    assert kept > 29 and kept > drawn + 2


@pytest.mark.parametrize("recipe", ["photo", "photo-heavy"])
def test_its_cleaner_is_nearer_to_the_photograph_than_the_degraded_one(B, face, recipe):
    faces = face.repeat(6, 1, 1, 1)
    degraded = degrade(faces, recipe, range(6))
    assert float((psnr(B.clean(degraded), faces) - psnr(degraded, faces)).mean()) > 1


def test_blind_restoration_is_sharp_and_no_further_from_the_photograph(B, face):
    faces = face.repeat(3, 1, 1, 1)
    degraded = degrade(faces, "photo-heavy", range(3))
    restored = restore(B, degraded, seeds=0, steps=10)
    assert float((psnr(restored, faces) - psnr(degraded, faces)).mean()) > 0
    assert (sharpness(restored) > 1.5 * sharpness(degraded)).all()


def test_a_folder_of_a_real_person_is_restored_by_it_without_a_recogniser(B, face, tmp_path, monkeypatch):
    home = tmp_path / "somebody"
    for k in range(3):
        save_picture(home / "references" / f"{k}.png", face[0].roll(k, 2), synthetic=False)
    save_picture(home / "inputs" / "old.png", degrade(face, "photo", 1)[0], synthetic=False)
    card = {"name": "somebody", "class_noun": "person", "source": "NASA", "terms": "public domain", "real": True}
    (home / "person.yaml").write_text(yaml.safe_dump(card))
    few = {"TEXTUAL_STEPS": "1", "MODEL_STEPS": "1", "SAMPLING_STEPS": "2", "DEGRADATIONS": "1", "BATCH": "1"}
    notebook = parameters.find("00_start_here")
    values = parameters.resolve(notebook, typed=[("PERSON", str(home)), *few.items()])
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    folder, _ = runner.run(notebook, values)
    found = record.read(folder / record.FILE)
    assert found["loaded"] == {"system": B.fingerprint(), "recipe": "photo-heavy"} and found["metrics"] == []
    assert (folder / "restored" / "old-dual-pivot.png").is_file()
    page = (folder / "00_start_here.ipynb").read_text()
    assert "data/photo_system" in page and "identity is not measured" in page
