"""Published baselines: loaded, refused or absent with a reason; called in their own range; a seed gives one picture.

spandrel itself is needed by the slow test only.
"""

import re
import sys
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib.errors import WeightsError
from lib.models import weight_files
from lib.restoration import baselines

SIZE = 16
SIGNS = {"GFPGAN": "toRGB.0.weight", "CodeFormer": "position_emb"}  # a tensor that tells the architecture


class Negative(torch.nn.Module):
    """A restorer whose output shows the range of its input, with noise as GFPGAN's."""

    noise = 0.0

    def forward(self, x):
        return -x + self.noise * torch.randn(x.shape), None


class Loader:
    """Replaces spandrel.ModelLoader, as far as it is used."""

    def load_from_state_dict(self, state):
        found = [arm for arm, sign in SIGNS.items() if sign in state]
        if not found:
            raise ValueError("no such architecture")
        size = SimpleNamespace(check=lambda width, height: (width, height) == (SIZE, SIZE))
        return SimpleNamespace(model=Negative(), architecture=SimpleNamespace(id=found[0]), size_requirements=size)


@pytest.fixture
def spandrel(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", SimpleNamespace(ModelLoader=Loader, canonicalize_state_dict=dict))
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", SimpleNamespace(install=lambda ignore_duplicates: None))


def file_of(folder, arm, holds=None):
    """A file under the published name of an arm, with the weights below BasicSR's key."""
    folder.mkdir(exist_ok=True)
    file = folder / baselines.PUBLISHED[arm][0]
    torch.save({"params_ema": {SIGNS[holds or arm]: torch.zeros(2)}}, file)
    return file


@pytest.fixture
def both(tmp_path, spandrel):
    for arm in SIGNS:
        file_of(tmp_path / "weights", arm)
    return baselines.open_baselines(tmp_path / "weights", SIZE)


def test_the_files_of_a_folder_are_loaded_and_hashed(both, tmp_path):
    assert list(both.networks) == list(baselines.PUBLISHED) == list(SIGNS) and not both.absent
    assert both.files == {
        arm: weight_files.sha256(tmp_path / "weights" / file) for arm, (file, *_) in baselines.PUBLISHED.items()
    }
    assert not any(network.training for network in both.networks.values())


def test_networks_read_and_write_their_own_range(both):
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored = baselines.restore(both, x, seeds=2)
    assert list(restored) == list(SIGNS) and restored["GFPGAN"].shape == (2, 2, 3, SIZE, SIZE)
    assert torch.allclose(
        restored["CodeFormer"][1], -x
    )  # handed [0, 1] as spandrel's wrapper does, it would be (1 - x) / 2 - 1 off
    assert baselines.restore(both, 3 * x)["GFPGAN"].abs().max() == 1


def test_a_seed_gives_one_picture_and_leaves_the_global_generator_alone(both, monkeypatch):
    monkeypatch.setattr(Negative, "noise", 0.1)
    x = torch.zeros(3, 3, SIZE, SIZE)
    torch.manual_seed(5)
    was = torch.get_rng_state()
    restored = baselines.restore(both, x, seeds=2)["GFPGAN"]
    assert torch.equal(torch.get_rng_state(), was)
    assert torch.equal(restored[:1, :2], baselines.restore(both, x[:2])["GFPGAN"])
    assert len({float(picture.sum()) for batch in restored for picture in batch}) == 6


def test_an_absent_baseline_has_a_reason_with_its_address(tmp_path, spandrel):
    file_of(tmp_path / "weights", "GFPGAN")
    found = baselines.open_baselines(tmp_path / "weights", SIZE)
    assert list(found.networks) == ["GFPGAN"] and list(found.absent) == ["CodeFormer"]
    assert re.search(
        r"not here: .*codeformer.pth \(377 MB, https://github.com/sczhou/CodeFormer/releases/\S+/codeformer.pth\)",
        found.absent["CodeFormer"],
    )
    nothing = baselines.open_baselines(tmp_path / "nowhere", SIZE)
    assert not nothing.networks and list(nothing.absent) == list(SIGNS)
    assert baselines.open_baselines("", SIZE) == baselines.NONE and not baselines.restore(
        nothing, torch.zeros(1, 3, SIZE, SIZE)
    )


def test_another_size_and_a_missing_library_are_reasons(both, tmp_path, monkeypatch):
    assert baselines.open_baselines(tmp_path / "weights", 32).absent == dict.fromkeys(
        SIGNS, "restores other sizes than 32 px"
    )
    monkeypatch.setitem(sys.modules, "spandrel", None)  # as where it is not installed
    absent = baselines.open_baselines(tmp_path / "weights", SIZE).absent
    assert list(absent) == list(SIGNS) and all(
        "spandrel cannot be imported" in why and "pip install -e '.[full]'" in why for why in absent.values()
    )


def test_a_table_has_a_row_for_each_absent_baseline(both):
    table = pd.DataFrame({"identity": [0.5, 0.7, 0.9]}, ["input", "blind", "dual pivot"])
    assert baselines.with_absent(table, both) is table
    assert baselines.explain_absent(both) == ""
    absent = baselines.Baselines({}, {"GFPGAN": "not here"}, {})
    noted = baselines.with_absent(table, absent)
    assert list(noted.index) == ["input", "GFPGAN", "blind", "dual pivot"] and list(noted.note) == [
        "",
        "absent: see above",
        "",
        "",
    ]
    assert baselines.explain_absent(absent) == "GFPGAN is absent: not here"
    assert noted.identity["blind"] == 0.7 and noted.identity["GFPGAN"] == ""


def test_a_file_of_something_else_is_refused(tmp_path, spandrel):
    file = file_of(tmp_path / "weights", "GFPGAN", holds="CodeFormer")
    with pytest.raises(WeightsError, match="not GFPGAN.*holds CodeFormer.*Remedy.*GFPGANv1.4.pth"):
        baselines.open_baselines(tmp_path / "weights", SIZE)
    torch.save({"stranger": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="not GFPGAN.*no such architecture.*Remedy"):
        baselines.open_baselines(tmp_path / "weights", SIZE)
    file.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page.*Remedy"):
        baselines.open_baselines(tmp_path / "weights", SIZE)


@pytest.mark.slow
def test_the_published_layouts_by_spandrel_itself(tmp_path):
    """Both architectures at their real size with random weights, loaded as a user's files. Needs the `full` extra."""
    gfpgan, codeformer = (
        import_module("spandrel.architectures.GFPGAN").GFPGAN,
        import_module("spandrel_extra_arches").architectures.CodeFormer.CodeFormer,
    )
    torch.manual_seed(0)
    made = {
        "GFPGAN": gfpgan(
            out_size=512, channel_multiplier=2, fix_decoder=False, input_is_latent=True, different_w=True, sft_half=True
        ),
        "CodeFormer": codeformer(),
    }
    for arm, network in made.items():
        file = tmp_path / baselines.PUBLISHED[arm][0]
        torch.save({"params_ema": network.state_dict()}, file)
        assert (
            abs(file.stat().st_size / 1e6 - int(baselines.PUBLISHED[arm][1].split()[0])) < 1
        )  # as large as the published file
    found = baselines.open_baselines(tmp_path, 512)
    assert list(found.networks) == list(made) and list(baselines.open_baselines(tmp_path, 128).absent) == list(made)
    x = torch.rand(1, 3, 512, 512) * 2 - 1
    for arm, pictures in baselines.restore(found, x).items():
        torch.manual_seed(0)
        assert torch.equal(pictures[0], made[arm].eval()(x)[0].clamp(-1, 1))
