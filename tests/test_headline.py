"""The headline metrics: PSNR in closed form, a perceptual distance and identity by small evaluation networks."""

import math

import numpy as np
import pytest
import tiny_system
import torch
from tiny_pack import write_recogniser

from lib.errors import PackError, WeightsError
from lib.metrics import headline, identity, image
from lib.models import evaluation_networks, export_onnx
from lib.people.alignment import to_arcface


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("networks")
    export_onnx.export_networks(
        folder,
        evaluation_networks.Recogniser(to_arcface()).eval(),
        evaluation_networks.Perceptual(evaluation_networks.Features(4)).eval(),
    )
    return folder


@pytest.fixture
def small_networks(shipped, monkeypatch):
    monkeypatch.setattr(identity, "RECOGNISER", shipped / "people" / "people-r.onnx")
    monkeypatch.setattr(image.perceptual, "__defaults__", (shipped / "people-p.onnx",))


def test_psnr_in_closed_form():
    """Known errors against the range 2, that of [-1, 1]; one number for each picture."""
    a = tiny_system.pictures(4) * 0.5
    errors = torch.tensor([2.0, 0.2, 0.02, 0.001])
    sign = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
    assert torch.allclose(
        image.psnr(a, a + errors[:, None, None, None] * sign), 20 * torch.log10(2 / errors), atol=1e-2
    )
    noisy = a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(image.psnr(a, noisy), torch.full((4,), 10 * math.log10(4 / 0.01)), atol=0.15)
    assert torch.allclose(image.psnr(a, noisy), image.psnr(noisy, a))
    by_hand = [10 * math.log10(4 / float((x - y).square().mean())) for x, y in zip(a, noisy)]
    assert torch.allclose(image.psnr(a, noisy), torch.tensor(by_hand), atol=1e-4)


def test_with_the_ground_truth_all_three_are_measured(small_networks):
    x, y = tiny_system.pictures(3, 1, 128), tiny_system.pictures(3, 2, 128)
    found = headline.headline_values(x, y)
    assert list(found) == ["psnr", "perceptual", "identity"] == list(headline.LABEL)
    vectors = [identity.embed(z, identity.RECOGNISER) for z in (x, y)]
    assert torch.allclose(found["identity"], (vectors[0] * vectors[1]).sum(1), atol=1e-5)
    assert torch.allclose(found["psnr"], image.psnr(x, y))
    same = headline.headline_values(x, x + 1e-4)
    assert same["perceptual"].max() < 0.01 < found["perceptual"].min() and same["identity"].min() > 0.999


def test_without_the_ground_truth_identity_to_the_references_alone(small_networks):
    x, references = tiny_system.pictures(3, 1, 128), tiny_system.pictures(4, 2, 128)
    found = headline.headline_values(x, references=references)
    assert list(found) == ["identity"]
    v, r = (identity.embed(z, identity.RECOGNISER).numpy() for z in (x, references))
    assert np.allclose(found["identity"], v @ r.mean(0) / np.linalg.norm(r.mean(0)), atol=1e-5)


def test_another_recogniser_takes_the_place_of_people_r(tmp_path):
    pack = write_recogniser(tmp_path / "pack.onnx", np.random.default_rng(0).normal(size=(3 * 112 * 112, 8)))
    x = tiny_system.pictures(2, 1, 128)
    assert identity.embed(x, pack).shape == (2, 8)
    found = headline.headline_values(x, references=x, scorer=pack)["identity"]
    assert found.shape == (2,) and found.max() <= 1 + 1e-5


def test_missing_and_broken_networks_are_named(tmp_path, monkeypatch):
    x = tiny_system.pictures(1, size=128)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    for name in ("absent.onnx", "broken.onnx"):
        with pytest.raises(WeightsError, match=f"{name}.*Remedy"):
            image.perceptual(x, x, tmp_path / name)
        monkeypatch.setattr(identity, "RECOGNISER", tmp_path / name)
        with pytest.raises(PackError, match=f"{name}.*Remedy"):
            identity.embed(x)


def test_identity_is_labelled_with_its_recogniser():
    assert headline.labels() == headline.LABEL and headline.labels("a/buffalo.onnx")["identity"] == "identity (buffalo)"


def test_no_small_network_is_called_by_a_published_name():
    names = " ".join(headline.LABEL.values()).lower()
    assert "arcface" not in names and "lpips" not in names and "people-r" in names and "people-p" in names
