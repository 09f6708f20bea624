"""What a parameter may be, by its name: ranges, choices, people and folders, asked before a kernel starts."""

import re

from lib import checks, paths
from lib.errors import ParameterError
from lib.runs import folders

# The last word of a parameter's name says its range, in every notebook alike.
LEAST = {
    "STEPS": 0,
    "SEED": 0,
    "PRIOR": 0,
    "LORA": 0,
    "INPUTS": 1,
    "SEEDS": 1,
    "BATCH": 1,
    "REFERENCES": 1,
    "DRAWS": 1,
    "CROWD": 1,
    "IMAGES": 1,
    "BATCHES": 1,
    "MEASURED": 1,
    "COPIES": 1,
    "SAMPLES": 20,
    "HELD_OUT": 1,
    "FOLDS": 1,
    "TEXTUAL_STEPS": 1,
    "MODEL_STEPS": 1,
    "DISTIL_STEPS": 1,
    "NETWORK_STEPS": 1,
    "WARM_STEPS": 1,
    "ABLATION_STEPS": 1,
    "SAMPLING_STEPS": 2,
    "FEWER": 0,
    "LONGER": 0,
}
MOST = {
    "SAMPLING_STEPS": 1000,  # what the schedule has
    "SEED": 2**32 - 1,  # seeds of steps and pictures are made from it by multiplication
    "BATCH": 4096,
    "LORA": 1024,
    "RATE": 1.0,
}
RECIPES = ("none", "codeformer", "dpt", "realesrgan", "tiny", "tiny-heavy", "tiny-extreme", "photo", "photo-heavy")
CHOICES = {  # what other modules offer; a test holds the two together
    "ARM": ("swap", "in-context", "encoder-only", "swap + model pivot", "dual pivot"),
    "RECIPES": RECIPES,
    "ARMS": ("blind", "swap", "in-context", "encoder-only", "swap + model pivot", "dual pivot"),
    "TRAINED": ("all", "repo150"),
    "OTHERS": ("leave", "blind"),
    "PRECISION": ("float32", "bfloat16"),
    "RECIPE": RECIPES,
    "HEAVY": RECIPES,
    "ABLATIONS": ("all losses", "no MFA", "MFA by DISTS", "MFA by MSE", "no identity loss", "no GAN"),
}
PROCEDURAL = re.compile(r"people:[0-9]{1,18}")
RANDOM = "random"  # SYSTEM of notebook 22: random weights of full size
SHIPPED = ""  # SYSTEM: the shipped one of the person's kind
TRAINING_DIGITS = range(8)  # last digits of the seeds of people that the shipped weights were trained on
PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def check(name, value):
    """The value, where its name allows it. Raises RangeError, DeviceError."""
    last = name.split("_")[-1]
    choices = CHOICES.get(name)
    if isinstance(value, list):
        checks.distinct(name, value)
        return [checks.choice(name, item, choices) for item in value] if choices else value
    if choices:
        return checks.choice(name, value, choices)
    if last == "DEVICE":
        return checks.device(value)
    if last == "GAMMA":
        return checks.fraction(name, value)
    if last == "RATE":
        return _at_most(name, checks.positive(name, value))
    least = LEAST.get(name, LEAST.get(last))
    return value if least is None else checks.whole(name, value, least, MOST.get(name, MOST.get(last)))


def _at_most(name, value):
    """A learning rate: above 1 every tuning diverges."""
    return checks.finite(name, value) if value <= MOST["RATE"] else checks.fraction(name, value)


def check_places(values):
    """Checks the people, photographs and system that a run names, without opening them. Raises ParameterError."""
    lists = [
        values.get(name) for name in ("PEOPLE", "DONORS", "SOURCES", "THREE", "STRANGERS")
    ]  # PEOPLE is a number in notebooks that draw a crowd
    people = [name for names in lists if isinstance(names, list) for name in names]
    for name in people + [values[name] for name in ("PERSON", "SECOND", "SOURCE") if name in values]:
        _check_person(name, measured="SCORER" in values)
    for name in ("PHOTOGRAPHS", "REAL"):
        _check_photographs(name, values.get(name))
    system = values.get("SYSTEM", RANDOM)
    folder = folders.named_path(system)
    if system not in (RANDOM, SHIPPED) and not (folder and (folder / "unet").is_dir()):
        raise ParameterError(
            f"No system folder: {system!r:.200}. Remedy: give data/system, or convert published weights (lib.convert)."
        )


def _check_photographs(name, value):
    """A folder of photographs, where one is given."""
    folder = folders.named_path(value)
    if value and not (folder and folder.is_dir()):
        raise ParameterError(
            f"No folder of photographs: {name} {value!r:.200}. Remedy: give a folder of aligned square photographs."
        )


def _check_person(name, measured):
    """A person's name or folder. `measured`: something is measured on the person, so training people are refused."""
    if PROCEDURAL.fullmatch(name):
        if measured and int(name[-1]) in TRAINING_DIGITS:
            raise ParameterError(
                f"Training person: {name}. Remedy: take a seed that ends in 9 (test) or 8 (development)."
            )
        return
    folder = folders.named_path(name)
    if folder is None or not folder.is_dir():
        raise ParameterError(
            f"No such person: {name!r:.200}. Remedy: give people:<digits>, such as people:1009, or a person folder."
        )
    if not (folder / "references").is_dir() and not any(file.suffix.lower() in PICTURES for file in folder.iterdir()):
        raise ParameterError(
            f"No photographs in the person folder: {paths.display_path(folder)}. Remedy: put them into references/."
        )
