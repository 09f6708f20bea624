"""Several people on one base: each picture of a batch is restored with its own person's adapters."""

import hashlib
import json
import shutil

import pytest
import tiny_system
import torch
from safetensors.torch import load_file, save_file

from lib import dual_pivot, load_personal, prepare, textual_pivot
from lib.errors import PersonalWeightsError, RangeError
from lib.models import system
from lib.models.precision import Precision
from lib.restoration import adapter_server
from lib.restoration.adapter_server import AdapterServer
from lib.restoration.sampling import restore
from lib.training.trainer import Training

OPTIONS = dict(steps=2, w=1.5)


@pytest.fixture(scope="module")
def B():
    return tiny_system.build()


def tuned(B, seed, folder, lora=4):
    """The folder of a person's weights, tuned hard so that it shows."""
    training = Training(steps=4, lr=3e-2, batch=2, lora=lora, seed=seed, quiet=True)
    pictures = tiny_system.pictures(2, seed)
    dual_pivot(B, pictures, textual=training, model=training, degradations=1).save_personal(folder)
    return folder


@pytest.fixture(scope="module")
def folders(B, tmp_path_factory):
    home = tmp_path_factory.mktemp("people")
    return {name: tuned(B, seed, home / name) for seed, name in enumerate(("ada", "bo", "cleo"))}


@pytest.fixture(scope="module")
def alone(B, folders):
    """name -> the system of that person alone."""
    return {name: load_personal(folder, B) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def filled(B, folders):
    server = AdapterServer(B)
    for name, folder in folders.items():
        server.add(name, folder)
    return server


@pytest.fixture
def server(filled):
    """A server of three people that a test does not add anybody to."""
    yield filled
    assert list(filled.cards) == ["ada", "bo", "cleo"]


WOMAN = dict(class_noun="woman", prompt="a photo of a sks woman", class_prompt="a photo of a woman")


def edit(folder, **facts):
    """Change facts on a card."""
    card = json.loads((folder / "personal.json").read_text())
    (folder / "personal.json").write_text(json.dumps(card | facts))
    return folder


def forge(folder, change):
    """Change the tensors of E's adapters by `change(tensors)`, and the card's digest with them."""
    file = folder / "control" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    files = json.loads((folder / "personal.json").read_text())["files"]
    files["control/adapter_model.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return edit(folder, files=files)


# ---- restoring ----


def test_a_mixed_batch_is_everybodys_own_restoration(alone, server):
    x, names = tiny_system.pictures(4, 9), ["bo", "ada", "cleo", "ada"]
    together = server.restore(x, names, seeds=0, **OPTIONS)
    apart = {name: restore(B_p, x, seeds=0, **OPTIONS) for name, B_p in alone.items()}
    for n, name in enumerate(names):
        assert torch.allclose(together[n], apart[name][n], atol=2e-4)
        others = [float((together[n] - apart[other][n]).abs().mean()) for other in apart if other != name]
        assert min(others) > 1e-3  # the wrong person's would show


def test_twenty_pictures_in_batches_of_four_are_the_same_as_alone(alone, server, monkeypatch):
    sizes, real = [], adapter_server.restore
    monkeypatch.setattr(adapter_server, "restore", lambda B, x, **kw: sizes.append(len(x)) or real(B, x, **kw))
    x, names, seeds = tiny_system.pictures(20, 3), [*alone] * 6 + ["bo", "ada"], torch.arange(50, 70)
    together = server.restore(x, names, seeds=50, batch=4, steps=2)
    assert sizes == [4] * 5
    for name, B_p in alone.items():
        here = [n for n in range(20) if names[n] == name]
        assert torch.allclose(together[here], restore(B_p, x[here], seeds=seeds[here], steps=2), atol=2e-4)


def test_prompt_and_gamma_are_the_tuned_ones(B, alone, server):
    x, asked = tiny_system.pictures(1, 4), dict(seeds=0, steps=4, allow_untuned_steps=True)
    served = server.restore(x, ["ada"], **asked)
    other = B.with_(G=alone["ada"].G, E=alone["ada"].E)  # without the settings of the person
    assert torch.allclose(served, restore(other, x, "a photo of a sks person", gamma=0.5, **asked), atol=2e-4)
    for gamma in (0.0, 1.0):
        unlike = restore(alone["ada"], x, gamma=gamma, **asked)
        assert not torch.allclose(served, unlike, atol=1e-3)
        assert torch.allclose(server.restore(x, "ada", gamma=gamma, **asked), unlike, atol=2e-4)
    with pytest.raises(RangeError, match="tuned with 0.5.*Remedy"):
        server.restore(x, ["ada"], seeds=0, gamma=0.25, **OPTIONS)


def test_in_bfloat16_every_weight_that_is_used_is_bfloat16(folders):
    B, dtypes = tiny_system.build(), []
    for network in (B.G, B.E):  # hooks are copied with the network
        network.register_forward_pre_hook(lambda module, _: dtypes.append({p.dtype for p in module.parameters()}))
    server = AdapterServer(B)
    server.add("ada", folders["ada"])
    x = tiny_system.pictures(2, 4)
    low = server.restore(x, ["ada", "ada"], seeds=0, precision=Precision("bfloat16"), **OPTIONS)
    assert dtypes and all(found == {torch.bfloat16} for found in dtypes)
    dtypes.clear()
    high = server.restore(x, ["ada", "ada"], seeds=0, **OPTIONS)
    assert all(found == {torch.float32} for found in dtypes)
    assert 0 < float((low - high).abs().mean()) < 0.02


def test_the_base_makes_room_before_the_pictures_are_restored(B, server, monkeypatch):
    order, real = [], adapter_server.restore
    monkeypatch.setattr(adapter_server, "move_to_device", lambda system, others: order.append((system, others)))
    monkeypatch.setattr(
        adapter_server, "restore", lambda system, *a, **k: order.append(system) or real(system, *a, **k)
    )
    server.restore(tiny_system.pictures(1), ["ada"], seeds=0, **OPTIONS)
    (moved, others), restoring = order
    assert moved is restoring and moved.G is not B.G and len(others) == 1 and others[0] is B


# ---- adding ----


def test_the_base_is_hashed_once_and_stays_as_it_was(folders, monkeypatch):
    B, hashed, digest = tiny_system.build(), [], system._digest
    before = {name: tiny_system.state(module) for name, module in B.modules().items()}
    monkeypatch.setattr(system, "_digest", lambda *args: hashed.append(1) or digest(*args))
    server = AdapterServer(B)
    for name, folder in folders.items():
        server.add(name, folder)
    assert len(hashed) == 1
    server.restore(tiny_system.pictures(1), ["ada"], seeds=[0], **OPTIONS)
    assert server.base is B and len(server.networks) == 2
    assert all(tiny_system.same(before[name], module.state_dict()) for name, module in B.modules().items())


def test_a_person_may_have_any_name(B, folders, alone):
    """peft would take some of these for the name of a layer."""
    server, x, names = AdapterServer(B), tiny_system.pictures(3), ["a.b c", "to_q", "0"]
    for name, folder in zip(names, folders.values()):
        server.add(name, folder)
    served = server.restore(x, names, seeds=0, steps=2)
    for n, B_p in enumerate(alone.values()):
        assert torch.allclose(served[n], restore(B_p, x[n], seeds=n, steps=2)[0], atol=2e-4)


def lose(tensors):
    tensors.pop(sorted(tensors)[0])


def spoil(tensors):
    tensors[sorted(tensors)[0]].fill_(float("nan"))


@pytest.mark.parametrize("people, damage", [([], lose), (["bo"], spoil)], ids=["first", "second"])
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_a_damaged_folder_leaves_nothing_and_the_good_one_takes_its_name(B, folders, alone, tmp_path, people, damage):
    """G's adapters are good and loaded first; E's are not."""
    server, x = AdapterServer(B), tiny_system.pictures(2)
    for name in people:
        server.add(name, folders[name])
    damaged = forge(shutil.copytree(folders["ada"], tmp_path / "damaged"), damage)
    with pytest.raises(PersonalWeightsError, match="damaged.*control.*Remedy"):
        server.add("ada", damaged)
    assert list(server.cards) == people and len(server.networks) == 2 * len(people)
    assert all(len(network.peft_config) == len(people) for network in server.networks.values())
    server.add("ada", folders["ada"])
    served = server.restore(x, ["ada", (people or ["ada"])[0]], seeds=0, steps=2)
    assert torch.allclose(served[0], restore(alone["ada"], x[0], seeds=0, steps=2)[0], atol=2e-4)


def test_an_interrupted_add_leaves_nothing(B, folders, monkeypatch):
    server = AdapterServer(B)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adapter_server, "check_loaded", interrupt)
        server.add("ada", folders["ada"])
    assert server.networks == server.cards == {}
    server.add("ada", folders["ada"])


def test_what_cannot_be_served_is_named(B, folders, tmp_path):
    server = AdapterServer(B)
    server.add("ada", folders["ada"])
    with pytest.raises(PersonalWeightsError, match="name in use: ada.*Remedy"):
        server.add("ada", folders["bo"])
    with pytest.raises(PersonalWeightsError, match="not adapters.*Remedy"):
        server.add("dora", tuned(B, 5, tmp_path / "full", lora=0))
    server.add("eve", edit(shutil.copytree(folders["bo"], tmp_path / "eve"), **WOMAN))
    server.add("fay", edit(shutil.copytree(folders["bo"], tmp_path / "fay"), gamma=0.25))
    x = tiny_system.pictures(2)
    for names, said in (
        (["ada", "zoe"], "no adapters of zoe"),
        (["ada"], "1 names"),
        (["ada", "eve"], "prompts"),
        (["ada", "fay"], "gammas"),
    ):
        with pytest.raises(PersonalWeightsError, match=f"{said}.*Remedy"):
            server.restore(x, names, seeds=[0, 1], **OPTIONS)
    with pytest.raises(PersonalWeightsError, match="another base.*Remedy"):
        AdapterServer(tiny_system.build(seed=3)).add("ada", folders["ada"])


def test_people_whose_tuning_changed_other_networks_are_refused(B, folders, tmp_path):
    training = Training(steps=1, lora=4, batch=1, quiet=True)
    data = prepare(B, tiny_system.pictures(1), degradations=1)
    textual_pivot(B, data, training=training).save_personal(tmp_path / "G alone")
    server = AdapterServer(B)
    server.add("ada", folders["ada"])
    with pytest.raises(PersonalWeightsError, match="other networks.*Remedy"):
        server.add("gus", tmp_path / "G alone")
    alone = AdapterServer(B)
    alone.add("gus", tmp_path / "G alone")
    x = tiny_system.pictures(1)
    served = alone.restore(x, ["gus"], seeds=0, steps=2)
    assert torch.allclose(served, restore(load_personal(tmp_path / "G alone", B), x, seeds=0, steps=2), atol=2e-4)
