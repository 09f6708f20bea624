"""Personal weights: what tuning changed in G and E of one person, on disk with a JSON card.

The card names the prompt, gamma, the base system and the references. Adapters are stored as peft writes them, full
weights as safetensors.
"""

import copy
import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from lib import checks
from lib.errors import PersonalWeightsError, RangeError
from lib.models.system import FIELD, GAMMA, RARE_TOKEN
from lib.paths import atomic_write, from_root

CARD = "personal.json"
ADAPTED = (
    "to_q to_k to_v to_out.0 proj_in proj_out net.0.proj net.2 conv1 conv2 conv_shortcut conv time_emb_proj".split()
)  # every layer of the blocks: adapters on attention alone keep less than half of the identity gain
NOTES = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version"}  # of peft: they decide no result
KEYS = {"token": str, "class_noun": str, "prompt": str, "class_prompt": str, "gamma": float, "steps": list, "seed": int}
KEYS |= {"references": str, "base": str, "changed": list, "files": dict}


def adapter_config(rank):
    """peft's settings of the adapters that this workbook tunes, of rank `rank`; their scale is 1."""
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ADAPTED), init_lora_weights="gaussian")


@dataclass(frozen=True)
class Personal:
    """What belongs to tuned weights: the text pivot, gamma, and on what they were tuned.

    Args: token, the rare token, "" for weights that were tuned without a text pivot; class_noun, such as "person";
    gamma, in [0, 1], section IV-C; steps, (textual, model); seed; references, `picture_hash` of the reference pictures.
    """

    token: str = RARE_TOKEN
    class_noun: str = "person"
    gamma: float = GAMMA
    steps: tuple = (0, 0)
    seed: int = 0
    references: str = ""

    @property
    def prompt(self):
        """The text pivot p, "a photo of a sks person"; the empty prompt without a token."""
        return f"a photo of a {self.token} {self.class_noun}" if self.token else ""

    @property
    def class_prompt(self):
        """p^pr of eq. 2: the prompt of the class, "a photo of a person"."""
        return f"a photo of a {self.class_noun}"


def picture_hash(pictures):
    """16 hex digits of the SHA-256 of pictures (N, 3, H, W)."""
    return hashlib.sha256(pictures.cpu().float().numpy().tobytes()).hexdigest()[:16]


def save(folder, B_p):
    """Write the personal weights of a tuned system, whole or not at all.

    Adapters are written in half precision, full weights in single precision.
    Args: folder, seen from the repository; B_p, a System that a pivot returned.
    Raises PersonalWeightsError for a system that is not tuned, or whose adapters lie on other weights than its base's;
    NoSpaceError.
    """
    base, folder = B_p.base, from_root(folder)
    if B_p.personal is None or base is None:
        raise PersonalWeightsError(
            f"not a tuned system: {folder}. Remedy: save what textual_pivot or dual_pivot returned."
        )
    changed = [part for part in FIELD.values() if getattr(B_p, part) is not getattr(base, part)]
    if not changed:
        raise PersonalWeightsError(f"nothing was tuned: G and E are the base's: {folder}. Remedy: tune one of them.")
    card = {**asdict(B_p.personal), "steps": list(B_p.personal.steps), "prompt": B_p.personal.prompt}
    card |= {"class_prompt": B_p.personal.class_prompt, "base": base.fingerprint(), "changed": changed}
    with atomic_write(folder) as aside:
        aside.mkdir()
        for name, part in FIELD.items():
            if part in changed:
                _write(aside, name, getattr(B_p, part), getattr(base, part))
        card["files"] = _digests(aside)
        (aside / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _write(folder, name, network, original):
    if not isinstance(network, PeftModel):
        save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
        return
    check_adapters(network, original)
    halves = {k: v.half() for k, v in network.state_dict().items() if "lora_" in k}
    network.save_pretrained(folder / name, state_dict=halves)


def check_adapters(network, original):
    """Raises PersonalWeightsError unless the weights below a network's adapters are those of `original`.

    peft stores adapters alone. On other weights they would be another network.
    """
    below = {
        k.replace(".base_layer", ""): v for k, v in network.get_base_model().state_dict().items() if "lora_" not in k
    }
    expected = original.state_dict()
    if below.keys() != expected.keys() or not all(torch.equal(v.cpu(), expected[k].cpu()) for k, v in below.items()):
        raise PersonalWeightsError(
            "adapters on other weights than the base's: loading them would give another network. "
            "Remedy: tune the base system itself, or tune with lora 0, which merges the adapters."
        )


def load_personal(folder, base):
    """The base system with a person's weights in it, frozen; its `personal` is that of the folder.

    Args: folder, that `System.save_personal` wrote, seen from the repository; base, the System it was tuned on.
    Raises PersonalWeightsError where the folder is missing, damaged, incomplete or not finite, or has another base.
    """
    folder, card = from_root(folder), read_card(folder, base)
    parts = {part: _read(folder, name, getattr(base, part)) for name, part in FIELD.items() if part in card["changed"]}
    parts = {part: network.to(base.device) for part, network in parts.items()}
    return base.personalised(personal_of(card), **parts).freeze()


def personal_of(card):
    """The Personal of a checked card."""
    fields = {key: card[key] for key in ("token", "class_noun", "gamma", "seed", "references")}
    return Personal(**fields, steps=tuple(card["steps"]))


def read_card(folder, base):
    """The card of a folder of personal weights, checked with its files against `base`, as a dict.

    Raises PersonalWeightsError as `load_personal`.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise PersonalWeightsError(f"no personal weights: {folder} has no {CARD}. Remedy: give a saved folder.")
    with reading(folder / CARD) as file:
        card = json.loads(file.read_text())
    _check_card(card, folder)
    if card["files"] != (found := _digests(folder)):
        names = sorted({*card["files"], *found})
        differ = ", ".join(name for name in names if card["files"].get(name) != found.get(name))
        raise PersonalWeightsError(
            f"damaged personal weights: {folder}: changed since saving: {differ}. Remedy: save again."
        )
    _check_files(card, folder)
    if card["base"] != base.fingerprint():
        raise PersonalWeightsError(
            f"personal weights of another base: {folder} needs {card['base']}, this system is {base.fingerprint()}. "
            "Remedy: load the system it was tuned on, or tune the person again."
        )
    return card


def _check_card(card, folder):
    card = card if isinstance(card, dict) else {}
    if wrong := [key for key, kind in KEYS.items() if not isinstance(card.get(key), kind)]:
        raise PersonalWeightsError(f"incomplete card: {folder / CARD} lacks {', '.join(wrong)}. Remedy: save again.")
    try:
        checks.fraction("gamma", card["gamma"])
    except RangeError as error:
        raise PersonalWeightsError(f"damaged card: {folder / CARD}: {error}") from error
    personal = personal_of(card)
    prompts = card["prompt"] == personal.prompt and card["class_prompt"] == personal.class_prompt
    steps = len(personal.steps) == 2 and all(type(count) is int and count >= 0 for count in personal.steps)
    if card["changed"] not in (["G"], ["E"], ["G", "E"]) or not prompts or not steps:
        raise PersonalWeightsError(
            f"damaged card: {folder / CARD}: its fields contradict each other. Remedy: save again."
        )


def _check_files(card, folder):
    """Raises PersonalWeightsError unless a folder holds weights of each part that changed, and of no other."""
    found = sorted({Path(file).parts[0].removesuffix(".safetensors") for file in card["files"]})
    expected = sorted(name for name, part in FIELD.items() if part in card["changed"])
    if found != expected:
        raise PersonalWeightsError(
            f"damaged personal weights: {folder} holds {', '.join(found) or 'none'}, its card names "
            f"{', '.join(expected)}. Remedy: save again."
        )


def _digests(folder):
    """file -> SHA-256 of what a folder holds besides its card and hidden files."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != CARD and not f.name.startswith(".")]
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _read(folder, name, original):
    """One network of a folder of personal weights, from a copy of the base's."""
    network = copy.deepcopy(original)
    if (folder / name).is_dir():
        with reading(folder / name):
            network = PeftModel.from_pretrained(network, str(folder / name))
            check_loaded(network, load_file(folder / name / "adapter_model.safetensors"))
        return network
    with reading(folder / f"{name}.safetensors") as file:
        state = load_file(file)
        _check_finite(state)
        network.load_state_dict(state, strict=True)
    return network


def check_loaded(network, state, adapter="default"):
    """Raises ValueError unless a file of adapters holds exactly the finite tensors that ADAPTED layers have.

    Their settings must be those of `adapter_config`: peft would read others as another network.
    """
    config = network.peft_config[adapter].to_dict()
    expected = adapter_config(config["r"]).to_dict()
    differ = sorted(key for key in expected.keys() - NOTES if config.get(key) != expected[key])
    if differ:
        raise ValueError(f"adapters with other settings: {differ[0]} is {str(config.get(differ[0]))[:40]}")
    expected = get_peft_model_state_dict(network, adapter_name=adapter).keys()
    if differ := sorted(expected ^ state.keys()):
        raise ValueError(f"{len(differ)} tensors missing or unknown: {differ[0]}")
    _check_finite(state)


def _check_finite(state):
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"not finite: {wrong[0]}")


@contextmanager
def reading(file):
    """Turns whatever peft, safetensors, torch and json raise while `file` is read into PersonalWeightsError."""
    try:
        yield file
    except Exception as error:
        raise PersonalWeightsError(
            f"damaged personal weights: {file} ({str(error)[:160]}). Remedy: save again."
        ) from error
