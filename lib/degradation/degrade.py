"""Degradation: eq. 9, x_d = [(x * k_sigma) down_r + n_delta]_JPEG_q, once or twice, drawn, saved and replayed.

Every sigma is in PIXELS OF THE PICTURE AS GIVEN (see `lib.degradation.recipes`). A draw repeats its recipe's `made_for`, and
`scale_sigma=True` asks for sigma * size / made_for. Pixels are equal wherever numpy, OpenCV and libjpeg are.
"""

import dataclasses
import json
import math
from dataclasses import dataclass

import cv2
import numpy as np

from lib.degradation.operators import INTERPOLATIONS, OPERATORS, Blur, Jpeg, Noise, Resize, check_setting, to_bytes
from lib.degradation.recipes import Recipe, recipe_named
from lib.errors import DrawError, PictureError, PictureSizeError, SeedError

VERSION = 1
SMALLEST = 16  # pixels: below this no recipe leaves anything of a face


# ---- a draw: settings that replay to the same pixels ----


@dataclass(frozen=True)
class Degradation:
    """Everything that `apply` needs; `made_for` against `size` tells how far sigma is from its home."""

    recipe: str
    made_for: int
    size: tuple  # (height, width) in pixels
    stages: tuple  # each a tuple of Blur, Resize, Noise, Jpeg: eq. 9 once
    restore: str = "bilinear"
    sigma_scale: float = 1.0
    version: int = VERSION

    def __post_init__(self):
        check_setting(
            self.restore in INTERPOLATIONS, f"restore {self.restore!r} is none of {', '.join(INTERPOLATIONS)}"
        )
        check_setting(len(self.size) == 2, f"size {self.size} is not (height, width)")

    def to_dict(self) -> dict:
        """Plain numbers and names, for JSON and records."""
        names = {operator: name for name, operator in OPERATORS.items()}
        stages = [[{"op": names[type(step)], **dataclasses.asdict(step)} for step in stage] for stage in self.stages]
        return {**dataclasses.asdict(self), "size": list(self.size), "stages": stages}

    @classmethod
    def from_dict(cls, saved: dict) -> "Degradation":
        """The draw that `to_dict` wrote.

        Raises DrawError: another version, missing or unknown keys, settings out of range.
        """
        found = saved.get("version", "absent") if isinstance(saved, dict) else type(saved).__name__
        if found != VERSION:
            raise DrawError(
                f"A saved draw has version {found}, this code reads {VERSION}. "
                "Remedy: draw again from the seed, or use the code that saved it."
            )
        try:
            stages = tuple(tuple(map(_operator, stage)) for stage in saved["stages"])
            return cls(**{**saved, "size": tuple(saved["size"]), "stages": stages})
        except (TypeError, KeyError, AttributeError) as error:
            raise DrawError(
                f"A saved draw is incomplete or has a foreign field: {error}. "
                "Remedy: save it again with Degradation.to_json."
            ) from error

    def to_json(self) -> str:
        """The draw as JSON text; floats come back exactly."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Degradation":
        """The draw in a JSON text. Raises DrawError when it is not one."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise DrawError(
                f"A saved draw is not JSON: {error}. Remedy: save it again with Degradation.to_json."
            ) from error


def _operator(step):
    return OPERATORS[step["op"]](**{name: value for name, value in step.items() if name != "op"})


def by_hand(size: "int | tuple", *stages: tuple, restore: str = "bilinear") -> Degradation:
    """A draw with settings of your own, one tuple a stage: `by_hand(128, (Blur("iso", 13, 2.0), Resize(3)))`.

    size: side or (height, width), pixels, at least 16. Raises PictureSizeError.
    """
    height, width = _checked_size(size)
    return Degradation("by hand", min(height, width), (height, width), tuple(tuple(stage) for stage in stages), restore)


def draw(
    recipe: "str | Recipe", generator: np.random.Generator, size: "int | tuple", scale_sigma: bool = False
) -> Degradation:
    """Settings of eq. 9 for one picture, from one generator.

    size: side or (height, width), pixels, at least 16. scale_sigma: blur widths (and kernel sides, when larger) times
    shorter side / made_for; sinc cut-offs stay. Raises RecipeError, PictureSizeError.
    """
    recipe, (height, width) = recipe_named(recipe), _checked_size(size)
    factor = min(height, width) / recipe.made_for if scale_sigma else 1.0
    stages, shrunk = [], 1.0
    for number, stage in enumerate(recipe.stages, 1):
        last = recipe.final_sinc > 0 and number == len(recipe.stages)
        steps, shrunk = _draw_stage(stage, generator, factor, shrunk, recipe.final_sinc if last else None)
        stages.append(tuple(steps))
    return Degradation(recipe.name, recipe.made_for, (height, width), tuple(stages), recipe.restore, factor)


def _draw_stage(stage, generator, factor, shrunk, final_sinc):
    """The steps of one stage, and by how much the picture has shrunk after it."""
    steps = [_draw_blur(stage, generator, factor)] if generator.random() < stage.blur else []
    down = _draw_down(stage, generator, shrunk)
    steps += [Resize(down, _pick(generator, stage.interpolations)), _draw_noise(stage, generator)]
    jpeg = Jpeg(int(generator.integers(stage.jpeg[0], stage.jpeg[1] + 1)))
    if final_sinc is None:
        return steps + [jpeg], shrunk * down
    ending = [Resize(stage.of_original / (shrunk * down), _pick(generator, stage.interpolations))]
    if generator.random() < final_sinc:
        omega = float(generator.uniform(math.pi / 3, math.pi))
        ending.append(Blur("sinc", _odd(generator, stage.kernel), omega=omega))
    return steps + (ending + [jpeg] if generator.random() < 0.5 else [jpeg] + ending), stage.of_original


def _draw_blur(stage, generator, factor):
    kind, size = _pick(generator, tuple(stage.kinds), tuple(stage.kinds.values())), _odd(generator, stage.kernel)
    if kind == "sinc":
        return Blur(kind, size, omega=float(generator.uniform(math.pi / (3 if size < 13 else 5), math.pi)))
    sigma_x, sigma_y = (float(generator.uniform(*stage.sigma)) * factor for _ in "xy")
    angle = float(generator.uniform(-math.pi, math.pi))
    if kind.endswith("aniso"):
        axes = {"sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
    else:
        axes = {"sigma_x": sigma_x, "sigma_y": sigma_x}
    return Blur(kind, _grown(size, factor), **axes, beta=_draw_beta(stage, generator, kind))


def _draw_beta(stage, generator, kind):
    """Half of the shapes are drawn from below 1 and half from above, as BasicSR does."""
    if kind.startswith(("iso", "aniso")):
        return 1.0
    low, high = stage.beta_plateau if kind.startswith("plateau") else stage.beta_generalised
    return float(generator.uniform(low, 1.0) if generator.random() < 0.5 else generator.uniform(1.0, high))


def _draw_down(stage, generator, shrunk):
    if stage.down is not None:
        return float(generator.uniform(*stage.down))
    way = _pick(generator, ("up", "down", "keep"), stage.scale_odds)
    scale = {"up": (1.0, stage.scale[1]), "down": (stage.scale[0], 1.0), "keep": (1.0, 1.0)}[way]
    home = stage.of_original / shrunk if stage.of_original else 1.0
    return home / float(generator.uniform(*scale))


def _draw_noise(stage, generator):
    kind = "gaussian" if generator.random() < stage.gaussian else "poisson"
    delta = float(generator.uniform(*(stage.noise if kind == "gaussian" else stage.poisson)))
    return Noise(delta, int(generator.integers(2**32)), kind, bool(generator.random() < stage.grey))


def _pick(generator, names, odds=None):
    if odds is None:
        return names[int(generator.integers(len(names)))]
    place = np.searchsorted(np.cumsum(odds), generator.random() * sum(odds), side="right")
    return names[min(int(place), len(names) - 1)]


def _odd(generator, sides):
    return sides[0] + 2 * int(generator.integers((sides[1] - sides[0]) // 2 + 1))


def _grown(size, factor):
    return size if factor <= 1 else 2 * math.ceil(size // 2 * factor) + 1


# ---- using a draw ----


def once(picture: np.ndarray, steps: tuple) -> np.ndarray:
    """Eq. 9 applied once: uint8 (H, W, 3) RGB in, uint8 of the reduced size out."""
    values = picture.astype(np.float32)
    for step in steps:
        values = step(values)
    return to_bytes(values)


def apply(picture: np.ndarray, draw: Degradation) -> np.ndarray:
    """Replay a draw: eq. 9 once for every stage, then back to the given size.

    picture: uint8 (H, W, 3) RGB of the size in the draw. Returns uint8 (H, W, 3). Raises PictureError.
    """
    _check_picture(picture, draw.size)
    result = picture.copy()
    for steps in draw.stages:
        result = once(result, steps)
    if result.shape == picture.shape:
        return result
    return cv2.resize(result, picture.shape[1::-1], interpolation=INTERPOLATIONS[draw.restore])


def degrade(pictures, recipe: "str | Recipe", seeds, scale_sigma: bool = False):
    """Degrade a batch, each picture from its own seed, so that a seed means the same picture whatever the batch (eq. 9).

    pictures: float tensor (N, 3, H, W), RGB in [-1, 1]. seeds: N whole numbers, not negative. scale_sigma: as in `draw`.
    Returns (tensor like pictures, list of N draws). Raises RecipeError, PictureError, SeedError.
    """
    import torch

    recipe, seeds = recipe_named(recipe), _checked_seeds(seeds)
    _check_tensor(pictures, torch)
    if len(seeds) != len(pictures):
        raise SeedError(f"{len(pictures)} pictures came with {len(seeds)} seeds. Remedy: one seed for each picture.")
    draws = [draw(recipe, np.random.default_rng(seed), tuple(pictures.shape[2:]), scale_sigma) for seed in seeds]
    results = torch.empty(pictures.shape)  # (N,3,H,W)
    for picture, one, result in zip(pictures.detach().cpu().float(), draws, results):
        array = (picture + 1).mul_(127.5).round_().byte().permute(1, 2, 0).contiguous().numpy()  # (H,W,3)
        result.copy_(torch.from_numpy(apply(array, one)).permute(2, 0, 1))
    return results.div_(127.5).sub_(1).to(pictures), draws


# ---- checks ----


def _checked_size(size):
    height, width = (size, size) if np.isscalar(size) else size
    if min(height, width) < SMALLEST:
        raise PictureSizeError(
            f"A picture of {width} x {height} px is too small to degrade. Remedy: at least {SMALLEST} px a side."
        )
    return int(height), int(width)


def _check_picture(picture, size):
    found = f"{type(picture).__name__} {getattr(picture, 'dtype', '')} {tuple(getattr(picture, 'shape', ()))}"
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise PictureError(f"Not a picture: {found}. Remedy: a numpy uint8 array (height, width, 3), RGB.")
    _checked_size(picture.shape[:2])
    if picture.shape[:2] != tuple(size):
        raise PictureSizeError(
            f"The draw was made for {size[1]} x {size[0]} px, the picture has "
            f"{picture.shape[1]} x {picture.shape[0]}. Remedy: draw again for this size."
        )


def _check_tensor(pictures, torch):
    found = f"{type(pictures).__name__} {getattr(pictures, 'dtype', '')} {tuple(getattr(pictures, 'shape', ()))}"
    floating = isinstance(pictures, torch.Tensor) and pictures.is_floating_point()
    if not floating or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise PictureError(
            f"Not a batch of pictures: {found}. "
            "Remedy: a float tensor (N, 3, H, W) in [-1, 1], as lib.images.to_tensor makes."
        )
    _checked_size(tuple(pictures.shape[2:]))
    low, high = (float(edge) for edge in torch.aminmax(pictures)) if pictures.numel() else (0.0, 0.0)
    if not math.isfinite(low + high):
        raise PictureError(f"Pictures {found} hold NaN or infinite values. Remedy: look where they were made.")
    if max(-low, high) > 1.001:
        raise PictureError(
            f"Pictures {found} span {low:.3g} to {high:.3g}, beyond [-1, 1]. "
            "Remedy: lib.images.to_tensor, or clamp(-1, 1)."
        )


def _checked_seeds(seeds):
    seeds = seeds.tolist() if hasattr(seeds, "tolist") else seeds
    seeds = list(seeds) if isinstance(seeds, (list, tuple, range)) else [seeds]
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise SeedError(f"{seed!r} is not a seed. Remedy: whole numbers, not negative, one for each picture.")
    return [int(seed) for seed in seeds]
