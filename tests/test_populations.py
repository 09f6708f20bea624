"""FID, KID and the spread over seeds: against closed forms on known embeddings."""

import numpy as np
import pytest
import tiny_system
import torch
from scipy.linalg import sqrtm

from lib.errors import PictureSizeError
from lib.metrics import identity, sets


@pytest.fixture
def as_embeddings(monkeypatch):
    """Pictures (N, 3, 1, D) stand for their own embeddings: the first channel."""
    monkeypatch.setattr(identity, "embed", lambda x, scorer=None: x[:, 0, 0].float())


def crowd(count, shift=0.0, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (shift + scale * torch.randn(count, 1, 1, 4, generator=g, dtype=torch.float64)).expand(count, 3, 1, 4)


def test_fid_is_the_distance_of_two_gaussians(as_embeddings):
    a, b = crowd(400), crowd(300, shift=0.5, scale=1.5, seed=1)
    x, y = a[:, 0, 0].numpy(), b[:, 0, 0].numpy()
    by_hand = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        np.cov(x.T) + np.cov(y.T) - 2 * sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    )
    found = sets.distribution(a, b).set_index("metric")
    assert (
        found.value["FID"] == pytest.approx(by_hand, rel=1e-3)
        and found.warning["FID"] == ""
        and found.pictures["FID"] == 300
    )


def test_kid_is_the_unbiased_distance_of_cubic_kernels(as_embeddings):
    a, b = crowd(60), crowd(60, shift=0.5, scale=1.5, seed=1)
    x, y = a[:, 0, 0].numpy(), b[:, 0, 0].numpy()
    kernel = lambda p, q: (p @ q.T / 4 + 1) ** 3  # noqa: E731
    within = sum((kernel(p, p).sum() - np.trace(kernel(p, p))) / (60 * 59) for p in (x, y))
    found = sets.distribution(a, b).set_index("metric").value["KID"]
    assert found == pytest.approx(within - 2 * kernel(x, y).mean(), rel=1e-4)


def test_sets_of_different_size_give_the_same_number_twice(as_embeddings):
    state = torch.random.get_rng_state()
    first, second = (sets.distribution(crowd(50), crowd(80, seed=1)).value.tolist() for _ in range(2))
    assert first == second and torch.equal(state, torch.random.get_rng_state())


def test_a_crowd_against_itself_and_another(as_embeddings):
    same, alike, other = (
        sets.distribution(crowd(200), x).set_index("metric").value
        for x in (crowd(200), crowd(200, seed=2), crowd(200, shift=1.0, seed=2))
    )
    assert abs(same["FID"]) < 1e-3 < alike["FID"] < 0.2 and other["FID"] > 3
    assert abs(alike["KID"]) < 0.1 and other["KID"] > 10 * abs(
        alike["KID"]
    )  # unbiased: of one crowd with itself it is below zero


def test_few_pictures_are_said_to_be_few(as_embeddings):
    found = sets.distribution(crowd(4), crowd(9)).set_index("metric")
    assert "4 pictures for 4 dimensions" in found.warning["FID"]
    with pytest.raises(PictureSizeError, match="Remedy"):
        sets.distribution(crowd(1), crowd(9))


def test_the_spread_of_seeds():
    x, y = (tiny_system.pictures(3, seed, 128) for seed in (1, 2))
    pixels, angle = sets.spread(torch.stack([x, y]))
    assert torch.allclose(pixels, ((x - y).abs() / 2**0.5).mean((1, 2, 3)) / 2, atol=1e-6)
    assert torch.allclose(angle, identity.degrees(identity.embed(x), identity.embed(y)), atol=0.05)
    none = sets.spread(torch.stack([x, x, x]))
    assert none[0].max() == 0 and none[1].max() < 0.1
    with pytest.raises(PictureSizeError, match="Remedy"):
        sets.spread(x)
