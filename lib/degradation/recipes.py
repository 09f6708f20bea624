"""Degradation recipes: the ranges of eq. 9 from which settings are sampled; the public recipes and this workbook's.

Every sigma and kernel side is in pixels of the picture as given. `Recipe.made_for` is the picture side the numbers were
chosen for. The public recipes were made for 512 px; at 128 px, the same sigma is four times stronger relative to the
face.

Differences from DiffBIR's code, which reads the same ranges:
- sizes are rounded here and floored there, so about half of the reduced pictures differ by one pixel, and the second
  stage of `realesrgan` ends within two pixels of a quarter of the picture instead of exactly there;
- pictures are rounded to 8 bits after every stage here, only by JPEG there;
- `area` is OpenCV's interpolation here and torch's there;
- Poisson noise on a picture of one colour has two photon levels here and one there;
- `realesrgan` omits the sharpening of the clean target and the pool that shuffles training pairs, because neither
  happens to a photograph.
"""

import dataclasses
from dataclasses import dataclass, replace

from lib.errors import RecipeError


@dataclass(frozen=True)
class Stage:
    """Ranges of one application of eq. 9. Pairs are (low, high) of a uniform distribution, both ends included."""

    kinds: dict  # blur kind -> probability
    kernel: tuple = (41, 41)  # odd sides, pixels
    sigma: tuple = (0.1, 12.0)  # pixels of the picture that reaches this stage
    beta_generalised: tuple = (0.5, 4.0)
    beta_plateau: tuple = (1.0, 2.0)
    blur: float = 1.0  # probability that this stage blurs
    down: tuple | None = (1.0, 12.0)  # r; with None, `scale` and `scale_odds` decide
    scale: tuple = (1.0, 1.0)  # smallest and largest new size / old size
    scale_odds: tuple = (0, 0, 1)  # up, down, keep
    of_original: float = 0.0  # with 4, `scale` is relative to a quarter of the original, not to the stage's input
    interpolations: tuple = ("bilinear",)
    noise: tuple = (0.0, 15.0)  # delta, 0..255
    gaussian: float = 1.0  # probability of Gaussian noise; else Poisson
    poisson: tuple = (0.05, 3.0)
    grey: float = 0.0  # probability that the noise is the same in R, G and B
    jpeg: tuple = (30, 99)  # q, whole numbers


@dataclass(frozen=True)
class Recipe:
    """A named degradation: eq. 9 once for every stage, then resized back to the size of the picture."""

    name: str
    made_for: int  # side of the pictures its pixels were chosen for
    stages: tuple
    final_sinc: float = 0.0  # probability of a last sinc; above 0, [resize, sinc] and JPEG come in random order
    resize_back: str = "bilinear"  # interpolation back to the given size
    source: str = ""

    def to_dict(self) -> dict:
        """Plain numbers and names, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict) -> "Recipe":
        """The recipe that `to_dict` wrote. Raises RecipeError for missing or unknown fields."""
        try:
            stages = tuple(Stage(**{key: _pair(value) for key, value in stage.items()}) for stage in saved["stages"])
            return cls(**{**saved, "stages": stages})
        except (TypeError, KeyError, AttributeError) as error:
            raise RecipeError(
                f"A saved recipe cannot be read: {error}. "
                "Remedy: give the fields of lib.degradation.recipes.Recipe and Stage."
            ) from error


def _pair(value):
    return tuple(value) if isinstance(value, list) else value


_PLAIN = {"iso": 0.5, "aniso": 0.5}
_SEVEN = {
    "iso": 0.405,
    "aniso": 0.225,
    "generalised_iso": 0.108,
    "generalised_aniso": 0.027,
    "plateau_iso": 0.108,
    "plateau_aniso": 0.027,
    "sinc": 0.1,
}  # 0.1 sinc; the other kinds share 0.9 in the published proportions .45 .25 .12 .03 .12 .03
_ESRGAN = Stage(
    _SEVEN,
    kernel=(7, 21),
    sigma=(0.2, 3.0),
    down=None,
    scale=(0.15, 1.5),
    scale_odds=(0.2, 0.7, 0.1),
    interpolations=("area", "bilinear", "bicubic"),
    noise=(1, 30),
    gaussian=0.5,
    poisson=(0.05, 3.0),
    grey=0.4,
    jpeg=(30, 95),
)
_ESRGAN_2 = replace(
    _ESRGAN,
    sigma=(0.2, 1.5),
    blur=0.8,
    scale=(0.3, 1.2),
    scale_odds=(0.3, 0.4, 0.3),
    of_original=4.0,
    noise=(1, 25),
    poisson=(0.05, 2.5),
)
_TINY = Stage(
    _PLAIN,
    kernel=(11, 11),
    sigma=(0.2, 2.0),
    down=(1.0, 3.5),
    interpolations=("area", "bilinear"),
    noise=(0, 12),
    grey=0.3,
    jpeg=(40, 95),
)
_TINY_2 = replace(_TINY, kernel=(9, 9), sigma=(0.2, 1.0), down=(1.0, 1.6), noise=(0, 8))
_HEAVY = replace(_TINY, sigma=(0.8, 2.5), down=(3.5, 5.0), noise=(4, 16), jpeg=(30, 80))
_HEAVY_2 = replace(_TINY_2, down=(1.43, 1.6), noise=(0, 10), jpeg=(30, 80))
_EXTREME, _EXTREME_2 = replace(_HEAVY, down=(5.0, 8.0)), replace(_HEAVY_2, down=(1.6, 1.8))
_PHOTO = Stage(_PLAIN, kernel=(11, 11), sigma=(0.1, 3.0), down=(1.0, 8.0))
_PHOTO_HEAVY = replace(_PHOTO, sigma=(0.8, 3.0), down=(5.0, 8.0), noise=(4, 15), jpeg=(30, 80))
_DPT = Stage(_PLAIN, sigma=(0.1, 10.0), down=(0.8, 8.0), noise=(0, 20), jpeg=(60, 99))

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("none", 512, (), source="the picture unchanged"),
        Recipe("codeformer", 512, (Stage(_PLAIN),), source="Zhou et al. 2022; DiffBIR train_stage2.yaml"),
        Recipe("dpt", 512, (_DPT,), source="published Dual-Pivot code, face_train.yml; DiffBIR v1 face_train.yaml"),
        Recipe(
            "realesrgan",
            512,
            (_ESRGAN, _ESRGAN_2),
            final_sinc=0.8,
            resize_back="bicubic",
            source="Wang et al. 2021; DiffBIR RealESRGANBatchTransform",
        ),
        Recipe("tiny", 128, (_TINY, _TINY_2), source="this workbook: second order, for 128 px"),
        Recipe("tiny-heavy", 128, (_HEAVY, _HEAVY_2), source="this workbook: r = 5 to 8 in all"),
        Recipe(
            "tiny-extreme",
            128,
            (_EXTREME, _EXTREME_2),
            source="this workbook: r = 8 to 14 in all, too little to tell who it is",
        ),
        Recipe("photo", 128, (_PHOTO,), source="codeformer for 128 px: sigma a quarter, r to 8"),
        Recipe("photo-heavy", 128, (_PHOTO_HEAVY,), source="this workbook: the heavy end of photo, r = 5 to 8"),
    )
}


def recipe_named(name: "str | Recipe") -> Recipe:
    """The recipe of that name; a Recipe is returned unchanged. Raises RecipeError that lists the known names."""
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str) or name not in RECIPES:
        raise RecipeError(
            f"No degradation recipe {name!r}. "
            f"Remedy: one of {', '.join(RECIPES)}, or a lib.degradation.recipes.Recipe of your own."
        )
    return RECIPES[name]
