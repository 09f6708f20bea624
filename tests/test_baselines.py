"""Other people's restorers: found, refused or said to be absent; asked in their own range; a seed is a picture. spandrel itself is slow's."""

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
    """A restorer whose answer shows the range it was asked in, with noise as GFPGAN's."""

    noise = 0.0

    def forward(self, x):
        return -x + self.noise * torch.randn(x.shape), None


class Loader:
    """Stands for spandrel.ModelLoader, as far as it is used."""

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
    """The published file of an arm, or what lies under its name; BasicSR's nest around the weights."""
    folder.mkdir(exist_ok=True)
    torch.save({"params_ema": {SIGNS[holds or arm]: torch.zeros(2)}}, file := folder / baselines.PUBLISHED[arm][0])
    return file


@pytest.fixture
def both(tmp_path, spandrel):
    for arm in SIGNS:
        file_of(tmp_path / "weights", arm)
    return baselines.opened(tmp_path / "weights", SIZE)


def test_what_is_here_is_opened_and_its_files_are_known_by_their_hash(both, tmp_path):
    assert list(both.networks) == list(baselines.PUBLISHED) == list(SIGNS) and not both.absent
    assert both.files == {
        arm: weight_files.sha256(tmp_path / "weights" / file) for arm, (file, *_) in baselines.PUBLISHED.items()
    }
    assert not any(network.training for network in both.networks.values())


def test_networks_are_asked_in_their_own_range_and_answers_keep_it(both):
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    restored = baselines.restore(both, x, seeds=2)
    assert list(restored) == list(SIGNS) and restored["GFPGAN"].shape == (2, 2, 3, SIZE, SIZE)
    assert torch.allclose(
        restored["CodeFormer"][1], -x
    )  # handed [0, 1] as spandrel's wrapper does, it would be (1 - x) / 2 - 1 off
    assert baselines.restore(both, 3 * x)["GFPGAN"].abs().max() == 1


def test_a_seed_is_a_picture_and_nobody_elses_draws_are_moved(both, monkeypatch):
    monkeypatch.setattr(Negative, "noise", 0.1)
    x = torch.zeros(3, 3, SIZE, SIZE)
    torch.manual_seed(5)
    was = torch.get_rng_state()
    restored = baselines.restore(both, x, seeds=2)["GFPGAN"]
    assert torch.equal(torch.get_rng_state(), was)
    assert torch.equal(restored[:1, :2], baselines.restore(both, x[:2])["GFPGAN"])
    assert len({float(picture.sum()) for batch in restored for picture in batch}) == 6


def test_what_is_absent_says_what_is_missing_and_where_it_is_to_be_had(tmp_path, spandrel):
    file_of(tmp_path / "weights", "GFPGAN")
    found = baselines.opened(tmp_path / "weights", SIZE)
    assert list(found.networks) == ["GFPGAN"] and list(found.absent) == ["CodeFormer"]
    assert re.search(
        r"not here: .*codeformer.pth \(377 MB, https://github.com/sczhou/CodeFormer/releases/\S+/codeformer.pth\)",
        found.absent["CodeFormer"],
    )
    nothing = baselines.opened(tmp_path / "nowhere", SIZE)
    assert not nothing.networks and list(nothing.absent) == list(SIGNS)
    assert baselines.opened("", SIZE) == baselines.NONE and not baselines.restore(
        nothing, torch.zeros(1, 3, SIZE, SIZE)
    )


def test_another_size_and_a_missing_library_are_said(both, tmp_path, monkeypatch):
    assert baselines.opened(tmp_path / "weights", 32).absent == dict.fromkeys(SIGNS, "restores other sizes than 32 px")
    monkeypatch.setitem(sys.modules, "spandrel", None)  # as where it is not installed
    absent = baselines.opened(tmp_path / "weights", SIZE).absent
    assert list(absent) == list(SIGNS) and all(
        "spandrel cannot be imported" in why and "pip install -e '.[full]'" in why for why in absent.values()
    )


def test_a_table_has_a_row_for_what_is_absent(both, capsys):
    table = pd.DataFrame({"identity": [0.5, 0.7, 0.9]}, ["input", "blind", "dual pivot"])
    assert baselines.with_absent(table, both) is table
    noted = baselines.with_absent(table, baselines.Baselines({}, {"GFPGAN": "not here"}, {}))
    assert list(noted.index) == ["input", "GFPGAN", "blind", "dual pivot"] and list(noted.note) == [
        "",
        "absent: see above",
        "",
        "",
    ]
    assert capsys.readouterr().out == "GFPGAN is absent: not here\n"
    assert noted.identity["blind"] == 0.7 and noted.identity["GFPGAN"] == ""


def test_a_file_of_something_else_is_refused(tmp_path, spandrel):
    file = file_of(tmp_path / "weights", "GFPGAN", holds="CodeFormer")
    with pytest.raises(WeightsError, match="not GFPGAN.*holds CodeFormer.*Remedy.*GFPGANv1.4.pth"):
        baselines.opened(tmp_path / "weights", SIZE)
    torch.save({"stranger": torch.zeros(2)}, file)
    with pytest.raises(WeightsError, match="not GFPGAN.*no such architecture.*Remedy"):
        baselines.opened(tmp_path / "weights", SIZE)
    file.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page.*Remedy"):
        baselines.opened(tmp_path / "weights", SIZE)


@pytest.mark.slow
def test_the_published_layouts_by_spandrel_itself(tmp_path):
    """Needs the `full` extra: both architectures at their real size, with random weights, through the code a user runs."""
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
        torch.save({"params_ema": network.state_dict()}, file := tmp_path / baselines.PUBLISHED[arm][0])
        assert (
            abs(file.stat().st_size / 1e6 - int(baselines.PUBLISHED[arm][1].split()[0])) < 1
        )  # as large as the published file
    found = baselines.opened(tmp_path, 512)
    assert list(found.networks) == list(made) and list(baselines.opened(tmp_path, 128).absent) == list(made)
    x = torch.rand(1, 3, 512, 512) * 2 - 1
    for arm, pictures in baselines.restore(found, x).items():
        torch.manual_seed(0)
        assert torch.equal(pictures[0], made[arm].eval()(x)[0].clamp(-1, 1))
