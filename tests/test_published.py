"""The adapter of pyiqa, before a stand-in that is as strict as pyiqa 0.1.16 about ranges, batches and arguments."""

import types
from urllib.error import URLError

import numpy as np
import pytest
import tiny_system
import torch
from skimage.filters import sobel

from lib.errors import PictureError, WeightsError
from lib.images import to_uint8
from lib.metrics import pyiqa_metrics, registry, sets
from lib.people.picture_files import load_picture

COMPARE = ("lpips", "dists", "msswd")


class StandIn:
    """What `pyiqa.create_metric` gives, with a value that shows what came in."""

    def __init__(self, name, check_input_range=True):
        self.name, self.check = name, check_input_range

    def __call__(self, x, y=None, **options):
        if self.name == "fid":
            return sum(load_picture(file).mean() for folder in (x, y) for file in self._files(folder)) * (-1) ** (
                options["distance_type"] == "mmd"
            )
        assert (y is not None) == (self.name in COMPARE)
        assert not self.check or all(0 <= one.min() and one.max() <= 1 for one in (x, y) if one is not None)
        assert self.name != "qalign" or len(x) == 1, "Currently, only support batch size 1."
        assert len(x) <= pyiqa_metrics.BATCH and min(x.shape[2:]) >= 32
        return (x.mean((1, 2, 3)) if y is None else (x - 2 * y).mean((1, 2, 3))).double()[:, None]

    def _files(self, folder):
        return sorted(pyiqa_metrics.Path(folder).iterdir())


@pytest.fixture
def made(monkeypatch):
    """A pyiqa of stand-ins; the names of the networks that were made."""
    names = []
    monkeypatch.setattr(pyiqa_metrics, "find_spec", lambda name: name)
    monkeypatch.setattr(
        pyiqa_metrics,
        "import_module",
        lambda name: types.SimpleNamespace(
            create_metric=lambda name, **options: names.append(name) or StandIn(name, **options)
        ),
    )
    pyiqa_metrics._network.cache_clear()
    yield names
    pyiqa_metrics._network.cache_clear()


def pictures(count, seed=0, size=64):
    return tiny_system.pictures(count, seed, size)


@pytest.mark.parametrize(
    "name", [name for name, metric in registry.TABLE.items() if metric.package and name != "ea_dists"]
)
def test_pyiqa_is_given_pictures_from_0_to_1_in_its_order_and_batches(made, name):
    x, y = pictures(11), pictures(11, 1)
    table = registry.measure_all(x, y, only=(name,))
    here, there = ((one.numpy() + 1) / 2 for one in (x, y))
    by_hand = (here - 2 * there if name in COMPARE else here).mean((1, 2, 3))
    assert set(table.reason) == {""} and np.allclose(table.value, by_hand, atol=1e-6)
    assert (name in COMPARE) == (registry.TABLE[name].needs == ("ground_truth",))
    if name not in COMPARE:
        assert np.allclose(registry.measure_all(x, only=(name,)).value, by_hand, atol=1e-6)
    assert made == [name]  # a network is made once


def test_edges_are_those_of_scikit_image():
    x = (pictures(2) + 1) / 2
    found = pyiqa_metrics.edges(x)
    grey = (x.numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    by_skimage = (
        np.stack([sobel(one, mode="nearest") for one in grey]) * 4 * 2**0.5
    )  # it divides the kernel by 4, the magnitude by root 2
    assert found.shape == x.shape and np.allclose(found.numpy(), by_skimage[:, None], atol=1e-5)


def test_edge_aware_dists_is_dists_of_pictures_and_of_edges(made):
    x, y = pictures(9), pictures(9, 1)
    here, there = ((one + 1) / 2 for one in (x, y))
    by_hand = (here - 2 * there).mean((1, 2, 3)) + (pyiqa_metrics.edges(here) - 2 * pyiqa_metrics.edges(there)).mean(
        (1, 2, 3)
    )
    assert pyiqa_metrics.edges(here).max() > 0 and torch.allclose(
        pyiqa_metrics.score("ea_dists", x, y), by_hand, atol=1e-5
    )
    bright = pictures(1).sign()
    assert (
        pyiqa_metrics.edges((bright + 1) / 2).max() > 1
        and pyiqa_metrics.score("ea_dists", bright, -bright).isfinite().all()
    )


def test_inception_reads_every_picture_from_a_folder(made):
    x, y = pictures(3), pictures(4, 1)
    table = sets.distribution(x, y, inception=True).set_index("metric")
    light = sum(to_uint8(one).mean((1, 2, 3)).sum() for one in (x, y))
    assert table.value["FID"] == pytest.approx(light) and table.value["KID"] == pytest.approx(-light)
    assert "3 pictures for 2048 dimensions" in table.warning["FID"] and made == ["fid"]


def test_what_is_absent_says_what_to_install_or_fetch(made, monkeypatch):
    x = pictures(2)
    monkeypatch.setattr(
        pyiqa_metrics,
        "import_module",
        lambda name: types.SimpleNamespace(
            create_metric=lambda name, **_: (_ for _ in ()).throw(URLError("Name or service not known"))
        ),
    )
    table = registry.measure_all(x, x, only=("lpips", "ea_dists", "psnr"))
    why = table.groupby("metric").reason.first()
    assert all(
        "URLError" in why[name] and "Remedy: let it fetch its weights" in why[name] for name in ("lpips", "ea_dists")
    )
    assert why.psnr == "" and table[table.metric != "psnr"].value.isna().all()
    monkeypatch.setattr(pyiqa_metrics, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"not installed.*Remedy.*pip install -e '\.\[full\]'"):
        pyiqa_metrics.score("niqe", x)
    with pytest.raises(WeightsError, match="not installed.*Remedy"):
        sets.distribution(x, x, inception=True)


def test_what_pyiqa_refuses_or_leaves_without_a_number_has_a_reason(made, monkeypatch):
    with pytest.raises(PictureError, match="niqe: pyiqa refuses the pictures .AssertionError.*Remedy"):
        pyiqa_metrics.score("niqe", pictures(2, size=24))
    monkeypatch.setattr(StandIn, "__call__", lambda self, x: torch.tensor([3.0, float("nan")]))
    table = registry.measure_all(pictures(2), only=("niqe",))
    assert (
        table.value[0] == 3
        and table.reason[0] == ""
        and table.reason[1].startswith("restored, picture 1: pyiqa gives no number. Remedy")
    )
