"""Embeddings: what a linear recogniser must give in closed form, the published crop, and named errors."""

import cv2
import numpy as np
import pytest
import torch
from insightface.utils import face_align
from onnx import helper
from tiny_pack import _save, write_detector, write_recogniser

from lib import errors, images
from lib.metrics import identity
from lib.people import alignment


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).normal(size=(3 * 112 * 112, 16))


@pytest.fixture(scope="module")
def file(tmp_path_factory, matrix):
    return write_recogniser(tmp_path_factory.mktemp("pack") / "rec.onnx", matrix)


def crops(count, size, seed=0):
    return images.to_tensor(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))


def by_hand(pictures, matrix, size=112):
    """Of what insightface's template shows of aligned crops: RGB, ArcFace's scaling."""
    return of_crops(
        images.to_tensor(np.stack([identity._arcface_crop(p, size) for p in images.to_uint8(pictures)])), matrix
    )


def of_crops(pictures, matrix):
    features = torch.as_tensor(images.to_uint8(pictures)).permute(0, 3, 1, 2).double().flatten(1) / 127.5 - 1
    features = features @ torch.as_tensor(matrix)
    return (features / features.norm(dim=1, keepdim=True)).float()


def test_embeddings_are_the_networks_output_made_unit(file, matrix):
    pictures = crops(5, 112)
    got = identity.embed(pictures, file, batch=2)
    assert got.shape == (5, 16) and got.dtype == torch.float32
    assert torch.allclose(got, by_hand(pictures, matrix), atol=1e-4)
    assert torch.allclose(got.norm(dim=1), torch.ones(5), atol=1e-6)


def test_batches_do_not_change_embeddings_even_where_the_file_fixes_them(file, matrix, tmp_path):
    pictures, one = crops(5, 128), write_recogniser(tmp_path / "one.onnx", matrix, batch=1)
    together = identity.embed(pictures, file)
    apart = torch.cat([identity.embed(picture[None], file) for picture in pictures])
    assert torch.allclose(together, apart, atol=1e-5) and torch.allclose(
        identity.embed(pictures, one), apart, atol=1e-5
    )


def test_a_recogniser_of_another_input_size(tmp_path):
    weights = np.random.default_rng(1).normal(size=(3 * 64 * 64, 8))
    small = write_recogniser(tmp_path / "small.onnx", weights, size=64)
    assert torch.allclose(identity.embed(crops(2, 128), small), by_hand(crops(2, 128), weights, 64), atol=1e-4)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_template_crops_reach_the_published_template(tmp_path, size):
    """Each of five outputs is the brightness about one of insightface's points, which a spot on our template raises."""
    y, x = np.indices((112, 112))
    probes = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / 8) for px, py in face_align.arcface_dst]
    probe = write_recogniser(tmp_path / "probe.onnx", np.stack([np.stack([p] * 3).ravel() for p in probes], 1))
    y, x = np.indices((size, size))
    spots = [200 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (size / 30) ** 2) for px, py in alignment.template(size)]
    lit = [
        identity.embed(images.to_tensor((20 + spot[..., None].repeat(3, 2)).round().astype(np.uint8)), probe)
        for spot in spots
    ]
    dark = identity.embed(images.to_tensor(np.full((size, size, 3), 20, np.uint8)), probe)
    gain = torch.cat(lit) - dark  # (5 spots, 5 probes)
    assert gain.argmax(dim=1).tolist() == [0, 1, 2, 3, 4] and gain.diagonal().min() > 0.3


def test_the_fixed_crop_is_insightfaces_own(file, matrix):
    """Embedding a crop is embedding what insightface's `norm_crop` makes of it, given exact landmarks."""
    smooth = cv2.GaussianBlur(images.to_uint8(crops(1, 128))[0], (0, 0), 3)
    smooth = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    with pytest.warns(FutureWarning):  # scikit-image's, which lib.metrics.identity must not let through
        theirs = face_align.norm_crop(smooth, alignment.template(128).astype(np.float32))
    half = cv2.warpAffine(theirs, np.array([[1, 0, 0.5], [0, 1, 0.5]]), (112, 112))
    cosines = [
        (identity.embed(images.to_tensor(smooth), file) @ of_crops(images.to_tensor(one[None]), matrix).T).item()
        for one in (theirs, half)
    ]
    assert cosines[0] > 0.998 > 0.99 > cosines[1], cosines  # and half a pixel off would show


def test_a_pack_folder_gives_its_recogniser(tmp_path, matrix):
    write_detector(tmp_path / "models" / "mine")
    write_recogniser(tmp_path / "models" / "mine" / "rec.onnx", matrix)
    got = identity.embed(crops(2, 112), "mine", root=tmp_path)
    assert torch.allclose(got, by_hand(crops(2, 112), matrix), atol=1e-4)


def test_embedding_is_silent(file, capfd, recwarn):
    identity.embed(crops(1, 128), file)
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_packs_without_a_recogniser_are_named(tmp_path, matrix):
    write_detector(tmp_path / "detector only")
    write_recogniser(tmp_path / "recogniser only" / "rec.onnx", matrix)
    with pytest.raises(errors.PackError, match="No recogniser in the pack.*detector only.*Remedy"):
        identity.embed(crops(1, 112), tmp_path / "detector only")
    with pytest.raises(errors.PackError, match="needs an SCRFD detector"):
        identity.embed(crops(1, 112), tmp_path / "recogniser only")


def test_missing_and_wrong_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_: pytest.fail("a download was tried"))
    detector = write_detector(tmp_path / "pack") / "det.onnx"
    (tmp_path / "text.onnx").write_text("not a model")
    for pack, said in (
        (tmp_path / "absent.onnx", "No recogniser file"),
        (tmp_path / "absent", "No insightface pack"),
        ("buffalo_l", "No insightface pack"),
        (tmp_path / "text.onnx", "Not a recogniser"),
        (detector, "Not a recogniser"),
    ):
        with pytest.raises(errors.PackError, match=f"{said}.*Remedy"):
            identity.embed(crops(1, 112), pack, root=tmp_path)


@pytest.mark.parametrize(
    "reads, writes", [((1, 112, 112), (4,)), ((3, 112, 96), (4,)), ((3, 112, 112), (1,)), ((3, 112, 112), (4, 4))]
)
def test_a_file_of_the_wrong_shape_is_named(tmp_path, reads, writes):
    size = int(np.prod(reads))
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], ["y"]),
    ]
    weights = {"w": np.ones((size, int(np.prod(writes))), np.float32), "shape": np.array([-1, *writes], np.int64)}
    file = _save(tmp_path / "odd.onnx", nodes, [("x", ["n", *reads])], [("y", ["n", *writes])], weights)
    with pytest.raises(errors.PackError, match="Not a recogniser.*Remedy"):
        identity.embed(crops(1, 112), file)


@pytest.mark.parametrize("name", ["x" * 300, "~nosuchuser/pack", "~nosuchuser/rec.onnx", "a\0b"])
def test_names_that_no_file_system_takes_are_refused(name):
    with pytest.raises(errors.UnsafePathError, match="Remedy"):
        identity.recogniser(name)


def test_useless_embeddings_and_pictures_are_named(tmp_path, file):
    for name, value in (("zero", 0.0), ("nan", float("nan"))):
        with pytest.raises(errors.PackError, match="zero or not finite"):
            identity.embed(
                crops(1, 112), write_recogniser(tmp_path / f"{name}.onnx", np.full((3 * 112 * 112, 4), value))
            )
    with pytest.raises(errors.PictureError, match="square"):
        identity.embed(torch.zeros(1, 3, 64, 96), file)
    with pytest.raises(errors.PictureError, match="no pictures|Not"):
        identity.embed(torch.zeros(0, 3, 64, 64), file)


def test_cosines():
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert torch.allclose(identity.cosine(a, b), torch.tensor([0.96, -1.0]))
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # their mean lies half way
    assert torch.allclose(
        identity.to_references(a / a.norm(dim=1, keepdim=True), references), torch.tensor([1.4, 1.0]) / 2**0.5
    )


@pytest.mark.parametrize("count", identity.LANDMARK_OUTPUTS)
def test_a_landmark_model_is_not_a_recogniser(tmp_path, count):
    file = write_recogniser(tmp_path / "points.onnx", np.ones((3 * 16 * 16, count)), size=16)
    with pytest.raises(errors.PackError, match="Not a recogniser.*landmarks"):
        identity.embed(crops(1, 112), file)


def test_the_shipped_landmark_model_is_not_a_scorer():
    with pytest.raises(errors.PackError, match="Not a recogniser.*people-l.*Remedy"):
        identity.check_scorer(identity.RECOGNISER.with_name("people-l.onnx"), real=False)


def test_a_real_person_needs_a_recogniser_of_real_faces(file, tmp_path):
    copy = tmp_path / "mine.onnx"
    copy.write_bytes(identity.RECOGNISER.read_bytes())
    for scorer in (None, "", "people", identity.RECOGNISER, copy):
        with pytest.raises(errors.PackError, match="No recogniser of real faces.*Remedy"):
            identity.check_scorer(scorer, real=True)
        identity.check_scorer(scorer, real=False)
    identity.check_scorer(file, real=True)
