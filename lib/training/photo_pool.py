"""Training pictures of the photo system: aligned square photographs, augmented and degraded.

The shipped system was trained on SFHQ (David Beniaguev, MIT): photographs of people who do not exist.
"""

import cv2
import numpy as np
import torch

from lib.degradation.degrade import apply, degrade
from lib.degradation.settings import sample
from lib.errors import MissingPicturesError, PictureSizeError
from lib.images import to_tensor
from lib.models.system import CLASS_PROMPT
from lib.paths import from_root
from lib.people import picture_folders, procedural
from lib.people.picture_files import load_picture
from lib.training.picture_pool import CHUNK, Pool, run_jobs

EDGE = 1 / 64  # of the side: left out, because some crops keep a hair of the sheet that they were cut from
EVERY = 10  # the last of so many photographs is held out
TEXTURE = 0.02  # weight of the discriminator's loss in the last training of the decoder
RECIPE = "photo-heavy"  # of a system that was trained on this mixture, where no other is named
MIXTURE = (("photo", False), ("photo-heavy", False), ("photo", False), ("photo-heavy", False), ("realesrgan", True))


def split(folder):
    """The photographs of a folder by name, every tenth held out: a dict of two lists of files, "train" and "held out".

    Raises MissingPicturesError for fewer than ten, and as `lib.people.picture_folders.list_pictures`.
    """
    files = picture_folders.list_pictures(from_root(folder))
    if len(files) < EVERY:
        raise MissingPicturesError(f"{len(files)} photographs in {folder}. Remedy: at least {EVERY}, better thousands.")
    held_out = files[EVERY - 1 :: EVERY]
    return {"train": [file for file in files if file not in set(held_out)], "held out": held_out}


def evenly(folder, count):
    """At most `count` pictures of a folder, evenly spaced by name. Raises as `list_pictures`."""
    files = picture_folders.list_pictures(from_root(folder))
    return [files[k] for k in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)]


def read(files, size):
    """Photographs without their edges, (N, 3, size, size) in [-1, 1]. Raises as `load_square`."""
    return to_tensor([augment(load_square(file, size), size)[0] for file in files])


def load_square(file, size):
    """An aligned photograph, uint8 (S, S, 3), S >= size. Raises as `load_picture`; PictureSizeError (another shape)."""
    picture = load_picture(file)
    if picture.shape[0] != picture.shape[1] or len(picture) < size:
        raise PictureSizeError(
            f"Not an aligned square photograph of at least {size} px: {file}, {picture.shape[1]}x{picture.shape[0]}. "
            "Remedy: align it first, or take it away."
        )
    return picture


def make_photo_pool(files, copies, size=128, seed=0, workers=2):
    """Read photographs, augment each several times and degrade every copy once.

    Args: files, aligned square photographs; copies, of each: the first is the photograph itself; size, side in pixels;
    seed, of augmentations and degradations; workers, processes (1 works in this process).
    Returns a Pool, whose captions are the class prompt. Raises as `load_square`.
    """
    jobs = [(files[i : i + CHUNK], copies, size, seed, i) for i in range(0, len(files), CHUNK)]
    parts = [list(column) for column in zip(*run_jobs(_prepare, jobs, workers, "read photographs"))]
    pictures, degraded, matrices = (torch.from_numpy(np.concatenate(part)) for part in parts)
    return Pool(
        pictures=pictures.permute(0, 3, 1, 2).contiguous(),
        degraded=degraded.permute(0, 3, 1, 2).contiguous(),
        person=torch.arange(len(files)).repeat_interleave(copies),
        captions=[CLASS_PROMPT] * len(pictures),
        genes=None,
        landmarks=moved(typical_landmarks(size), matrices, size),
        degrade_anew=degrade_anew,
    )


def degrade_anew(pictures, g):
    """Each of the pictures (N, 3, S, S) in [-1, 1] degraded by a recipe of MIXTURE, drawn by the generator g."""
    seeds = torch.randint(2**31, (len(pictures),), generator=g, device=g.device).tolist()
    drawn = [degrade(x, recipe, seed, sigma) for x, seed in zip(pictures, seeds) for recipe, sigma in [_recipe(seed)]]
    return torch.cat(drawn)


def _recipe(number):
    """A recipe of MIXTURE by turns, and whether its sigma is scaled."""
    return MIXTURE[number % len(MIXTURE)]


def typical_landmarks(size):
    """The mean landmarks of 16 drawn people, who share the photographs' template: (68, 2) in pixels."""
    people = procedural.people_of("train", 16)
    return procedural.render([(person, person.shot(0)) for person in people], size).landmarks.mean(0)


def moved(points, matrices, size):
    """Points (L, 2) in pixels after each of the matrices (N, 2, 3), as (N, L, 2) float32 in [-1, 1]."""
    points = torch.as_tensor(points, dtype=torch.float32)
    matrices = matrices.float()
    return (points @ matrices[:, :, :2].mT + matrices[:, None, :, 2]) / (size / 2) - 1


def augment(picture, size, rng=None):
    """A photograph without its edge, mirrored, turned, scaled, shifted and relit at random.

    Args: picture, uint8 (S, S, 3), S >= size; size, side in pixels; rng, numpy Generator, or None for no change.
    Returns uint8 (size, size, 3), and the (2, 3) matrix in its pixels that moves a point of the unchanged one.
    """
    edge = round(len(picture) * EDGE)
    inner = picture[edge : len(picture) - edge, edge : len(picture) - edge]
    whole = cv2.copyMakeBorder(inner, *[edge] * 4, cv2.BORDER_REFLECT_101)
    if rng is None:
        return cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA), np.eye(2, 3)
    matrix = _random_matrix(rng, size)
    enlarged = matrix.copy()
    enlarged[:, 2] *= len(whole) / size
    how = dict(flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    warped = cv2.warpAffine(whole, enlarged, whole.shape[1::-1], **how)
    return _relight(cv2.resize(warped, (size, size), interpolation=cv2.INTER_AREA), rng), matrix


def _random_matrix(rng, size):
    centre = (size - 1) / 2
    turn, scale = float(np.clip(rng.normal(0, 4), -10, 10)), float(np.exp(rng.uniform(-0.1, 0.12)))
    matrix = cv2.getRotationMatrix2D((centre, centre), turn, scale)
    matrix[:, 2] += rng.uniform(-0.03, 0.03, 2) * size
    if rng.random() < 0.5:
        matrix[0] = [-matrix[0, 0], -matrix[0, 1], size - 1 - matrix[0, 2]]
    return matrix


def _relight(picture, rng):
    """Another exposure, contrast, saturation and white balance."""
    values = (picture / 255.0) ** np.exp(rng.normal(0, 0.15))
    grey = values.mean(2, keepdims=True)
    values = grey + (values - grey) * np.exp(rng.normal(0, 0.2))
    values = (values - 0.5) * np.exp(rng.normal(0, 0.08)) + 0.5
    return np.uint8(np.clip(values * np.exp(rng.normal(0, 0.05, 3)), 0, 1) * 255 + 0.5)


def _prepare(job):
    files, copies, size, seed, first = job
    pictures, degraded, matrices = [], [], []
    for number, file in enumerate(files, first):
        photograph = load_square(file, size)
        for copy in range(copies):
            rng = np.random.default_rng([seed, number, copy])
            picture, matrix = augment(photograph, size, rng if copy else None)
            recipe, scale_sigma = _recipe(number + copy)
            degraded.append(apply(picture, sample(recipe, rng, size, scale_sigma)))
            pictures.append(picture)
            matrices.append(matrix)
    return np.stack(pictures), np.stack(degraded), np.stack(matrices)
