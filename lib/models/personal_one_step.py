"""A personal one-step restorer on disk: its adapter, what was computed of the references, and a JSON card."""

import hashlib
import json

from safetensors.torch import load_file, save_file

from lib.errors import PersonalWeightsError
from lib.models.one_step import ADAPTER, Described, nobody
from lib.models.one_step_folder import load_adapters, save_adapters
from lib.paths import atomic_write, from_root

CARD, ADAPTERS, REFERENCES = "personal_onestep.json", "pytorch_lora_weights.safetensors", "references.safetensors"


def fingerprint(one):
    """16 hex digits of a SHA-256 over the base, the options, and the adapters and embedder of a one-step restorer."""
    digest = hashlib.sha256(f"{one.B.fingerprint()} {one.T_L} {one.cleaned} {one.recogniser}".encode())
    encoder = [] if one.vae is None else [(one.vae, "lora_")]
    for module, part in ((one.G, "lora_"), (one.embedder, ""), *encoder):
        for name, value in sorted(module.state_dict().items()):
            if part in name and f".{ADAPTER}." not in name:
                digest.update(name.encode() + value.half().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_personal_one_step(folder, personal, described):
    """Write a personal one-step restorer, whole or not at all: it restores later without the reference pictures.

    Args: folder, seen from the repository; personal, what `distil` returned; described, the person's references as
    `lib.restoration.one_step.describe` returned them. Raises PersonalWeightsError for a restorer that is not personal.
    """
    if ADAPTER not in getattr(personal.G, "peft_config", {}):  # which a merged G has lost
        raise PersonalWeightsError(f"not a personal restorer: {folder}. Remedy: save what distil returned.")
    with atomic_write(from_root(folder)) as aside:
        aside.mkdir()
        save_adapters(aside / ADAPTERS, personal.G, ADAPTER)
        save_file({name: value.cpu().contiguous() for name, value in vars(described).items()}, aside / REFERENCES)
        (aside / CARD).write_text(json.dumps({"restorer": fingerprint(personal)}, indent=1) + "\n")


def load_personal_one_step(folder, one):
    """The personal restorer of a folder on the restorer `one` that it was distilled on, and its Described references.

    Raises PersonalWeightsError: a missing or damaged file, or another restorer; WeightsError for damaged adapters.
    """
    folder = from_root(folder)
    try:
        made_on = json.loads((folder / CARD).read_text())["restorer"]
        described = Described(**load_file(folder / REFERENCES)).to(one.B.device)
    except Exception as error:  # json and safetensors each raise their own
        raise PersonalWeightsError(
            f"no personal one-step restorer: {folder} ({type(error).__name__}: {str(error)[:120]}). "
            "Remedy: give the folder that save_personal_one_step wrote."
        ) from error
    shapes = [tuple(value.shape[1:]) for value in vars(described).values()]
    wanted = [tuple(value.shape[1:]) for value in vars(nobody(one.embedder.shape, one.B.device)).values()]
    if made_on != fingerprint(one) or shapes != wanted:
        raise PersonalWeightsError(
            f"of another restorer: {folder} was distilled on {made_on}, this one is {fingerprint(one)}. "
            "Remedy: open the restorer that it was distilled on, or distil again."
        )
    G = load_adapters(one.G, folder / ADAPTERS, ADAPTER)
    G.set_adapters([*one.G.peft_config, ADAPTER])
    return one.with_(G=G), described
