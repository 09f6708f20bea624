"""What a fleet costs: counts that a hand can follow, and a simulation held to closed forms."""

import json
import math

import pytest

from lib import paths
from lib.studies import fleet

COUNTED = json.loads((paths.RESULTS / "23_cost_of_a_fleet" / "counted.json").read_text())
TFLOP = COUNTED["tflop"]


def test_the_counts_are_those_that_notebook_22_shows():
    cells = json.loads((paths.NOTEBOOKS / "22_cost_of_a_person.ipynb").read_text())["cells"]
    shown = "".join("".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", []))
    for name in ("textual step", "model step", "restoration step", "class image step", "encode", "decode"):
        assert f"{name:17} {TFLOP[name]:.2f} TFLOP" in shown
    assert COUNTED["weights"]["G"] == 865_910_724


def test_each_choice_changes_what_it_is_said_to():
    plain = fleet.Choice()
    assert fleet.tuning(plain, TFLOP) == pytest.approx(
        2500 * TFLOP["textual step"] + 800 * TFLOP["model step"] + 20 * TFLOP["encode"]
    )
    steps = fleet.tuning(plain, TFLOP) - 20 * TFLOP["encode"]
    assert fleet.tuning(fleet.Choice(gamma=0.0), TFLOP) - 20 * TFLOP["encode"] == pytest.approx(2 * steps)
    shared = fleet.Choice(shared_E=True)
    assert fleet.tuning(plain, TFLOP) - fleet.tuning(shared, TFLOP) == pytest.approx(800 * TFLOP["model step"])
    assert fleet.disk(plain, COUNTED) == 4 * (COUNTED["weights"]["G"] + COUNTED["weights"]["E"])
    assert fleet.disk(fleet.Choice(adapters=True, shared_E=True), COUNTED) == 2 * COUNTED["adapter weights"]["G"]
    saved = fleet.restoring(plain, TFLOP) - fleet.restoring(fleet.Choice(steps=1), TFLOP)
    assert saved == pytest.approx(49 * TFLOP["restoration step"])
    assert fleet.resident(plain, COUNTED) < 100 < fleet.resident(fleet.Choice(adapters=True), COUNTED)


def test_the_utilisation_is_the_papers():
    shares = fleet.of_the_paper(TFLOP, {"textual": 31.8 * 60, "model": 10.5 * 60, "restoration": 6.8})
    assert (min(shares.values()), max(shares.values())) == pytest.approx(fleet.UTILISATION[::2], abs=0.005)
    assert fleet.per_hour(989.0, 989.0, (1.0,)) == (3600,)


@pytest.mark.parametrize("servers, load", [(1, 0.5), (2, 1.5), (5, 4.0)])
def test_erlang_c_is_its_textbook_form(servers, load):
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    expected = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)
    assert fleet.erlang_c(load, servers) == pytest.approx(expected)
    assert fleet.mean_wait(load, 1.0, servers) == pytest.approx(expected / (servers - load))
    assert fleet.mean_wait(servers, 1.0, servers) == math.inf


def test_the_simulation_agrees_with_the_closed_form():
    traffic = fleet.Traffic({"picture": 1800}, {"picture": 3.0}, spread=None)
    _, low, high = fleet.interval([fleet.simulate(traffic, 2, 1.5, seed).wait.mean() for seed in range(8)])
    assert low < fleet.mean_wait(0.5, 3.0, 2) < high


def test_weights_are_read_once_while_they_are_kept():
    everyone = fleet.Traffic({"picture": 3600}, {"picture": 0.1}, people=5, kept=5, load=1.0)
    found = fleet.simulate(everyone, 1, 0.2)
    assert found.loaded.sum() == 5
    nobody = fleet.simulate(fleet.Traffic({"picture": 3600}, {"picture": 0.1}, people=500, kept=1), 1, 0.2)
    assert nobody.loaded.mean() > 0.98


def test_the_least_number_of_gpus_meets_the_target_and_one_less_does_not():
    traffic = fleet.Traffic({"picture": 7200}, {"picture": 1.0}, spread=None)
    gpus, found = fleet.gpus_for(traffic, 1.0, 0.5)
    assert found.wait.quantile(0.95) <= 1.0 < fleet.simulate(traffic, gpus - 1, 0.5).wait.quantile(0.95)


def test_a_batch_takes_as_long_as_its_first_free_workers():
    assert fleet.makespan([3, 2, 2, 1], 2) == 4
    assert fleet.makespan([3, 2, 2, 1], 1, overhead=0.5) == 10
