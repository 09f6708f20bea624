"""Restoration in one step, with or without references (eqs 3 and 4 of HonestFace)."""

import torch

from lib import checks
from lib.errors import PictureError
from lib.images import check_pictures
from lib.metrics.landmark_distances import nearest_reference
from lib.models.identity_embedder import PARTS
from lib.models.landmark_heatmaps import landmark_heatmaps
from lib.models.one_step import Described


def describe(one, references):
    """What the embedder reads of references, computed once for a person.

    Args: one, a OneStep; references, (R, 3, S, S) or one picture (3, S, S) in [-1, 1]. Returns Described.
    Raises PictureError, PictureSizeError.
    """
    if references is None or (torch.is_tensor(references) and references.ndim == 4 and not len(references)):
        raise PictureError("No references: this method needs at least one. Remedy: give pictures (R, 3, S, S), R >= 1.")
    return one.describe(check_pictures(references, one.B.size, "references"))


@torch.no_grad()
def restore_one_step(one, degraded, references=None, *, parts=None, batch=8):
    """Restore degraded pictures with one call of G each (eq. 4). No noise is drawn, so there is no seed.

    Args: one, a OneStep; degraded, (N, 3, S, S) or (3, S, S) in [-1, 1]; references, of the person, (R, 3, S, S) in
    any order, what `describe` returned, or None; parts of the embedder that are used, of "FFE", "FIE", "VRE"; batch,
    pictures at a time; parts None for all that can be: without references VRE alone.
    Returns (N, 3, S, S) in [-1, 1] on the CPU.
    Raises PictureError (FFE or FIE asked for without references, too), PictureSizeError, RangeError.
    """
    B, batch = one.B, checks.whole("batch", batch, least=1)
    degraded = check_pictures(degraded, B.size, "degraded pictures")
    for part in parts or ():
        checks.choice("parts", part, PARTS)
    if references is None and {"FFE", "FIE"} & set(parts or ()):
        describe(one, None)
    parts = PARTS if parts is None else parts
    described = references if references is None or isinstance(references, Described) else describe(one, references)
    restored = []
    for chunk in degraded.split(batch):
        prompt = prompt_of(one, chunk, described, parts)  # (n, tokens, k)
        z_L = B.in_chunks(one.latent, chunk)  # (n, C, h, w)
        restored.append(B.in_chunks(B.decode, one.generate(z_L, prompt)).cpu())
    return torch.cat(restored)


def prompt_of(one, degraded, described=None, parts=PARTS):
    """The prompt p(x_L, R) of degraded pictures (N, 3, S, S), (N, n, k); each has the eyes of its nearest reference."""
    nearest = None
    if described is not None and "FFE" in parts:
        nearest = nearest_reference(landmark_heatmaps(degraded)[1], described.landmarks)[0]  # (N,), eq. 6
    return one.prompt(one.codes(degraded), described, nearest, parts)
