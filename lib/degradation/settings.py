"""The settings of one degradation: sampled from a recipe or composed by the user, saved as JSON, replayed exactly."""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np

from lib.degradation.operators import INTERPOLATIONS, OPERATORS, Blur, Jpeg, Noise, Resize, check_setting
from lib.degradation.recipes import Recipe, recipe_named
from lib.errors import DegradationError, PictureSizeError

VERSION = 2
SMALLEST = 16  # pixels; smaller faces are unrecognisable after any recipe


@dataclass(frozen=True)
class Degradation:
    """All settings of one degradation, the seeds of its noise included.

    Fields: recipe, its name; made_for, the picture side in pixels that the recipe was chosen for; size, (height, width)
    in pixels of the picture; stages, one tuple of operators for each application of eq. 9; resize_back, the
    interpolation back to `size`; sigma_scale, the factor that was applied to blur widths; version of the saved form.
    Raises DegradationError for settings out of range.
    """

    recipe: str
    made_for: int
    size: tuple
    stages: tuple
    resize_back: str = "bilinear"
    sigma_scale: float = 1.0
    version: int = VERSION

    def __post_init__(self):
        known = ", ".join(INTERPOLATIONS)
        check_setting(self.resize_back in INTERPOLATIONS, f"resize_back {self.resize_back!r} is none of {known}")
        check_setting(len(self.size) == 2, f"size {self.size} is not (height, width)")

    def to_dict(self) -> dict:
        """The settings as plain numbers and names, for JSON and records."""
        names = {operator: name for name, operator in OPERATORS.items()}
        stages = [[{"op": names[type(step)], **dataclasses.asdict(step)} for step in stage] for stage in self.stages]
        return {**dataclasses.asdict(self), "size": list(self.size), "stages": stages}

    @classmethod
    def from_dict(cls, saved: dict) -> "Degradation":
        """The settings that `to_dict` wrote.

        Raises DegradationError for another version, missing or unknown fields, settings out of range.
        """
        found = saved.get("version", "absent") if isinstance(saved, dict) else type(saved).__name__
        if found != VERSION:
            raise DegradationError(
                f"Saved degradation settings have version {found}; this code reads version {VERSION}. "
                "Remedy: sample them again from the seed, or use the code that saved them."
            )
        try:
            stages = tuple(tuple(map(_operator, stage)) for stage in saved["stages"])
            return cls(**{**saved, "size": tuple(saved["size"]), "stages": stages})
        except (TypeError, KeyError, AttributeError) as error:
            raise DegradationError(
                f"Saved degradation settings have a missing or unknown field: {error}. "
                "Remedy: save them again with Degradation.to_json."
            ) from error

    def to_json(self) -> str:
        """The settings as JSON text. Floats are written so that they are read back exactly."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Degradation":
        """The settings in a JSON text. Raises DegradationError if it holds none."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise DegradationError(
                f"Saved degradation settings are not JSON: {error}. Remedy: save them again with Degradation.to_json."
            ) from error


def _operator(saved):
    return OPERATORS[saved["op"]](**{name: value for name, value in saved.items() if name != "op"})


def compose(size: "int | tuple", *stages: tuple, resize_back: str = "bilinear") -> Degradation:
    """Settings of your own, such as `compose(128, (Blur("iso", 13, 2.0), Resize(3)))`.

    Args: size, side or (height, width) in pixels, at least 16; stages, a tuple of operators for each stage;
    resize_back, the interpolation back to `size`. Raises PictureSizeError, DegradationError.
    """
    height, width = check_size(size)
    stages = tuple(tuple(stage) for stage in stages)
    return Degradation("composed", min(height, width), (height, width), stages, resize_back)


def check_size(size):
    """A side or (height, width) as (height, width). Raises PictureSizeError below 16 pixels."""
    height, width = (size, size) if np.isscalar(size) else size
    if min(height, width) < SMALLEST:
        raise PictureSizeError(
            f"A picture of {width} x {height} px is too small to degrade. Remedy: at least {SMALLEST} px a side."
        )
    return int(height), int(width)


def sample(
    recipe: "str | Recipe", generator: np.random.Generator, size: "int | tuple", scale_sigma: bool = False
) -> Degradation:
    """Sample the settings of eq. 9 for one picture.

    Args:
        recipe: a name in lib.degradation.recipes, or a Recipe.
        generator: the only source of randomness.
        size: side or (height, width) of the picture in pixels, at least 16.
        scale_sigma: multiply blur widths by shorter side / made_for. Kernels grow with a factor above 1; the cut-off
            frequencies of sinc kernels stay.
    Raises RecipeError, PictureSizeError.
    """
    recipe, (height, width) = recipe_named(recipe), check_size(size)
    factor = min(height, width) / recipe.made_for if scale_sigma else 1.0
    stages, shrunk = [], 1.0
    for number, stage in enumerate(recipe.stages, 1):
        last = recipe.final_sinc > 0 and number == len(recipe.stages)
        steps, shrunk = _sample_stage(stage, generator, factor, shrunk, recipe.final_sinc if last else None)
        stages.append(tuple(steps))
    return Degradation(recipe.name, recipe.made_for, (height, width), tuple(stages), recipe.resize_back, factor)


def _sample_stage(stage, generator, factor, shrunk, final_sinc):
    """The operators of one stage, and the factor by which the picture has shrunk after it."""
    steps = [_sample_blur(stage, generator, factor)] if generator.random() < stage.blur else []
    down = _sample_down(stage, generator, shrunk)
    steps += [Resize(down, _pick(generator, stage.interpolations)), _sample_noise(stage, generator)]
    jpeg = Jpeg(int(generator.integers(stage.jpeg[0], stage.jpeg[1] + 1)))
    if final_sinc is None:
        return steps + [jpeg], shrunk * down
    ending = [Resize(stage.of_original / (shrunk * down), _pick(generator, stage.interpolations))]
    if generator.random() < final_sinc:
        omega = float(generator.uniform(math.pi / 3, math.pi))
        ending.append(Blur("sinc", _pick_odd(generator, stage.kernel), omega=omega))
    return steps + (ending + [jpeg] if generator.random() < 0.5 else [jpeg] + ending), stage.of_original


def _sample_blur(stage, generator, factor):
    kind = _pick(generator, tuple(stage.kinds), tuple(stage.kinds.values()))
    size = _pick_odd(generator, stage.kernel)
    if kind == "sinc":
        return Blur(kind, size, omega=float(generator.uniform(math.pi / (3 if size < 13 else 5), math.pi)))
    sigma_x, sigma_y = (float(generator.uniform(*stage.sigma)) * factor for _ in range(2))
    angle = float(generator.uniform(-math.pi, math.pi))
    if kind.endswith("aniso"):
        axes = {"sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
    else:
        axes = {"sigma_x": sigma_x, "sigma_y": sigma_x}
    return Blur(kind, _enlarge_odd(size, factor), **axes, beta=_sample_beta(stage, generator, kind))


def _sample_beta(stage, generator, kind):
    """Half of the shapes come from below 1 and half from above, as in BasicSR."""
    if kind.startswith(("iso", "aniso")):
        return 1.0
    low, high = stage.beta_plateau if kind.startswith("plateau") else stage.beta_generalised
    return float(generator.uniform(low, 1.0) if generator.random() < 0.5 else generator.uniform(1.0, high))


def _sample_down(stage, generator, shrunk):
    if stage.down is not None:
        return float(generator.uniform(*stage.down))
    way = _pick(generator, ("up", "down", "keep"), stage.scale_odds)
    scale = {"up": (1.0, stage.scale[1]), "down": (stage.scale[0], 1.0), "keep": (1.0, 1.0)}[way]
    reference = stage.of_original / shrunk if stage.of_original else 1.0
    return reference / float(generator.uniform(*scale))


def _sample_noise(stage, generator):
    kind = "gaussian" if generator.random() < stage.gaussian else "poisson"
    delta = float(generator.uniform(*(stage.noise if kind == "gaussian" else stage.poisson)))
    return Noise(delta, int(generator.integers(2**32)), kind, bool(generator.random() < stage.grey))


def _pick(generator, names, odds=None):
    if odds is None:
        return names[int(generator.integers(len(names)))]
    place = np.searchsorted(np.cumsum(odds), generator.random() * sum(odds), side="right")
    return names[min(int(place), len(names) - 1)]


def _pick_odd(generator, sides):
    return sides[0] + 2 * int(generator.integers((sides[1] - sides[0]) // 2 + 1))


def _enlarge_odd(size, factor):
    return size if factor <= 1 else 2 * math.ceil(size // 2 * factor) + 1
