"""Levers of tuning: the same result but for rounding, less kept for the backward pass, and a system that is as it was."""

import dataclasses

import pytest
import tiny_system
import torch
from diffusers import UNet2DConditionModel

from lib.models import precision
from lib.models.precision import Precision
from lib.training import pivots
from lib.training.trainer import Tuning

PROMPT = pivots.pivot_prompt()


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


@pytest.fixture(scope="module")
def shots(B):
    return pivots.prepare(B, tiny_system.pictures(3), degradations=2)


def tuned(B, shots, lora=0, **on):
    tuning = Tuning(steps=6, lr=1e-3, batch=2, lora=lora, quiet=True, levers=Precision(**on))
    B_p = pivots.textual_pivot(B, shots, PROMPT, tuning)
    return B_p, pivots.model_pivot(B_p, shots, PROMPT, tuning)


def vector(module):
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize(
    "on",
    [
        {"checkpointing": True},
        {"channels_last": True},
        {"bf16": True},
        {"bf16": True, "checkpointing": True, "channels_last": True},
    ],
)
def test_a_lever_changes_rounding_only(B, shots, on, lora):
    """What tuning changed in G and E points the same way, and is as long, with the lever and without."""
    plain, pulled = tuned(B, shots, lora), tuned(B, shots, lora, **on)
    for k, field in enumerate("GE"):
        start = vector(pivots.tunable(getattr(B, field), Tuning(lora=lora)))
        a, b = (vector(getattr(pair[k], field)) - start for pair in (plain, pulled))
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > (0.8 if on.get("bf16") else 0.999)
        assert (a.norm() / b.norm() - 1).abs() < 0.05
        assert getattr(pulled[k], field).dtype == torch.float32 and not getattr(pulled[k], field).training


def test_the_system_is_left_as_it_was(B, shots):
    before = {name: tiny_system.state(module) for name, module in B.modules().items()}
    tuned(B, shots, bf16=True, channels_last=True, checkpointing=True)
    for name, module in B.modules().items():
        assert tiny_system.same(module.state_dict(), before[name]) and {p.dtype for p in module.parameters()} == {
            torch.float32
        }
        assert not getattr(module, "is_gradient_checkpointing", False), name


def test_checkpointing_keeps_less_for_the_backward_pass(B, shots):
    def kept(**on):
        count = []
        network, E = Precision(**on).tuned(tiny_system.unet().train()), B.E
        x, text = torch.randn(2, 4, 8, 8), B.embed(["", PROMPT])
        with torch.autograd.graph.saved_tensors_hooks(lambda t: count.append(t.numel()) or t, lambda t: t):
            network(x, torch.tensor([3, 4]), text).sample.square().mean()
        assert E is B.E
        return sum(count)

    assert kept(checkpointing=True) < 0.5 * kept()


def test_parts_rest_on_the_cpu_and_come_back(B):
    class Part:
        device = "cuda"

        def __init__(self):
            self.went = []

        def to(self, where):
            self.went.append(where)

    parts = dataclasses.make_dataclass("Parts", ["vae", "G"])(Part(), Part())
    with pytest.raises(ZeroDivisionError), precision.offloaded(parts, "vae"):
        assert parts.vae.went == ["cpu"]
        1 / 0
    assert parts.vae.went == ["cpu", "cuda"] and parts.G.went == []


def test_compile_is_the_networks_own(monkeypatch):
    asked = []
    monkeypatch.setattr(UNet2DConditionModel, "compile", lambda self: asked.append(self))
    network = tiny_system.unet()
    assert Precision(compile=True).tuned(network) is network and asked == [network]
