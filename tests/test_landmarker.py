"""Landmarks of aligned crops through insightface's classes: near the ground truth of drawn people; named errors."""

import numpy as np
import pytest
import torch
from onnx import helper
from tiny_pack import POINTS, _save, write_detector, write_recogniser

from lib.errors import PackError, PictureError
from lib.images import to_tensor
from lib.metrics import landmark_detection
from lib.people import procedural
from lib.studies.release_checks import landmark_error
from lib.training import evaluation_pretraining


@pytest.fixture(scope="module")
def crowd():
    some = procedural.people_of("test", 24, start=200)
    drawn = procedural.render([(p, p.shot(3)) for p in some])
    return to_tensor(drawn.pictures), torch.from_numpy(drawn.landmarks).double()


def test_landmarks_of_people_never_trained_on_lie_near_the_truth(crowd):
    found = landmark_detection.find_landmarks(crowd[0])
    assert found.shape == (24, 68, 2) and found.dtype == torch.float64
    assert (
        landmark_error(found, crowd[1]) < 0.035 and (found - crowd[1]).mean((0, 1)).abs().max() < 0.4
    )  # pixels: no half pixel lost


def test_the_error_by_hand(crowd):
    truth = crowd[1][:2]
    assert landmark_error(truth + torch.tensor([0.0, 2.0]), truth) == pytest.approx(
        float((2 / (truth[:, 42:48].mean(1) - truth[:, 36:42].mean(1)).square().sum(1).sqrt()).mean())
    )


def test_they_are_in_pixels_of_the_crop_whatever_its_size(crowd):
    large = torch.nn.functional.interpolate(crowd[0][:6], 256, mode="bilinear", antialias=True).clamp(-1, 1)
    assert (
        landmark_error(landmark_detection.find_landmarks(large) / 2, landmark_detection.find_landmarks(crowd[0][:6]))
        < 0.02
    )


def test_a_face_does_not_depend_on_its_batch(crowd):
    together, alone = landmark_detection.find_landmarks(crowd[0][:3]), landmark_detection.find_landmarks(crowd[0][1:2])
    assert torch.allclose(together[1], alone[0], atol=1e-3)


def test_where_there_is_no_face_there_are_no_points(crowd):
    x = crowd[0][:3].clone()
    x[1] = 0.1
    found = landmark_detection.find_landmarks(x)
    assert found.isnan().flatten(1).all(1).tolist() == [False, True, False] and found[[0, 2]].isfinite().all()


def write_landmarks(path, points, size=192):
    """A landmark model that returns the same points (K, 2) for every picture."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "points"], ["y"]),
    ]
    weights = {
        "none": np.zeros((3 * size * size, points.size), np.float32),
        "points": points.astype(np.float32).reshape(1, -1),
    }
    return _save(path, nodes, [("x", ["n", 3, size, size])], [("y", ["n", points.size])], weights)


@pytest.fixture
def red_face():
    """A crop with a red cell, and that cell's left top corner, about which tiny_pack's detector has a box of 180 px."""
    x = torch.full((1, 3, 128, 128), -1.0)
    x[0, 0, 48:64, 64:80] = 1
    assert POINTS.shape == (5, 2)
    return x, torch.tensor([64.0, 48.0])


def test_points_lie_where_a_model_says_in_the_box_that_was_found(tmp_path, red_face):
    """-1 and 1 are the edges of one and a half boxes about the box's middle, by a pack and by a file."""
    rng, (x, middle) = np.random.default_rng(0), red_face
    points = rng.uniform(-1, 1, (68, 2))
    write_detector(tmp_path / "pack")
    write_landmarks(tmp_path / "pack" / "points.onnx", points)
    middle, half = middle.numpy() + 0.5, 90.0
    found = landmark_detection.find_landmarks(x, tmp_path / "pack")[0].numpy()
    assert np.abs(found - (middle + points * 1.5 * half)).max() < 0.6
    small = write_landmarks(tmp_path / "small.onnx", points, size=112)
    found = landmark_detection.find_landmarks(x, tmp_path / "pack", small)[0].numpy()
    assert np.abs(found - (middle + points * 1.5 * half)).max() < 0.6


def test_of_106_points_the_68_are_taken(tmp_path, red_face):
    points = np.random.default_rng(1).uniform(-1, 1, (106, 2))
    for name, some in (("all", points), ("some", points[list(landmark_detection.FROM_106)])):
        write_detector(tmp_path / name)
        write_landmarks(tmp_path / name / "points.onnx", some)
    assert len(set(landmark_detection.FROM_106)) == 68 and set(landmark_detection.FROM_106) < set(range(106))
    a, b = (landmark_detection.find_landmarks(red_face[0], tmp_path / name) for name in ("all", "some"))
    assert torch.allclose(a, b) and a.isfinite().all()


def test_crops_carry_their_landmarks_with_them():
    """A white dot at a landmark is found where the crop's landmark says."""
    g = torch.Generator().manual_seed(0)
    marks = ((0.6 * torch.rand(4, 68, 2, generator=g) - 0.3 + 1) * 64).floor().add(0.5) / 64 - 1
    x = torch.full((4, 3, 128, 128), -1.0)
    for n, (column, row) in enumerate(((marks[:, 0] + 1) * 64).floor().long()):
        x[n, :, row, column] = 1
    crops, points = evaluation_pretraining.face_crops(x, marks, g)
    side = (torch.arange(192) + 0.5) / 96 - 1
    light = crops[:, 0] + 1
    middle = torch.stack([(light.sum(1) * side).sum(1), (light.sum(2) * side).sum(1)], 1) / light.sum((1, 2))[:, None]
    assert torch.allclose(middle, points[:, 0], atol=2e-3)


def test_named_errors(tmp_path, crowd):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    other = write_recogniser(tmp_path / "recogniser.onnx", np.zeros((3 * 112 * 112, 8)))
    many = write_landmarks(tmp_path / "many.onnx", np.zeros((98, 2)))
    for model in (tmp_path / "absent.onnx", tmp_path / "broken.onnx", other, many):
        with pytest.raises(PackError, match="Remedy"):
            landmark_detection.find_landmarks(crowd[0][:1], model=model)
    with pytest.raises(PackError, match="No landmark model in the pack.*Remedy"):
        landmark_detection.find_landmarks(crowd[0][:1], write_detector(tmp_path / "detector only"))
    with pytest.raises(PictureError, match="Remedy"):
        landmark_detection.find_landmarks(crowd[0][:, :, :64])
