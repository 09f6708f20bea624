"""The run record: strict, whole or not at all, and the only source of tables."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lib import paths
from lib.errors import RecordError
from lib.runs import record


def one(folder, psnr=(20.0, 21.0), seed=7):
    made = record.Record("03_arms", {"STEPS": 50, "GAMMA": 0.5}, seed=seed, device="cpu")
    for shot, value in enumerate(psnr):
        made.add(picture=f"people:9/{shot}", arm="dual", psnr=value)
    made.loaded["system"] = "0123456789abcdef"
    made.write(folder)
    return folder / record.FILE


def test_a_record_reads_back_as_it_was_written(tmp_path):
    found = record.read(one(tmp_path))
    assert found["parameters"] == {"STEPS": 50, "GAMMA": 0.5} and found["seed"] == 7 and found["device"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__
    assert [row["psnr"] for row in found["metrics"]] == [20.0, 21.0]
    assert set(found) == {*record.FIELDS, "loaded"} and found["loaded"] == {"system": "0123456789abcdef"}


def test_numbers_of_numpy_and_torch_become_plain(tmp_path):
    row = {"a": np.float32(0.5), "b": torch.tensor(3), "c": np.bool_(True), "d": (np.int64(1), None)}
    record.write_json(tmp_path / "x.json", row)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 0.5, "b": 3, "c": True, "d": [1, None]}


@pytest.mark.parametrize(
    "value", [float("nan"), float("-inf"), np.float32("inf"), torch.tensor(float("nan")), {1: 2}, {1, 2}, np.ones(2)]
)
def test_what_json_does_not_have_is_refused_with_its_place_and_nothing_written(tmp_path, value):
    made = record.Record("x", {}, 0, "cpu")
    made.add(picture="p", lpips=value)
    with pytest.raises(RecordError, match=r"metrics\[0\]: lpips"):
        made.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_stages_add_up_even_when_they_fail():
    made = record.Record("x", {}, 0, "cpu")
    for _ in range(2):
        with pytest.raises(KeyError), made.stage("tune"):
            time.sleep(0.02)
            raise KeyError
    assert set(made.seconds) == {"tune"} and 0.04 <= made.seconds["tune"] < 1


def test_the_peak_of_memory_is_in_bytes_and_keeps_what_was_freed(tmp_path):
    """In a process of its own: what earlier tests took would hide it."""
    script = "import numpy as np; from lib import record; a = record.peak_memory(); np.ones(900_000_000 // 8); print(record.peak_memory() - a)"
    grown = subprocess.run(
        [sys.executable, "-c", script], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert 400e6 < float(grown) < 1000e6
    assert record.read(one(tmp_path))["peak_memory"] >= 100e6


def test_commit_says_why_when_git_cannot_tell(tmp_path, monkeypatch):
    here = record.commit()
    assert here["id"] is None and here["reason"] or len(here["id"]) == 40 and here["dirty"] in (True, False)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert record.commit()["id"] is None and "not a git repository" in record.commit()["reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record.commit() == {"id": None, "reason": "git is not installed"}


def test_the_run_folder_is_the_runners_or_a_live_one(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path)
    monkeypatch.delenv("WORKBOOK_RUN_FOLDER", raising=False)
    assert record.run_folder("00_x") == tmp_path / "live" / "00_x"
    monkeypatch.setenv("WORKBOOK_RUN_FOLDER", str(tmp_path / "named"))
    assert record.run_folder("00_x") == tmp_path / "named" and (tmp_path / "named").is_dir()


@pytest.mark.parametrize("text", ["", "{", '{"notebook": NaN}', '{"notebook": "x"}', "[]"])
def test_a_broken_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(RecordError, match="record.json"):
        record.read(tmp_path / "record.json")


def test_gather_makes_one_row_for_each_picture(tmp_path):
    one(tmp_path / "b", psnr=(30.0,))
    one(tmp_path / "a")
    table = record.gather(tmp_path)
    assert list(table["run"]) == ["a", "a", "b"] and list(table["psnr"]) == [20.0, 21.0, 30.0]
    assert set(table["STEPS"]) == {50} and set(table["notebook"]) == {"03_arms"}
    with pytest.raises(RecordError, match="No records"):
        record.gather(tmp_path / "nothing")


def test_compare_names_what_differs_by_more_than_the_tolerance(tmp_path):
    a, b = record.read(one(tmp_path / "a")), record.read(one(tmp_path / "b", psnr=(20.0, 21.5)))
    assert (
        record.compare(a, a, 0.0).empty
        and record.compare(a, b, 0.6).empty
        and record.compare(a, b, {"psnr": 0.6}).empty
    )
    (difference,) = record.compare(a, b, 0.4).to_dict("records")
    assert difference == {"row": 1, "metric": "psnr", "a": 21.0, "b": 21.5, "difference": 0.5}
    assert len(record.compare(a, b, {"lpips": 1.0})) == 1
    with pytest.raises(RecordError, match="different rows"):
        record.compare(a, record.read(one(tmp_path / "c", psnr=(20.0,))), 1.0)
