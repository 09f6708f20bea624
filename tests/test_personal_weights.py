"""Personal weights on disk: they come back exactly, open with plain peft, and nothing damaged or strange is loaded."""

import copy
import errno
import hashlib
import json
import shutil

import pytest
import tiny_system
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lib.errors import NoSpaceError, PersonalWeightsError
from lib.models import personal_weights
from lib.models.personal_weights import CARD, KEYS, Personal, load_personal, picture_hash
from lib.models.tiny import build_tokenizer
from lib.training.trainer import Training
from lib.training.tunable import tunable

ADAPTERS = "unet/adapter_model.safetensors"


@pytest.fixture
def folder(dual, tmp_path):
    """Full weights of a person."""
    dual.save_personal(tmp_path / "ada")
    return tmp_path / "ada"


@pytest.fixture(scope="module")
def G_adapted(B, adapted):
    """A system with adapters in G alone, which load in half the time."""
    return adapted.with_(E=B.E)


@pytest.fixture
def adapters(G_adapted, tmp_path):
    """Adapters of a person."""
    G_adapted.save_personal(tmp_path / "bo")
    return tmp_path / "bo"


@torch.no_grad()
def predictions(B):
    x, hint = torch.randn(2, 2, *tiny_system.LATENT, generator=torch.Generator().manual_seed(4))
    prompts = B.embed(["a photo of a sks person", "a photo"])
    return B.predict(x, torch.tensor([100, 800]), prompts, hint, B.embed([""] * 2))


def rewrite(folder, **changes):
    """Change fields of the card, and make every digest fit."""
    card = json.loads((folder / CARD).read_text())
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != CARD]
    digests = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / CARD).write_text(json.dumps({**card, "files": digests, **changes}))


def change_tensors(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file)


def refused(folder, B, message=""):
    with pytest.raises(PersonalWeightsError, match=f"(?s){message}.*Remedy"):
        load_personal(folder, B)


# ---- there and back ----


def test_full_weights_come_back_exactly_with_their_card(B, dual, folder):
    again = load_personal(folder, B)
    assert tiny_system.changed(dual, again) == [] and again.vae is B.vae and again.base is B
    assert again.fingerprint() == dual.fingerprint() != B.fingerprint()
    assert again.personal == dual.personal and again.personal.steps == (3, 3) and again.personal.gamma == 0.3
    assert not any(p.requires_grad for module in again.modules().values() for p in module.parameters())
    assert not again.G.training and torch.equal(predictions(again), predictions(dual))


def test_the_card_says_what_was_tuned(B, data, folder):
    card = json.loads((folder / CARD).read_text())
    assert card.keys() == KEYS.keys()
    assert {name: card[name] for name in card if name != "files"} == {
        "token": "sks",
        "class_noun": "person",
        "prompt": "a photo of a sks person",
        "class_prompt": "a photo of a person",
        "gamma": 0.3,
        "steps": [3, 3],
        "seed": 0,
        "references": data.references,
        "base": B.fingerprint(),
        "changed": ["G", "E"],
    }
    assert sorted(card["files"]) == ["control.safetensors", "unet.safetensors"]


def test_adapters_come_back_exactly_and_plain_peft_opens_them(B, adapted, tmp_path):
    adapters = tmp_path / "bo"
    adapted.save_personal(adapters)
    again = load_personal(adapters, B)
    assert torch.equal(predictions(again), predictions(adapted)) and again.personal == adapted.personal
    assert not torch.allclose(predictions(again), predictions(B), atol=1e-3)
    G = PeftModel.from_pretrained(copy.deepcopy(B.G), str(adapters / "unet")).eval()
    E = PeftModel.from_pretrained(copy.deepcopy(B.E), str(adapters / "control")).eval()
    assert torch.equal(predictions(B.with_(G=G, E=E)), predictions(adapted))
    tensors = [tensor for file in adapters.rglob("*.safetensors") for tensor in load_file(file).values()]
    assert tensors and {tensor.dtype for tensor in tensors} == {torch.float16}  # two bytes each, and nothing lost by it


def test_only_what_changed_is_written(B, dual, tmp_path):
    for part, other, file in (("G", "E", "unet"), ("E", "G", "control")):
        dual.with_(**{other: getattr(B, other)}).save_personal(tmp_path / part)
        assert {f.name for f in (tmp_path / part).iterdir()} == {CARD, f"{file}.safetensors"}
        again = load_personal(tmp_path / part, B)
        assert getattr(again, other) is getattr(B, other) and tiny_system.changed(B, again) == [file]


def test_adapters_of_one_network_and_full_weights_of_the_other(B, dual, adapted, tmp_path):
    mixed = adapted.with_(E=dual.E)
    mixed.save_personal(tmp_path / "mixed")
    assert torch.equal(predictions(load_personal(tmp_path / "mixed", B)), predictions(mixed))


def test_a_system_that_was_not_tuned_is_not_saved(B, tmp_path):
    with pytest.raises(PersonalWeightsError, match="not a tuned system.*Remedy"):
        B.save_personal(tmp_path / "ada")
    with pytest.raises(PersonalWeightsError, match="nothing was tuned.*Remedy"):
        B.personalised(Personal()).save_personal(tmp_path / "ada")
    assert not (tmp_path / "ada").exists()


def test_adapters_on_other_weights_than_the_base_s_are_not_saved(B, dual, tmp_path):
    """peft stores adapters alone: on the base's weights they would be another network."""
    on_tuned = dual.with_(G=tunable(dual.G, Training(lora=2)))
    with pytest.raises(PersonalWeightsError, match="adapters on other weights than the base's.*Remedy"):
        on_tuned.save_personal(tmp_path / "ada")
    assert list(tmp_path.iterdir()) == []


# ---- another base ----


def test_another_base_is_refused(folder):
    refused(folder, tiny_system.build(1), "another base")


def rescaled(B):
    B.vae.register_to_config(scaling_factor=0.5)


def v_prediction(B):
    B.scheduler.register_to_config(prediction_type="v_prediction")


def other_betas(B):
    B.scheduler.register_to_config(beta_end=0.02)


def other_words(B):
    B.tokenizer = build_tokenizer(["glasses"])


def one_cleaner_weight(B):
    next(B.cleaner.parameters())[0].add_(1e-3)


@pytest.mark.parametrize("change", [rescaled, v_prediction, other_betas, other_words, one_cleaner_weight])
@torch.no_grad()
def test_the_base_s_settings_are_part_of_it(B, folder, change):
    other = tiny_system.build()
    assert other.fingerprint() == B.fingerprint()
    load_personal(folder, other)
    change(other)
    assert other.fingerprint() != B.fingerprint()
    refused(folder, other, "another base")


# ---- damage that digests show ----


def test_a_missing_folder_or_file_is_named(B, folder, tmp_path):
    refused(tmp_path / "nowhere", B, "no personal weights: .*nowhere")
    (folder / "unet.safetensors").unlink()
    refused(folder, B, "damaged personal weights.*unet")
    (folder / CARD).unlink()
    refused(folder, B, "no personal weights")


def test_changed_files_are_named(B, folder):
    weights = (folder / "unet.safetensors").read_bytes()
    for content in (weights[:-500], b"", (folder / "control.safetensors").read_bytes()):
        (folder / "unet.safetensors").write_bytes(content)
        refused(folder, B, "damaged personal weights.*changed since saving: unet.safetensors")
    (folder / "unet.safetensors").write_bytes(weights)
    (folder / "stranger.safetensors").write_bytes(weights)
    refused(folder, B, "changed since saving: stranger.safetensors")


def test_changed_adapters_are_named(B, adapters):
    file = adapters / ADAPTERS
    file.write_bytes(file.read_bytes()[:-100])
    refused(adapters, B, "damaged personal weights.*unet")
    shutil.rmtree(adapters / "unet")
    refused(adapters, B, "damaged personal weights.*unet")


@pytest.mark.parametrize("text", ["{", "", "null", "[]", "5", "\\x00"])
def test_a_card_that_is_none_is_named(B, folder, text):
    (folder / CARD).write_text(text)
    refused(folder, B)


# ---- damage with digests that fit ----


@pytest.mark.parametrize("name", list(KEYS))
def test_a_missing_or_mistyped_field_of_the_card_is_named(B, folder, name):
    card = json.loads((folder / CARD).read_text())
    others = {key: value for key, value in card.items() if key != name}
    for odd in (others, card | {name: None}, card | {name: 1}, card | {name: True}):
        if odd.get(name) == 1 and type(card[name]) is int:
            continue
        (folder / CARD).write_text(json.dumps(odd))
        refused(folder, B, f"incomplete card.*{name}")


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 7.0},
        {"gamma": -0.5},
        {"gamma": float("nan")},
        {"gamma": float("inf")},
        {"prompt": "a photo of a dog"},
        {"prompt": ""},
        {"class_prompt": "a photo of a sks person"},
        {"token": "zwx"},
        {"changed": []},
        {"changed": ["Q"]},
        {"changed": ["G", "G"]},
        {"changed": ["G"]},
        {"changed": ["E"]},
        {"steps": [1]},
        {"steps": [1, -1]},
        {"steps": ["a", None]},
    ],
    ids=str,
)
def test_a_card_that_cannot_be_is_named(B, folder, changes):
    rewrite(folder, **changes)
    refused(folder, B, "damaged")


def lost(state):
    del state[sorted(state)[3]]


def stray(state):
    state["stray"] = torch.zeros(1)


def only_stray(state):
    state.clear()
    stray(state)


def not_a_number(state):
    state[sorted(state)[3]].view(-1)[0] = float("nan")


def infinite(state):
    state[sorted(state)[3]].view(-1)[0] = float("inf")


def other_shape(state):
    name = sorted(state)[3]
    state[name] = torch.cat([state[name], state[name]])


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("change", [lost, stray, only_stray, not_a_number, infinite, other_shape])
@pytest.mark.parametrize("kind, file", [("folder", "unet.safetensors"), ("adapters", ADAPTERS)])
def test_tensors_that_do_not_fit_are_named_although_all_digests_do(B, request, kind, file, change):
    folder = request.getfixturevalue(kind)
    change_tensors(folder / file, change)
    rewrite(folder)
    refused(folder, B, "damaged personal weights.*unet")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys", "ignore:Unexpected keyword arguments")
@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": [".*"]},
        {"target_modules": ".*"},
        {"target_modules": ["to_q"]},
        {"lora_alpha": 20},
        {"r": 3},
        {"use_rslora": True},
        {"alpha_pattern": {"conv1": 9}},
        {"peft_type": "LOHA"},
        {"r": None},
    ],
    ids=str,
)
def test_other_settings_of_adapters_are_named_although_all_digests_fit(B, adapters, changes):
    file = adapters / "unet" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    rewrite(adapters)
    refused(adapters, B, "damaged personal weights.*unet")


@pytest.mark.parametrize("kind", ["folder", "adapters"])
def test_a_card_that_was_written_again_is_accepted(B, request, kind):
    """So what the tests around this one change, and not their digests, is refused."""
    folder = request.getfixturevalue(kind)
    rewrite(folder)
    load_personal(folder, B)


def test_weights_of_a_network_that_the_card_does_not_name_are_refused(B, folder):
    shutil.copy(folder / "unet.safetensors", folder / "vae.safetensors")
    rewrite(folder)
    refused(folder, B, "damaged personal weights.*vae")


# ---- saving ----


@pytest.mark.parametrize(
    "failure, seen",
    [
        (OSError(errno.ENOSPC, "No space left on device"), NoSpaceError),
        (RuntimeError("broken"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_a_failed_save_leaves_nothing_or_the_older_weights(adapted, dual, folder, tmp_path, monkeypatch, failure, seen):
    def half(tensors, path):
        path.write_bytes(b"half")
        raise failure

    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(personal_weights, "save_file", half)
    for target in (tmp_path / "fresh", folder):
        with pytest.raises(seen):
            dual.save_personal(target)
    assert [file.name for file in tmp_path.iterdir()] == ["ada"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_newer_save_replaces_the_older_one(B, G_adapted, folder):
    G_adapted.save_personal(folder)
    assert sorted(file.name for file in folder.iterdir()) == [CARD, "unet"]
    assert torch.equal(predictions(load_personal(folder, B)), predictions(G_adapted))


# ---- names and hashes ----


def test_prompts_are_made_of_token_and_class():
    assert Personal("zwx", "man").prompt == "a photo of a zwx man"
    assert Personal("zwx", "man").class_prompt == "a photo of a man"
    assert Personal(token="").prompt == "" and Personal().gamma == 0.5


def test_the_hash_of_pictures_is_of_every_pixel():
    pictures = tiny_system.pictures(2)
    other = pictures.clone()
    other[1, 2, 3, 4] += 1 / 127.5
    assert picture_hash(pictures) == picture_hash(pictures.clone()) != picture_hash(other)
    assert len(picture_hash(other)) == 16
