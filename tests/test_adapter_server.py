"""Several people on one base: a mixed batch gives each picture what that person's own pivot gives, and the base stays as it was."""

import pytest
import tiny_system
import torch

from lib.errors import PersonalWeightsError
from lib.models import personal_weights
from lib.restoration.adapter_server import AdapterServer
from lib.restoration.sampling import restore
from lib.training import pivots
from lib.training.trainer import Tuning

PROMPT = pivots.pivot_prompt()
OPTIONS = dict(steps=4, gamma=0.5)


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


def tuned(B, seed, folder, lora=4, prompt=PROMPT):
    """A pivot folder of somebody, tuned hard so that it shows."""
    tuning = Tuning(steps=4, lr=3e-2, batch=2, lora=lora, seed=seed, quiet=True)
    shots = pivots.prepare(B, tiny_system.pictures(2, seed), degradations=1)
    B_p = pivots.model_pivot(pivots.textual_pivot(B, shots, prompt, tuning), shots, prompt, tuning)
    facts = dict(
        token="sks", class_noun="person", prompt=prompt, gamma=0.5, steps=[4, 4], seed=seed, references="0" * 16
    )
    personal_weights.save(folder, B_p, B, facts)
    return folder


@pytest.fixture(scope="module")
def folders(B, tmp_path_factory):
    home = tmp_path_factory.mktemp("people")
    return {name: tuned(B, seed, home / name) for seed, name in enumerate(("ada", "bo", "cleo"))}


@pytest.fixture
def household(B, folders):
    household = AdapterServer(B)
    for name, folder in folders.items():
        household.add(name, folder)
    return household


def test_a_mixed_batch_is_everybodys_own_pivot(B, folders, household):
    x, who = tiny_system.pictures(5, 9), ["bo", "ada", "cleo", "ada", "bo"]
    together = household.restore(x, who, seeds=range(5), w=1.5, **OPTIONS)
    alone = {
        name: restore(personal_weights.load(folder, B)[0], x, PROMPT, seeds=range(5), w=1.5, **OPTIONS)
        for name, folder in folders.items()
    }
    for n, name in enumerate(who):
        assert torch.allclose(together[n], alone[name][n], atol=2e-4)
        others = [float((together[n] - alone[other][n]).abs().mean()) for other in folders if other != name]
        assert min(others) > 1e-3  # the wrong person's would show


def test_the_base_is_loaded_once_and_stays_as_it_was(B, household):
    before = B.fingerprint()
    household.restore(tiny_system.pictures(1), ["ada"], seeds=[0], **OPTIONS)
    assert household.base is B and B.fingerprint() == before and len(household.networks) == 2


def test_what_cannot_be_served_is_named(B, folders, household, tmp_path):
    with pytest.raises(PersonalWeightsError, match="name in use: ada.*Remedy"):
        household.add("ada", folders["bo"])
    with pytest.raises(PersonalWeightsError, match="not adapters.*Remedy"):
        household.add("dora", tuned(B, 5, tmp_path / "full", lora=0))
    household.add("eve", tuned(B, 6, tmp_path / "eve", prompt=pivots.pivot_prompt("woman")))
    x = tiny_system.pictures(2)
    for who, said in ((["ada", "zoe"], "no pivot of zoe"), (["ada"], "1 names"), (["ada", "eve"], "prompts")):
        with pytest.raises(PersonalWeightsError, match=f"{said}.*Remedy"):
            household.restore(x, who, seeds=[0, 1], **OPTIONS)
    with pytest.raises(PersonalWeightsError, match="another base.*Remedy"):
        AdapterServer(tiny_system.build(seed=3)).add("ada", folders["ada"])
