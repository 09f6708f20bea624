"""Costs of a person: what is counted in closed form, and tables of timed loops on a small system."""

import pytest
import tiny_system
import torch

from lib.models.personal_weights import Personal
from lib.models.precision import Precision
from lib.studies import cost_counted, cost_timed
from lib.training.trainer import Training


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


# ---- counted ----


def test_full_size_is_that_of_the_published_layouts():
    count = cost_counted.count_weights(cost_counted.full_size())["weights (million)"]
    assert dict(count) == {
        "G": "865.91",
        "E": "363.15",
        "autoencoder": "83.65",
        "text encoder": "340.39",
        "stage-1 cleaner": "15.79",
    }


def test_a_multiply_add_counts_two():
    layer, x = torch.nn.Linear(8, 4), torch.zeros(2, 8)
    assert cost_counted.counted(lambda: layer(x)) * 1e12 == 2 * 2 * 8 * 4


def test_the_passes_of_a_step_add_up_to_the_step(B):
    passes, step = cost_counted.count_passes(B), cost_counted.count_flops(B)
    assert passes.sum().to_dict() == pytest.approx({name: step[name] for name in passes}, rel=1e-9)
    assert (passes.loc["G backward to weights"] > 0).tolist() == [True, False]
    assert (passes.loc["E backward to weights"] > 0).tolist() == [False, True]
    assert passes.loc["G backward to activations", "model step"] < passes.loc["G backward to activations"].iloc[0]


def test_memory_counts_the_activations_of_one_backward_pass(B):
    found = cost_counted.memory(B, 2)
    tuned = cost_counted.tuned(B, "G")
    kept = cost_counted._kept(tuned)
    expected = 4 * (4 * weights(B.G) + weights(B.E)) + kept  # Adam: a weight, its gradient, two moments
    assert found.loc["G, full weights", "float32"] * 1e9 == pytest.approx(expected)
    assert 0 < cost_counted._kept(tuned.with_(G=cost_counted._checkpointed(tuned.G))) < kept
    assert (found["bfloat16, checkpointing"] < found["bfloat16"]).all()


def test_disk_space_of_a_person(B):
    disk = cost_counted.count_disk(B, (2,))["MB on disk"].str.replace(",", "").astype(float)
    assert disk["full weights"] == pytest.approx(4e-6 * (weights(B.G) + weights(B.E)), abs=0.05)
    assert disk["LoRA 2"] < 0.5 * disk["full weights"]


# ---- timed ----


def test_every_way_of_tuning_is_timed_beside_the_baseline(B):
    ways = cost_timed.variants(["gradient_checkpointing"], 2)
    assert ways["gradient_checkpointing"]["precision"] == Precision(gradient_checkpointing=True)
    table = cost_timed.time_tuning(B, tiny_system.pictures(3), ways, Training(steps=1, batch=1), 1, "E")
    assert list(table.index) == ["baseline loop", "ours", "gradient_checkpointing", "LoRA 2"]
    assert table.loc["baseline loop", "baseline / this"] == 1 and bool((table > 0).to_numpy().all())


def test_restoring_is_timed_by_batch_and_option(B):
    table = cost_timed.time_restoring(B, tiny_system.pictures(1), 2, (1, 2), rounds=1)
    assert list(table.index) == ["batch 1", "batch 2", "batch 1, bfloat16", "batch 2, bfloat16"]
    assert bool((table > 0).to_numpy().all())


def test_the_baseline_loop_takes_the_same_step(B):
    """Its loss is that of `lib.training`, where the autoencoder's posterior has no spread and draws are equal."""
    x, prompt = tiny_system.pictures(1), Personal().prompt
    B = tiny_system.build()
    B.vae.quant_conv.weight.data[4:], B.vae.quant_conv.bias.data[4:] = 0, -30  # a sample is then the mode
    null, text = B.embed(["", prompt]).split(1)
    x0, hint = B.encode(x), B.encode(B.clean(x))  # (1, 4, 8, 8) each
    loss = cost_timed.baseline_loss(B, x, x, prompt, 1, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    torch.randint(1, (1,), generator=g), torch.randn(x0.shape, generator=g)  # which picture; the posterior's draw
    eps, t = torch.randn(x0.shape, generator=g), torch.randint(1000, (1,), generator=g)
    ours = torch.nn.functional.mse_loss(B.predict(B.scheduler.add_noise(x0, eps, t), t, text, hint, null), eps)
    assert torch.allclose(loss, ours, atol=1e-4)


def test_rows_of_a_record_part_by_part():
    rows = [
        dict(card="cpu", part="textual step", way="ours", seconds=2.0),
        dict(card="cpu", part="restoration", way="batch 1", peak=3.0),
    ]
    assert cost_timed.part_of(rows, "textual step").to_dict("index") == {"ours": {"seconds": 2.0}}
