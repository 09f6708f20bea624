"""The training loop: its arithmetic, one backward pass per term, checkpoints that resume, training that diverges."""

import copy
import errno
import math
import os
import signal
import threading
import weakref

import pytest
import tiny_system
import torch
from torch import nn

from lib.errors import CheckpointError, NoSpaceError, RangeError, TrainingError
from lib.models.precision import Precision
from lib.training import trainer
from lib.training.trainer import Training, generator, train


def line(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 1)


def line_loss(network, count=None):
    """A loss on random inputs; `count` collects one item per call."""

    def loss_of(g):
        if count is not None:
            count.append(1)
        return (network(torch.randn(4, 3, generator=g)) - 1).square().mean()

    return loss_of


def options(**changes):
    return Training(**{**dict(steps=5, lr=0.1, seed=2, quiet=True), **changes})


# ---- one step ----


def test_the_loop_is_adamw():
    """Against torch's own optimiser on a quadratic; a weight without requires_grad stays as it is."""
    network = line()
    twin, fixed = copy.deepcopy(network), network.bias.requires_grad_(False)
    twin.bias.requires_grad_(False)
    losses = train("line", [network], line_loss(network), options(betas=(0.8, 0.95)))
    optimiser, expected = torch.optim.AdamW([twin.weight], lr=0.1, betas=(0.8, 0.95), fused=True), []
    for step in range(5):
        optimiser.zero_grad()
        loss = line_loss(twin)(generator(2, "line", step))
        loss.backward()
        optimiser.step()
        expected.append(float(loss.detach()))
    assert torch.equal(network.weight, twin.weight) and torch.equal(fixed, twin.bias) and losses == expected
    assert not network.training and network.weight.grad is None and not network.weight.requires_grad


def test_a_loss_sees_the_network_in_training_mode_and_a_generator_of_the_cpu():
    network, seen = line().eval(), []

    def loss_of(g):
        seen.append((network.training, g.device.type))
        return line_loss(network)(g)

    train("line", [network], loss_of, options(steps=1))
    assert seen == [(True, "cpu")]


@pytest.mark.parametrize("other", [(1, "G", 0), (0, "E", 0), (0, "G", 1)])
def test_seed_name_and_step_each_decide_a_generator(other):
    draw = lambda *which: torch.randn(8, generator=generator(*which))  # noqa: E731
    assert torch.equal(draw(0, "G", 0), draw(0, "G", 0)) and not torch.equal(draw(0, "G", 0), draw(*other))


def test_the_largest_seed_works():
    assert len(train("line", [network := line()], line_loss(network), options(seed=2**63 - 1))) == 5


def test_every_trained_module_moves():
    pair = [line(0), line(1)]
    before = [tiny_system.state(one) for one in pair]
    train("pair", pair, lambda g: sum(line_loss(one)(g) for one in pair), options())
    assert not any(tiny_system.same(one.state_dict(), was) for one, was in zip(pair, before))


def test_the_norm_of_gradients_is_clipped():
    network, norms, real = line(), [], torch.optim.AdamW.step

    def step(self, *args):
        norms.append(torch.cat([w.grad.flatten() for group in self.param_groups for w in group["params"]]).norm())
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train("line", [network], lambda g: 100 * line_loss(network)(g), options(clip=0.5))
    assert len(norms) == 5 and torch.allclose(torch.stack(norms), torch.tensor(0.5), atol=1e-4)


def test_the_bar_shows_the_loss(capsys):
    network = line()
    losses = train("line", [network], line_loss(network), options(steps=1, quiet=False))
    assert f"loss {losses[0]:.4f}" in (shown := capsys.readouterr().err) and "line" in shown
    train("line", [twin := line()], line_loss(twin), options(steps=1))
    assert capsys.readouterr().err == ""


# ---- terms ----


class Saved:
    """A tensor that autograd keeps for a backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_terms_have_the_gradient_of_their_sum_and_one_graph_at_a_time():
    network = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 1))
    twin, kept, alive_when_asked = copy.deepcopy(network), [], []

    def term(model, g):
        return model(torch.randn(4, 3, generator=g)).square().mean()

    def terms(g):
        for weight in (1.0, 0.3, 0.1):
            alive_when_asked.append(sum(one() is not None for one in kept))
            yield weight * term(network, g)

    def pack(tensor):
        saved = Saved(tensor)
        kept.append(weakref.ref(saved))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        losses = train("terms", [network], terms, options(steps=2, lr=1e-3))
    assert len(alive_when_asked) == 6 and len(kept) > 20
    assert alive_when_asked == [0] * 6  # the graph of a term is gone before the next one is made
    expected = train(
        "terms", [twin], lambda g: sum(weight * term(twin, g) for weight in (1.0, 0.3, 0.1)), options(steps=2, lr=1e-3)
    )
    assert losses == pytest.approx(expected, rel=1e-6)
    for a, b in zip(network.parameters(), twin.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_of_terms_add_up():
    network, twin = line(), line()
    seen = {}
    for name, model, loss_of in (
        ("terms", network, lambda g: iter([line_loss(network)(g), 0.5 * line_loss(network)(g)])),
        ("sum", twin, lambda g: line_loss(twin)(g) + 0.5 * line_loss(twin)(g)),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "generator", lambda *_: torch.Generator().manual_seed(5))
            patch.setattr(torch.optim.AdamW, "step", lambda self: seen.setdefault(name, model.weight.grad.clone()))
            train(name, [model], loss_of, options(steps=1))
    assert torch.equal(seen["terms"], seen["sum"]) and seen["sum"].any()


def test_terms_and_a_single_loss_are_computed_in_bfloat16():
    network, seen = line(), []

    def terms(g):
        for _ in range(2):
            seen.append(network(torch.randn(4, 3, generator=g)).dtype)
            yield network.weight.square().mean()

    train("terms", [network], terms, options(steps=1, precision=Precision("bfloat16")))

    def loss(g):
        seen.append(network(torch.randn(4, 3, generator=g)).dtype)
        return network.weight.square().mean()

    network.requires_grad_(True)
    train("loss", [network], loss, options(steps=1, precision=Precision("bfloat16")))
    assert seen == [torch.bfloat16] * 3 and network.weight.dtype == torch.float32


# ---- resuming ----


class WithBuffers(nn.Module):
    """A network whose result also depends on a buffer that training changes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("extra", [{}, {"schedule": "cosine", "clip": 1.0, "ema": 0.9}])
@pytest.mark.parametrize("stop", [3, 4])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path, extra, stop):
    expected = WithBuffers()
    losses = train("net", [expected], line_loss(expected), options(**extra))
    kept = options(folder=str(tmp_path), every=2, **extra)
    count, broken = [], WithBuffers()

    def breaks(g):
        if len(count) == stop:
            raise ValueError("the machine stops")
        return line_loss(broken, count)(g)

    with pytest.raises(ValueError, match="the machine stops"):
        train("net", [broken], breaks, kept)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt"]
    resumed, count = WithBuffers(), []
    assert train("net", [resumed], line_loss(resumed, count), kept) == losses
    assert len(count) == 5 - stop // 2 * 2 and tiny_system.same(resumed.state_dict(), expected.state_dict())


def test_ctrl_c_ends_after_the_step_and_keeps_it(tmp_path):
    network, count = line(), []
    kept, handler = options(folder=str(tmp_path), every=100), signal.getsignal(signal.SIGINT)

    def interrupted(g):
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return line_loss(network, count)(g)

    with pytest.raises(KeyboardInterrupt, match="after step 3 of 5"):
        train("line", [network], interrupted, kept)
    assert len(count) == 3 and signal.getsignal(signal.SIGINT) is handler
    resumed, count = line(), []
    train("line", [resumed], line_loss(resumed, count), kept)
    assert len(count) == 2  # steps 4 and 5
    train("line", [expected := line()], line_loss(expected), options())
    assert torch.equal(resumed.weight, expected.weight)
    again = line()
    assert len(train("line", [again], line_loss(again, count), kept)) == 5
    assert len(count) == 2 and torch.equal(again.weight, expected.weight)  # a finished training is not done again


def test_it_runs_beside_the_main_thread():
    network, losses = line(), []
    thread = threading.Thread(target=lambda: losses.extend(train("line", [network], line_loss(network), options())))
    thread.start()
    thread.join()
    assert len(losses) == 5


def test_more_steps_go_on_only_where_the_schedule_does_not_depend_on_their_number(tmp_path):
    for schedule in ("constant", "cosine"):
        kept = dict(folder=str(tmp_path / schedule), schedule=schedule)
        train("line", [network := line()], line_loss(network), options(steps=3, **kept))
        longer, count = line(), []
        if schedule == "cosine":
            with pytest.raises(CheckpointError, match="another training"):
                train("line", [longer], line_loss(longer), options(**kept))
        else:
            train("line", [longer], line_loss(longer, count), options(**kept))
            assert len(count) == 2


@pytest.mark.parametrize(
    "other",
    [
        dict(lr=0.2),
        dict(batch=3),
        dict(seed=1),
        dict(lora=2),
        dict(steps=1),
        dict(betas=(0.5, 0.999)),
        dict(clip=1.0),
        dict(ema=0.5),
        dict(schedule="cosine"),
        dict(precision=Precision("bfloat16")),
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, other):
    kept = dict(folder=str(tmp_path), steps=2)
    train("line", [network := line()], line_loss(network), options(**kept))
    with pytest.raises(CheckpointError, match="checkpoint of another training.*line.pt.*Remedy"):
        train("line", [network := line()], line_loss(network), options(**{**kept, **other}))


def test_memory_options_do_not_decide_a_result(tmp_path):
    kept = dict(folder=str(tmp_path), steps=2)
    train("line", [network := line()], line_loss(network), options(**kept))
    same = options(**kept, every=7, precision=Precision(gradient_checkpointing=True, channels_last=True))
    assert len(train("line", [line()], None, same)) == 2


@pytest.mark.parametrize(
    "known_by, other",
    [
        (("ada",), ("bo",)),
        (("ada",), ()),
        (("ada", "1"), ("ad", "a1")),
        ((torch.zeros(2),), (torch.tensor([0.0, 1e-6]),)),
    ],
)
def test_a_checkpoint_of_other_data_or_first_weights_is_refused(tmp_path, known_by, other):
    kept = options(folder=str(tmp_path), steps=1)
    train("line", [network := line()], line_loss(network), kept, known_by)
    assert len(train("line", [line()], None, kept, known_by)) == 1
    for network, known in ((line(), other), (line(1), known_by)):
        with pytest.raises(CheckpointError, match="checkpoint of another training"):
            train("line", [network], None, kept, known)


@pytest.mark.parametrize("damage", [{}, [], "text", 5, None, b"", "truncated"], ids=repr)
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    kept, file = options(folder=str(tmp_path), steps=1), tmp_path / "line.pt"
    train("line", [network := line()], line_loss(network), kept)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        torch.save(damage, file)
    with pytest.raises(CheckpointError, match="unreadable checkpoint.*line.pt.*Remedy"):
        train("line", [line()], None, kept)


@pytest.mark.parametrize("part", ["weights", "losses", "optimiser", "buffers", "schedule", "average"])
@pytest.mark.parametrize("value", [None, [], {"state": 1}])
def test_a_checkpoint_with_a_damaged_part_is_named(tmp_path, part, value):
    kept, file = options(folder=str(tmp_path), steps=2, schedule="cosine", ema=0.5), tmp_path / "line.pt"
    train("line", [network := line()], line_loss(network), kept)
    content = torch.load(file)
    for damaged in ({**content, part: value}, {name: one for name, one in content.items() if name != part}):
        torch.save(damaged, file)
        if part == "buffers" and damaged.get(part) is not None:
            continue  # this network has none
        with pytest.raises(CheckpointError, match="Remedy"):
            train("line", [line()], line_loss(network), kept)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last(tmp_path, monkeypatch):
    saved, real = [], torch.save

    def full(content, path):
        saved.append(1)
        real(content, path)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(NoSpaceError):
        train("line", [network := line()], line_loss(network), options(folder=str(tmp_path), every=1))
    assert [file.name for file in tmp_path.iterdir()] == ["line.pt"]
    assert len(torch.load(tmp_path / "line.pt")["losses"]) == 1


# ---- training that diverges, settings that cannot be ----


def test_it_stops_at_the_first_loss_that_is_not_finite(tmp_path):
    network, count = line(), []
    with pytest.raises(TrainingError, match="line diverged: its loss is (inf|nan) at step 2.*lower learning rate"):
        train("line", [network], line_loss(network, count), options(lr=1e30, folder=str(tmp_path)))
    assert len(count) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every", [1, 50])
def test_no_checkpoint_of_weights_that_are_not_finite_is_written(tmp_path, every):
    network = line()
    with pytest.raises(TrainingError, match="line diverged: a weight is not finite after step 1.*Remedy"):
        train("line", [network], line_loss(network), options(steps=1, lr=1e39, every=every, folder=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_a_trainable_weight_is_named():
    with pytest.raises(TrainingError, match="no weight requires gradients.*Remedy"):
        train("line", [line().requires_grad_(False)], None, options())


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=0),
        dict(steps=-3),
        dict(steps=1.5),
        dict(batch=0),
        dict(every=0),
        dict(lr=math.nan),
        dict(lr="1e-4"),
        dict(lr=-1e-4),
        dict(lora=-1),
        dict(lora=1.5),
        dict(seed=-1),
        dict(seed=2**63),
        dict(ema=1.0),
        dict(ema=-0.1),
        dict(betas=(0.9, 1.0)),
        dict(clip=-1.0),
        dict(clip=math.nan),
        dict(schedule="linear"),
    ],
    ids=str,
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(RangeError, match=f"{next(iter(wrong))}.*Remedy"):
        Training(**wrong)


def test_the_defaults_are_the_paper_s_optimiser():
    assert Training() == Training(200, 1e-4, 4, 0, 0, "constant", (0.9, 0.999), 0.0, 0.0, "", 50, False, Precision())
