"""Precision and memory options: the dtype, flags and memory format of each network while it is used, and afterwards."""

import copy
import dataclasses
import gc
import weakref

import pytest
import tiny_system
import torch
from diffusers import UNet2DConditionModel

from lib.errors import RangeError
from lib.models import precision
from lib.models.precision import Precision, lowered, move_to_device, offloaded, parse
from lib.models.system import LatentControlNet
from lib.training import pivots
from lib.training.trainer import Training, train
from lib.training.tunable import tunable

ALL = Precision("bfloat16", gradient_checkpointing=True, channels_last=True)


def dtypes(network):
    return {weight.dtype for weight in network.parameters()}


def checkpoints(network):
    """The values of the gradient checkpointing flag in the blocks of a network."""
    return {block.gradient_checkpointing for block in network.modules() if hasattr(block, "gradient_checkpointing")}


def is_channels_last(network):
    """Whether every kernel that can tell lies in memory with its channels last."""
    kernels = [w for w in network.parameters() if w.ndim == 4 and w.shape[1] > 1 and w.shape[2] > 1]
    assert kernels
    last = {w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in kernels}
    assert len(last) == 1
    return last == {True}


def storages(network):
    return [weight.data_ptr() for weight in network.parameters()]


# ---- the options one by one ----


def test_the_defaults_change_nothing(B):
    assert Precision() == Precision("float32", False, False, False)
    network = tiny_system.unet()
    before = storages(network)
    assert Precision().apply(network) is network and Precision().frozen(network) is network
    assert Precision().sampling(B) is B
    assert storages(network) == before and checkpoints(network) == {False} and not is_channels_last(network)
    with Precision().autocast("cpu"):
        assert not torch.is_autocast_enabled("cpu")


def test_bfloat16_is_autocast_around_float32_weights(B):
    with Precision("bfloat16").autocast(B.device):
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert dtypes(Precision("bfloat16").apply(tiny_system.unet())) == {torch.float32}


@pytest.mark.parametrize(
    "option, state", [("gradient_checkpointing", checkpoints), ("channels_last", is_channels_last)]
)
def test_an_option_is_switched_on_and_off_again(option, state):
    options, network = Precision(**{option: True}), tiny_system.unet()
    before = tiny_system.state(network)
    assert options.apply(network) is network and state(network) in ({True}, True)
    assert options.undo(network) is network and state(network) in ({False}, False)
    assert tiny_system.same(network.state_dict(), before)


def test_compile_is_the_network_s_own(monkeypatch):
    compiled = []
    monkeypatch.setattr(UNet2DConditionModel, "compile", lambda self: compiled.append(self))
    network = tiny_system.unet()
    assert Precision(compile=True).apply(network) is network and compiled == [network]
    copied = Precision(compile=True).frozen(network)
    assert copied is not network and compiled == [network, copied]


def test_a_frozen_copy_is_in_bfloat16_and_its_original_is_not_touched(B):
    before = tiny_system.everything(B)
    copied = ALL.frozen(B.E)
    assert dtypes(copied) == {torch.bfloat16} and checkpoints(copied) == {True} and is_channels_last(copied)
    assert not any(weight.requires_grad for weight in copied.parameters())
    assert tiny_system.everything(B) == before and dtypes(B.E) == {torch.float32}
    assert checkpoints(B.E) == {False} and not is_channels_last(B.E)


@pytest.mark.parametrize(
    "options, shares",
    [
        (Precision(gradient_checkpointing=True), True),
        (Precision(compile=True), True),
        (Precision(channels_last=True), False),
        (Precision("bfloat16"), False),
    ],
    ids=str,
)
def test_a_frozen_copy_shares_its_weights_where_they_stay_as_they_are(B, monkeypatch, options, shares):
    monkeypatch.setattr(LatentControlNet, "compile", lambda self: None)
    copied = options.frozen(B.E)
    assert copied is not B.E
    assert [a == b for a, b in zip(storages(copied), storages(B.E))] == [shares] * len(storages(B.E))


def test_checkpointing_keeps_less_for_the_backward_pass(B):
    def kept(**on):
        count = []
        network = Precision(**on).apply(tiny_system.unet().train())
        x, text = torch.randn(2, 4, 8, 8), B.embed(["", "a photo"])
        with torch.autograd.graph.saved_tensors_hooks(lambda t: count.append(t.numel()) or t, lambda t: t):
            network(x, torch.tensor([3, 4]), text).sample.square().mean()
        return sum(count)

    assert kept(gradient_checkpointing=True) < 0.5 * kept()


@pytest.mark.parametrize(
    "words, expected",
    [
        ("", Precision()),
        ("bfloat16", Precision("bfloat16")),
        ("float32 compile", Precision(compile=True)),
        ("gradient_checkpointing bfloat16 channels_last", ALL),
    ],
)
def test_options_by_words(words, expected):
    assert parse(words) == expected


@pytest.mark.parametrize("words", ["bf16", "bfloat16,compile", "dtype"])
def test_an_unknown_word_is_named(words):
    with pytest.raises(RangeError, match=f"{words}.*Remedy.*bfloat16.*channels_last"):
        parse(words)


def test_an_unknown_dtype_is_named():
    with pytest.raises(RangeError, match="PRECISION.*'float16'.*Remedy"):
        Precision("float16")


# ---- sampling: copies in another dtype ----


def test_the_system_to_sample_from_has_G_and_E_in_bfloat16(B):
    before = tiny_system.everything(B)
    low = Precision("bfloat16").sampling(B)
    assert low is not B and dtypes(low.G) == dtypes(low.E) == {torch.bfloat16}
    for part in ("vae", "text_encoder", "cleaner", "scheduler", "tokenizer"):
        assert getattr(low, part) is getattr(B, part)
    assert tiny_system.everything(B) == before and dtypes(B.G) == dtypes(B.E) == {torch.float32}
    assert torch.equal(low.G.conv_in.weight, B.G.conv_in.weight.bfloat16())


def test_a_copy_is_kept_while_the_weights_are_the_same():
    network = tiny_system.unet().requires_grad_(False)
    first = lowered(network, "bfloat16")
    assert lowered(network, "bfloat16") is first and lowered(first, "bfloat16") is first
    assert lowered(network, "float32") is network
    assert lowered(copy.deepcopy(network), "bfloat16") is not first


def an_optimiser_step(network):
    train("G", [network.requires_grad_(True)], lambda g: network.conv_in.weight.square().sum(), Training(1, quiet=True))


def loading(network):
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()})


def an_assignment(network):
    network.conv_in.weight.data += 1


def new_data(network):
    network.conv_in.weight.data = network.conv_in.weight.data + 1


@pytest.mark.parametrize("change", [an_optimiser_step, loading, an_assignment, new_data])
def test_a_copy_is_made_anew_when_a_weight_changes(change):
    network = tiny_system.unet().requires_grad_(False)
    old = lowered(network, "bfloat16")
    change(network)
    new = lowered(network, "bfloat16")
    assert new is not old and torch.equal(new.conv_in.weight, network.conv_in.weight.bfloat16())


def test_a_copy_goes_with_its_network():
    network = tiny_system.unet().requires_grad_(False)
    copied = weakref.ref(lowered(network, "bfloat16"))
    del network
    gc.collect()
    assert copied() is None


# ---- where networks wait ----


class Part:
    """A network that only remembers where it was moved."""

    device = torch.device("cuda")

    def __init__(self):
        self.went = []

    def to(self, where):
        self.went.append(str(where))


def test_parts_wait_on_the_cpu_and_come_back():
    parts = dataclasses.make_dataclass("Parts", ["vae", "G"])(Part(), Part())
    with pytest.raises(ZeroDivisionError), offloaded(parts, "vae"):
        assert parts.vae.went == ["cpu"]
        1 / 0
    assert parts.vae.went == ["cpu", "cuda"] and parts.G.went == []


def test_a_network_that_waits_leaves_no_copy_on_the_gpu(B):
    B = B.with_(G=copy.deepcopy(B.G))
    copied = weakref.ref(lowered(B.G, "bfloat16"))
    with offloaded(B, "G"):
        gc.collect()
        assert copied() is None


def test_other_systems_networks_wait_on_the_cpu():
    fields = ["G", "E", "device"]
    system = dataclasses.make_dataclass("Networks", fields)
    G, E, other_G = Part(), Part(), Part()
    mine, other = system(G, E, torch.device("cuda")), system(other_G, E, torch.device("cuda"))
    move_to_device(mine, [other, mine])
    assert other_G.went == ["cpu"] and G.went == E.went == ["cuda"]
    here = system(Part(), Part(), torch.device("cpu"))
    move_to_device(here, [mine])
    assert here.G.went == here.E.went == [] and G.went == ["cuda"]


# ---- both pivots with the options ----


@pytest.fixture
def steps(monkeypatch):
    """What each step of a tuning had: the tuned and the other network, and whether autocast was on."""
    seen, real = [], pivots.eps_loss

    def spy(B, *args):
        networks = {name: getattr(B, name) for name in "GE"}
        seen.append(
            {
                name: (dtypes(network), checkpoints(network), is_channels_last(network))
                for name, network in networks.items()
            }
            | {"autocast": torch.is_autocast_enabled("cpu"), "networks": networks}
        )
        return real(B, *args)

    monkeypatch.setattr(pivots, "eps_loss", spy)
    return seen


def settings(options, **changes):
    return Training(**{**dict(steps=2, lr=1e-3, batch=2, quiet=True, precision=options), **changes})


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("step, tuned, other", [("textual_pivot", "G", "E"), ("model_pivot", "E", "G")])
def test_options_hold_while_tuning_and_are_undone_afterwards(B, data, steps, step, tuned, other, lora):
    before = tiny_system.everything(B)
    result = getattr(pivots, step)(B, data, training=settings(ALL, lora=lora))
    assert len(steps) == 2
    for one in steps:
        assert one["autocast"]
        assert one[tuned] == ({torch.float32}, {True}, True) and one[other] == ({torch.bfloat16}, {True}, True)
        assert one["networks"][other] is not getattr(B, other)
    network = getattr(result, tuned)
    assert network is steps[0]["networks"][tuned]
    assert dtypes(network) == {torch.float32} and checkpoints(network) == {False} and not is_channels_last(network)
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert getattr(result, other) is getattr(B, other) and tiny_system.everything(B) == before


@pytest.mark.parametrize("step, tuned", [("textual_pivot", "G"), ("model_pivot", "E")])
def test_both_networks_are_compiled(B, data, steps, monkeypatch, step, tuned):
    compiled = []
    for cls in (UNet2DConditionModel, LatentControlNet):
        monkeypatch.setattr(cls, "compile", lambda self: compiled.append(self))
    getattr(pivots, step)(B, data, training=settings(Precision(compile=True), steps=1))
    assert {id(one) for one in compiled} == {id(one) for one in steps[0]["networks"].values()}
    assert len(compiled) == 2


def test_out_of_context_E_is_not_copied(B, data, steps):
    pivots.textual_pivot(B, data, training=settings(ALL, steps=1), in_context=False)
    assert steps[0]["networks"]["E"] is B.E


def vector(module):
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


def change(B, data, options, lora):
    """What both pivots changed in G and in E, as two vectors."""
    training = settings(options, lora=lora)
    B_p = pivots.model_pivot(pivots.textual_pivot(B, data, training=training), data, training)
    start = {part: vector(tunable(getattr(B, part), Training(lora=lora))) for part in "GE"}
    return [vector(getattr(B_p, part)) - start[part] for part in "GE"]


@pytest.fixture(scope="module")
def plain_changes(B, data):
    return {lora: change(B, data, Precision(), lora) for lora in (0, 2)}


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize(
    "options, least",
    [
        (Precision(gradient_checkpointing=True), 0.999),
        (Precision(channels_last=True), 0.999),
        (Precision("bfloat16"), 0.8),
        (ALL, 0.8),
    ],
    ids=str,
)
def test_no_option_changes_a_tuning_beyond_rounding(B, data, plain_changes, options, least, lora):
    """With an option and without, what tuning changed points the same way and is as long."""
    for a, b in zip(plain_changes[lora], change(B, data, options, lora)):
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > least
        assert (a.norm() / b.norm() - 1).abs() < 0.05
        assert (options.dtype == "float32") or not torch.equal(a, b)  # bfloat16 rounds


def test_dtypes_by_name():
    assert precision.DTYPES == {"float32": torch.float32, "bfloat16": torch.bfloat16}
