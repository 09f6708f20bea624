"""Degrade pictures by eq. 9, x_d = [(x * k_sigma) down_r + n_delta]_JPEG_q, applied once or twice.

Every sigma is in pixels of the picture as given (see `lib.degradation.recipes`). The same settings give the same pixels
with the same versions of numpy, OpenCV and libjpeg.
"""

import cv2
import numpy as np

from lib.degradation.operators import INTERPOLATIONS, round_to_uint8
from lib.degradation.recipes import Recipe, recipe_named
from lib.degradation.settings import Degradation, check_size, sample
from lib.errors import PictureError, PictureSizeError, SeedError
from lib.images import check_pictures, to_tensor, to_uint8


def apply_stage(picture: np.ndarray, steps: tuple) -> np.ndarray:
    """Apply eq. 9 once.

    Args: picture, uint8 (H, W, 3) RGB; steps, operators. Returns uint8 of the reduced size.
    """
    values = picture.astype(np.float32)  # (H, W, 3), 0..255
    for step in steps:
        values = step(values)
    return round_to_uint8(values)


def apply(picture: np.ndarray, settings: Degradation) -> np.ndarray:
    """Replay saved or sampled settings: eq. 9 once for every stage, then resized back.

    Args: picture, uint8 (H, W, 3) RGB, of the size in the settings.
    Returns uint8 (H, W, 3). Raises PictureError; PictureSizeError for another size.
    """
    _check_array(picture, settings.size)
    result = picture.copy()
    for steps in settings.stages:
        result = apply_stage(result, steps)
    if result.shape == picture.shape:
        return result
    return cv2.resize(result, picture.shape[1::-1], interpolation=INTERPOLATIONS[settings.resize_back])


def degrade(pictures, recipe: "str | Recipe", seeds, scale_sigma: bool = False, return_settings: bool = False):
    """Degrade a batch (eq. 9). Every picture has its own seed, so its result does not depend on the batch.

    Args:
        pictures: float tensor (N, 3, H, W) or (3, H, W), RGB in [-1, 1], at least 16 pixels a side.
        recipe: a name in lib.degradation.recipes, or a Recipe.
        seeds: N whole numbers, not negative; a single number counts on from there.
        scale_sigma: as in `lib.degradation.settings.sample`.
        return_settings: also return the sampled settings.
    Returns the degraded pictures (N, 3, H, W) in the given dtype and on the given device; with `return_settings` a pair
    of them and a list of N Degradation objects. Raises RecipeError, PictureError, SeedError.
    """
    recipe, batch = recipe_named(recipe), check_pictures(pictures)
    size = check_size(tuple(batch.shape[2:]))
    settings = [
        sample(recipe, np.random.default_rng(seed), size, scale_sigma) for seed in _checked_seeds(seeds, len(batch))
    ]
    degraded = [apply(picture, one) for picture, one in zip(to_uint8(batch), settings)]
    result = to_tensor(degraded).to(pictures)  # (N, 3, H, W)
    return (result, settings) if return_settings else result


def _check_array(picture, size):
    found = f"{type(picture).__name__} {getattr(picture, 'dtype', '')} {tuple(getattr(picture, 'shape', ()))}"
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise PictureError(f"Not a picture: {found}. Remedy: give a numpy uint8 array (height, width, 3), RGB.")
    if picture.shape[:2] != tuple(size):
        raise PictureSizeError(
            f"The degradation settings are for {size[1]} x {size[0]} px, the picture has "
            f"{picture.shape[1]} x {picture.shape[0]}. Remedy: sample settings for this size."
        )


def _checked_seeds(seeds, count):
    seeds = seeds.tolist() if hasattr(seeds, "tolist") else seeds
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        seeds = range(seeds, seeds + count)
    seeds = list(seeds) if isinstance(seeds, (list, tuple, range)) else [seeds]
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise SeedError(f"{seed!r} is not a seed. Remedy: give whole numbers, not negative, one for each picture.")
    if len(seeds) != count:
        raise SeedError(f"{count} pictures came with {len(seeds)} seeds. Remedy: give one seed for each picture.")
    return [int(seed) for seed in seeds]
