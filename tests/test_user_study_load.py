"""Thirty participants at once against a server process that is killed twice: by hand (-m slow), its result recorded."""

import pytest
import tiny_study
import user_study_load

from lib import paths
from lib.runs import record

RECORDED = paths.RESULTS / "08_load" / record.FILE


def holds(found):
    """What a study must not lose under load."""
    whole = found["participants"] * found["trials_each"]
    assert found["stored"] == found["acknowledged"] == whole  # nothing lost
    assert found["doubled"] == found["changed"] == found["not_as_designed"] == 0
    assert found["finished"] == found["participants"] and found["imbalance"] <= 1


@pytest.mark.slow
def test_thirty_participants_and_two_killed_servers_lose_nothing(tmp_path):
    found = user_study_load.run(tiny_study.write(tmp_path), tmp_path / "store")
    holds(found)
    assert found["kills"] == 2 and found["connections_lost"] > 0


def test_four_participants_and_a_killed_server_lose_nothing(tmp_path):
    found = user_study_load.run(tiny_study.write(tmp_path), tmp_path / "store", participants=4, kills=1)
    holds(found)
    assert found["connections_lost"] > 0


def test_the_recorded_load_lost_nothing():
    (found,) = record.read(RECORDED)["metrics"]
    holds(found)
    assert (found["participants"], found["kills"]) == (30, 2) and found["p99_ms"] < 1000
