"""Landmarks found by insightface's class: near the truth of drawn people, in pixels of the crop, named errors."""
import numpy as np
import pytest
import torch
from tiny_pack import write_recogniser

from lib import judges, landmarker, people
from lib.errors import PackError, PictureError
from lib.faces import to_tensor
from lib.quality import landmark_error


@pytest.fixture(scope="module")
def crowd():
    some = people.people_of("test", 24, start=200)
    drawn = people.render([(p, p.shot(3)) for p in some])
    return to_tensor(drawn.pictures), torch.from_numpy(drawn.landmarks).double()


def test_landmarks_of_people_never_trained_on_lie_near_the_truth(crowd):
    found = landmarker.find_landmarks(crowd[0])
    assert found.shape == (24, 68, 2) and found.dtype == torch.float64
    assert landmark_error(found, crowd[1]) < 0.035 and (found - crowd[1]).mean((0, 1)).abs().max() < 0.4  # pixels: no half pixel lost


def test_the_error_by_hand(crowd):
    truth = crowd[1][:2]
    assert landmark_error(truth + torch.tensor([0.0, 2.0]), truth) == pytest.approx(float((2 / (
        truth[:, 42:48].mean(1) - truth[:, 36:42].mean(1)).square().sum(1).sqrt()).mean()))


def test_they_are_in_pixels_of_the_crop_whatever_its_size(crowd):
    large = torch.nn.functional.interpolate(crowd[0][:6], 256, mode="bilinear", antialias=True).clamp(-1, 1)
    assert landmark_error(landmarker.find_landmarks(large) / 2, landmarker.find_landmarks(crowd[0][:6])) < 0.015


def test_a_face_does_not_depend_on_its_batch(crowd):
    together, alone = landmarker.find_landmarks(crowd[0][:3]), landmarker.find_landmarks(crowd[0][1:2])
    assert torch.allclose(together[1], alone[0], atol=1e-3)


def test_crops_carry_their_landmarks_with_them():
    """A white dot at a landmark is found where the crop's landmark says."""
    g = torch.Generator().manual_seed(0)
    marks = ((0.6 * torch.rand(4, 68, 2, generator=g) - 0.3 + 1) * 64).floor().add(0.5) / 64 - 1
    x = torch.full((4, 3, 128, 128), -1.0)
    for n, (column, row) in enumerate(((marks[:, 0] + 1) * 64).floor().long()):
        x[n, :, row, column] = 1
    crops, points = judges.face_crops(x, marks, g)
    side = (torch.arange(192) + 0.5) / 96 - 1
    light = crops[:, 0] + 1
    middle = torch.stack([(light.sum(1) * side).sum(1), (light.sum(2) * side).sum(1)], 1) / light.sum((1, 2))[:, None]
    assert torch.allclose(middle, points[:, 0], atol=2e-3)


def test_named_errors(tmp_path, crowd):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    other = write_recogniser(tmp_path / "recogniser.onnx", np.zeros((3 * 112 * 112, 8)))
    for model in (tmp_path / "absent.onnx", tmp_path / "broken.onnx", other):
        with pytest.raises(PackError, match="Remedy"):
            landmarker.find_landmarks(crowd[0][:1], model)
    with pytest.raises(PictureError, match="Remedy"):
        landmarker.find_landmarks(crowd[0][:, :, :64])
