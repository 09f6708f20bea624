"""The recorded results: complete, of a clean commit, with the time of every stage and of every person."""

import pytest
from PIL import Image

from lib import paths
from lib.runs import record

RECORDS = sorted(paths.RESULTS.glob("*/record.json"))
STUDIES = [file for file in RECORDS if file.parent.name.startswith("04_study")]
PEOPLE = 16


def name(file):
    return file.parent.name


@pytest.mark.parametrize("file", RECORDS, ids=name)
def test_a_recorded_result_is_complete(file):
    found = record.read(file)
    assert set(record.FIELDS) <= found.keys()
    assert found["parameters"] and found["metrics"] and found["peak_memory"] > 0
    assert {"python", "torch", "diffusers"} <= found["versions"].keys()


@pytest.mark.parametrize("file", RECORDS, ids=name)
def test_a_recorded_result_is_of_a_clean_commit(file):
    commit = record.read(file)["commit"]
    assert len(commit["id"] or "") == 40 and commit["dirty"] is False


@pytest.mark.parametrize(
    "run", ["00_start_here", "00_photo", "04_study", "04_study_adapters", "13_held_out_photographs"]
)
def test_every_stage_of_a_recorded_tuning_took_time(run):
    seconds = record.read(paths.RESULTS / run / "record.json")["seconds"]
    assert {"tuning", "restoring"} <= seconds.keys() and min(seconds.values()) > 0


def test_the_studies_are_recorded():
    assert {"04_study", "04_study_adapters"} <= {name(file) for file in STUDIES}


@pytest.mark.parametrize("file", STUDIES, ids=name)
def test_a_recorded_study_holds_enough_people(file):
    found = record.read(file)
    people = {row["person"] for row in found["metrics"]}
    assert len(people) >= PEOPLE
    arms = {person: {row["arm"] for row in found["metrics"] if row["person"] == person} for person in people}
    assert len(set(map(frozenset, arms.values()))) == 1  # every person has every arm
    keys = [(row["person"], row["arm"], row["image"], row["seed"], row["metric"]) for row in found["metrics"]]
    assert len(set(keys)) == len(keys)


def test_the_recorded_study_has_the_seconds_of_all_its_people():
    """One person's arms take more than 20 s to tune; records of resumed runs once told the time of the last alone."""
    found = record.read(paths.RESULTS / "04_study" / "record.json")
    people = {row["person"] for row in found["metrics"]}
    assert {"tuning", "restoring"} <= found["seconds"].keys()
    assert found["seconds"]["tuning"] > 10 * len(people)


def test_the_recorded_study_of_photographs_has_the_seconds_of_all_its_folds():
    found = record.read(paths.RESULTS / "13_held_out_photographs" / "record.json")
    folds = {row["fold"] for row in found["metrics"] if "fold" in row}
    assert found["seconds"]["tuning"] > 10 * len(folds)


def test_recorded_restorations_are_marked_synthetic():
    files = sorted(paths.RESULTS.glob("*/*/pictures/*.png"))
    assert files and [file.name for file in files if "Synthetic" not in Image.open(file).text] == []
