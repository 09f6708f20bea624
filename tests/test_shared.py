"""One E for several people: every step is eq. 7's loss of one of them, and only E is trained."""

from dataclasses import replace

import pytest
import tiny_system
import torch

from lib.errors import CheckpointError, RangeError
from lib.training import shared
from lib.training.pivots import ModelLoss, prepare, textual_pivot
from lib.training.shared import shared_model_pivot
from lib.training.trainer import Training

TWO = Training(steps=2, batch=2, lr=1e-3, quiet=True)


@pytest.fixture(scope="module")
def people(B):
    parts = [prepare(B, tiny_system.pictures(2, seed), degradations=1) for seed in (3, 4)]
    return [(textual_pivot(B, data, training=TWO, gamma=gamma), data) for data, gamma in zip(parts, (0.5, 0.2))]


def test_every_step_has_the_loss_of_one_person_and_each_has_steps(people, monkeypatch):
    kept = {}
    monkeypatch.setattr(shared, "train", lambda name, modules, loss, *_: kept.update(loss=loss))
    shared_model_pivot(people, TWO)
    chosen = set()
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        k = int(torch.randint(2, (), generator=g))
        B_p, data = people[k]
        expected = ModelLoss(B_p, data, B_p.personal, TWO.batch)(g)  # E has not moved: nothing was trained
        torch.testing.assert_close(kept["loss"](torch.Generator().manual_seed(seed)), expected)
        chosen.add(k)
    assert chosen == {0, 1}


def test_only_e_is_trained_and_it_depends_on_everybody(people):
    before = [{name: weight.clone() for name, weight in B_p.G.state_dict().items()} for B_p, _ in people]
    E = shared_model_pivot(people, TWO)
    assert not tiny_system.same(E.state_dict(), people[0][0].E.state_dict())
    assert not any(weight.requires_grad for weight in E.parameters())
    for kept, (B_p, _) in zip(before, people):
        assert tiny_system.same(kept, B_p.G.state_dict())
    again, alone = shared_model_pivot(people, TWO), shared_model_pivot(people[:1], TWO)
    assert tiny_system.same(E.state_dict(), again.state_dict())
    assert not tiny_system.same(E.state_dict(), alone.state_dict())


def test_a_finished_training_is_continued_and_that_of_other_people_refused(people, tmp_path):
    kept = replace(TWO, folder=str(tmp_path))
    E, again = shared_model_pivot(people, kept), shared_model_pivot(people, replace(kept, steps=2))
    assert tiny_system.same(E.state_dict(), again.state_dict())
    assert tiny_system.same(E.state_dict(), shared_model_pivot(people, TWO).state_dict())
    with pytest.raises(CheckpointError):
        shared_model_pivot(people[::-1], kept)


def test_nobody_shares_nothing():
    with pytest.raises(RangeError, match="Remedy"):
        shared_model_pivot([], TWO)
