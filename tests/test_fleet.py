"""What a fleet costs: counts that a hand can follow, and a simulation held to closed forms."""

import json
import math

import pytest

from lib import paths
from lib.errors import RangeError
from lib.studies import fleet, waiting

COUNTED = json.loads((paths.RESULTS / "23_cost_of_a_fleet" / "counted.json").read_text())
TFLOP = COUNTED["tflop"]
PAPER = {"textual": 31.8 * 60, "model": 10.5 * 60, "restoration": 6.8}  # s on a V100


def test_the_counts_are_those_that_notebook_22_shows():
    cells = json.loads((paths.NOTEBOOKS / "22_cost_of_a_person.ipynb").read_text())["cells"]
    shown = "".join("".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", []))
    for name in ("textual step", "model step", "restoration step", "class image step", "encode", "decode"):
        assert f"{name:17} {TFLOP[name]:.2f} TFLOP" in shown
    assert COUNTED["weights"]["G"] == 865_910_724


def test_each_choice_changes_what_it_is_said_to():
    plain = fleet.Choice()
    textual, model = 2500 * TFLOP["textual step"], 800 * TFLOP["model step"]
    assert fleet.tuning(plain, TFLOP) == pytest.approx(textual + model + 20 * TFLOP["encode"])
    for more in (fleet.Choice(gamma=0.0), fleet.Choice(prior=True)):  # of the textual pivot alone
        assert fleet.tuning(more, TFLOP) - fleet.tuning(plain, TFLOP) == pytest.approx(textual)
    shared = fleet.Choice(shared_E=True)
    assert fleet.tuning(plain, TFLOP) - fleet.tuning(shared, TFLOP) == pytest.approx(model)
    assert fleet.disk(plain, COUNTED) == 4 * (COUNTED["weights"]["G"] + COUNTED["weights"]["E"])
    assert fleet.disk(fleet.Choice(adapters=True, shared_E=True), COUNTED) == 2 * COUNTED["adapter weights"]["G"]
    saved = fleet.restoring(plain, TFLOP) - fleet.restoring(fleet.Choice(steps=1), TFLOP)
    assert saved == pytest.approx(49 * TFLOP["restoration step"])
    assert len({str(choice) for choice in (plain, shared, fleet.Choice(prior=True), fleet.Choice(gamma=0.0))}) == 4


def test_the_weights_that_fit_a_gpu_take_its_memory():
    base = 2 * sum(COUNTED["weights"].values())
    personal = 2 * (COUNTED["weights"]["G"] + COUNTED["weights"]["E"])  # in half precision
    assert fleet.resident(fleet.Choice(), COUNTED, base + 7.5 * personal) == 7
    with pytest.raises(RangeError, match="memory"):
        fleet.resident(fleet.Choice(), COUNTED, base)


def test_people_an_hour_of_the_papers_choices_are_its_own_times_at_another_peak():
    """The middle: counted arithmetic cancels. Low and high: both pivots at the share that one of them reached."""
    shares = fleet.of_the_paper(TFLOP, PAPER)
    assert [round(100 * share) for share in shares.values()] == [22, 18, 54]
    low, middle, high = fleet.people_an_hour(fleet.Choice(), TFLOP, 989.0, shares)
    assert middle == pytest.approx(3600 / (PAPER["textual"] + PAPER["model"]) * 989.0 / fleet.V100)
    assert (low, high) == pytest.approx(
        [3600 * 989.0 * shares[pivot] / fleet.tuning(fleet.Choice(), TFLOP) for pivot in ("model", "textual")]
    )
    pictures = fleet.pictures_an_hour(fleet.Choice(), TFLOP, 989.0, shares)
    assert pictures == pytest.approx(3600 / PAPER["restoration"] * 989.0 / fleet.V100)


def test_the_table_has_a_row_for_each_choice():
    choices = [fleet.Choice(), fleet.Choice(prior=True)]
    table = fleet.table(choices, COUNTED, 989.0, fleet.of_the_paper(TFLOP, PAPER), 113e9)
    assert list(table["people an hour"]) == ["89 (75 to 94)", "51 (42 to 53)"]
    assert list(table.index) == ["full, E own, γ 0.5, 50 steps", "full, E own, γ 0.5, 50 steps, prior"]


@pytest.mark.parametrize("peak", [0.0, -1.0, math.nan])
def test_a_gpu_without_a_peak_is_a_named_error(peak):
    with pytest.raises(RangeError, match="peak.*Remedy"):
        fleet.table([fleet.Choice()], COUNTED, peak, fleet.of_the_paper(TFLOP, PAPER), 113e9)


@pytest.mark.parametrize("servers, load", [(1, 0.5), (2, 1.5), (5, 4.0)])
def test_erlang_c_is_its_textbook_form(servers, load):
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    expected = last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)
    assert waiting.erlang_c(load, servers) == pytest.approx(expected)
    assert waiting.mean_wait(load, 1.0, servers) == pytest.approx(expected / (servers - load))
    assert waiting.mean_wait(servers, 1.0, servers) == math.inf


def test_the_simulation_agrees_with_the_closed_form():
    traffic = waiting.Traffic({"picture": 1800}, {"picture": 3.0}, spread=None)
    _, low, high = waiting.interval([waiting.simulate(traffic, 2, 1.5, seed).wait.mean() for seed in range(8)])
    assert low < waiting.mean_wait(0.5, 3.0, 2) < high


def test_weights_are_read_once_while_they_are_kept():
    everyone = waiting.Traffic({"picture": 3600}, {"picture": 0.1}, people=5, kept=5, reading=1.0)
    found = waiting.simulate(everyone, 1, 0.2)
    assert found.loaded.sum() == 5
    nobody = waiting.simulate(waiting.Traffic({"picture": 3600}, {"picture": 0.1}, people=500, kept=1), 1, 0.2)
    assert nobody.loaded.mean() > 0.98


def test_the_least_number_of_gpus_meets_the_target_and_one_less_does_not():
    traffic = waiting.Traffic({"picture": 7200}, {"picture": 1.0}, spread=None)
    gpus, found = waiting.gpus_for(traffic, 1.0, 0.5)
    assert found.wait.quantile(0.95) <= 1.0 < waiting.simulate(traffic, gpus - 1, 0.5).wait.quantile(0.95)


def test_every_piece_of_work_that_came_has_a_row():
    """Also of a queue that grows: 7200 pictures an hour of 2 s on one GPU, whose last ones wait for half the time."""
    found = waiting.simulate(waiting.Traffic({"picture": 7200}, {"picture": 2.0}), 1, 0.1)
    assert len(found) == pytest.approx(720, abs=4 * math.sqrt(720))
    assert found.wait.max() > 0.9 * (len(found) * 2.0 - 360)


def test_the_load_has_the_reading_of_weights_that_are_not_kept():
    traffic = waiting.Traffic({"picture": 3600, "tuning": 18}, {"picture": 0.5, "tuning": 20}, 100, 25, 2.0)
    assert waiting.load(traffic) == pytest.approx(0.5 + 0.75 * 2.0 + 0.1)
    found = waiting.simulate(traffic, 4, 0.5)
    assert found[found.kind == "picture"].loaded.mean() == pytest.approx(0.75, abs=0.06)


def test_the_number_of_gpus_is_above_the_load_so_that_tunings_are_served():
    """Pictures need one GPU and go first; tunings that nobody judges keep 1.5 more busy."""
    traffic = waiting.Traffic({"picture": 360, "tuning": 54}, {"picture": 0.1, "tuning": 100.0})
    gpus, found = waiting.gpus_for(traffic, 1000.0, 0.5, seeds=(0, 1))
    assert waiting.load(traffic) == pytest.approx(1.51) and gpus == 2
    assert set(found.seed) == {0, 1} and set(found.kind) == {"picture", "tuning"}


def test_a_rate_of_zero_is_no_such_work():
    found = waiting.simulate(waiting.Traffic({"picture": 0, "tuning": 360}, {"picture": 1.0, "tuning": 1.0}), 1, 0.2)
    assert set(found.kind) == {"tuning"}
    assert waiting.gpus_for(waiting.Traffic({"picture": 0}, {"picture": 1.0}), 1.0, 0.1)[0] == 1


@pytest.mark.parametrize(
    "traffic, target, hours, word",
    [
        ({"rates": {"picture": -1}}, 1.0, 1.0, "rate of picture"),
        ({"rates": {"picture": 60}, "people": 0}, 1.0, 1.0, "people"),
        ({"rates": {"picture": 60}}, 1.0, -1.0, "hours"),
        ({"rates": {"picture": 60}}, 1.0, 1e-6, "hours"),
        ({"rates": {"picture": 60}}, 0.0, 1.0, "target"),
        ({"rates": {"picture": 1e7}}, 1.0, 1.0, "target"),
    ],
)
def test_what_cannot_be_simulated_is_a_named_error(traffic, target, hours, word):
    with pytest.raises(RangeError, match=f"{word}.*Remedy"):
        waiting.gpus_for(waiting.Traffic(**traffic, seconds={"picture": 1.0}), target, hours)


def test_a_batch_takes_as_long_as_its_first_free_workers():
    assert waiting.makespan([3, 2, 2, 1], 2) == 4
    assert waiting.makespan([3, 2, 2, 1], 1, overhead=0.5) == 10
