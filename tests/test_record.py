"""The run record: strict, whole or not at all, and the only source of tables."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from lib import paths
from lib.errors import RecordError, UnsafePathError
from lib.runs import folders, parameters, record


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
    script = "import numpy as np; from lib.runs import record; a = record.peak_memory(); np.ones(900_000_000 // 8)"
    script += "; print(record.peak_memory() - a)"
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


NOTEBOOK = "00_start_here"


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """The variables of a kernel in which notebook 00's parameters cell has run, and a clean place to write."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.delenv(folders.RUNNER, raising=False)
    return parameters.resolve(parameters.find(NOTEBOOK))


def test_runs_by_hand_of_two_people_never_meet(variables):
    """Both wrote to runs/live/00_start_here: the second person's weights took the first one's place."""
    ada = record.Record.here(NOTEBOOK, variables)
    bo = record.Record.here(NOTEBOOK, variables | {"PERSON": "people:1249"})
    fewer = record.Record.here(NOTEBOOK, variables | {"TEXTUAL_STEPS": 2})  # its checkpoint would not fit, either
    assert len({ada.folder, bo.folder, fewer.folder}) == 3
    assert all(made.folder.is_dir() and made.folder.parent == paths.RUNS / "live" / NOTEBOOK for made in (ada, bo))
    assert bo.folder.name.startswith("people-1249-")
    assert record.Record.here(NOTEBOOK, dict(variables)).folder == ada.folder  # and a stopped run goes on


def test_a_run_by_hand_has_the_runners_hash_and_the_runner_names_its_own_folder(variables, tmp_path, monkeypatch):
    live = record.Record.here(NOTEBOOK, variables).folder
    assert live.name == folders.folder_of(NOTEBOOK, parameters.resolve(parameters.find(NOTEBOOK))).name
    monkeypatch.setenv(folders.RUNNER, str(tmp_path / "named"))
    assert record.Record.here(NOTEBOOK, variables).folder == tmp_path / "named" and (tmp_path / "named").is_dir()


def test_a_record_knows_its_parameters_and_writes_into_its_folder(variables):
    made = record.Record.here(NOTEBOOK, variables | {"SEED": 3})
    made.write()
    found = record.read(made.folder / record.FILE)
    assert found["seed"] == found["parameters"]["SEED"] == 3 and found["device"] == "cpu"
    assert set(found["parameters"]) == set(parameters.declared(parameters.find(NOTEBOOK)))


def test_a_parameter_changed_after_the_record_was_begun_is_noticed(variables):
    made = record.Record.here(NOTEBOOK, variables)
    variables["PERSON"] = "people:1249"
    with pytest.raises(RecordError, match="PERSON is 'people:1249' now, and was 'people:1009'.*Run All"):
        made.write()
    assert not (made.folder / record.FILE).exists()


def test_an_emptied_folder_holds_nothing_of_an_earlier_run(variables):
    made = record.Record.here(NOTEBOOK, variables)
    (made.emptied("restored") / "old.png").touch()
    assert list(made.emptied("restored").iterdir()) == []
    with pytest.raises(UnsafePathError):
        made.emptied("..")


@pytest.mark.parametrize(
    "text", ["", "{", '{"notebook": NaN}', '{"notebook": "x"}', "[]", '{"a": ' * 3000, "[" * 100_000, "\udcff"]
)
def test_a_broken_record_is_refused(tmp_path, text):
    (tmp_path / "record.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RecordError, match="record.json"):
        record.read(tmp_path / "record.json")


@pytest.mark.parametrize("commit", ["abc", 3, None, {}, {"id": 3}, []])
def test_a_record_with_an_odd_commit_is_refused(tmp_path, commit):
    found = json.loads(one(tmp_path).read_text()) | {"commit": commit}
    (tmp_path / record.FILE).write_text(json.dumps(found))
    with pytest.raises(RecordError, match="commit.*--force"):
        record.read(tmp_path / record.FILE)


def test_a_folder_in_the_place_of_a_record_is_refused(tmp_path):
    (tmp_path / record.FILE).mkdir()
    with pytest.raises(RecordError, match="Cannot read the record"):
        record.read(tmp_path / record.FILE)
