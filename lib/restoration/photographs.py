"""Whole photographs: the known person found among the faces, her crop restored, and pasted back under a soft mask."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from lib.errors import FaceError, NotThePersonError
from lib.images import to_tensor, to_uint8
from lib.metrics import identity
from lib.people import alignment, insightface_packs

FEATHER = 0.12  # of a crop's side: how wide the mask falls from one to nothing
# Identity with the references below which nobody is taken for the person: two people have about 0.02, a person in a heavily degraded
# photograph about 0.3 (tests/test_real_models.py).
ALIKE = 0.15
OTHERS = ("leave", "blind")


@dataclass(frozen=True)
class Found:
    """The faces of a photograph, largest first, and which of them is the person."""

    crops: torch.Tensor  # (F, 3, S, S), [-1, 1]
    matrices: list  # F (2, 3) arrays, from pixels of the photograph to pixels of a crop
    alike: torch.Tensor  # (F,), identity with the references
    person: int


def find(
    photograph, references, pack, scorer=None, size=512, where="this photograph", root=insightface_packs.INSIGHTFACE
):
    """The faces of a photograph, and the known person among them: who is most alike to the references.

    Args: photograph, uint8 RGB (H, W, 3); references, (R, 3, S, S), aligned crops of the person; pack, the insightface pack that finds
    faces, and root of named ones; scorer, the recogniser that tells who is who (the pack's own unless given); size of a crop; where,
    what errors call the photograph. Returns Found. Raises NoFaceError, NotThePersonError, PackError.
    """
    faces = alignment.find_faces(photograph, pack, root)
    alignment.one_face(faces, where, "largest")  # the error of a photograph without any
    matrices = [alignment.similarity(face.points, alignment.template(size)) for face in faces]
    crops = _cut(photograph, matrices, size)  # (F, 3, size, size)
    teller = scorer or insightface_packs.pack_folder(pack, root)
    alike = identity.to_references(identity.embed(crops, teller), identity.embed(references, teller))
    return Found(crops, matrices, alike, _person(alike, where))


def _cut(photograph, matrices, size):
    return to_tensor(np.stack([alignment.warp(photograph, matrix, size) for matrix in matrices]))


def _person(alike, where):
    best = int(torch.argmax(alike))
    if alike[best] < ALIKE:
        raise NotThePersonError(
            f"The person is not in {where}: identity with the references is {alike[best]:.2f} at most, of {len(alike)} "
            f"faces. Remedy: another photograph, a crop of the person, or references nearer in age."
        )
    return best


def restore_photograph(
    photograph, person, blind=None, *, references, pack, scorer=None, size=512, others="leave", where="this photograph"
):
    """A photograph in which the known person, and on request everybody else, has been restored.

    Args: as of `find`, and person and blind, functions from crops (N, 3, size, size) in [-1, 1] to restored ones, for the known person
    and for other faces; others, "leave" other faces as they are or restore them "blind".
    Returns uint8 (H, W, 3), of the same size, and the identity of every face with the references, largest face first.
    Raises the errors of `find`; FaceError for another `others`.
    Source: Dual-Pivot Tuning, section V.A (faces are aligned as in CodeFormer); other people are ours to leave.
    """
    check_others(others, blind)
    found = find(photograph, references, pack, scorer, size, where)
    k = found.person
    return _laid(
        photograph,
        person(found.crops[k : k + 1]),
        found.matrices[k],
        found.matrices,
        blind if others == "blind" else None,
        size,
    ), found.alike


def lay_back(photograph, crop, matrix, blind=None, pack=None):
    """A photograph with the person's restored crop back in its place, and everybody else restored by `blind`, if it is given.

    Args: photograph, uint8 (H, W, 3); crop, (1, 3, S, S) in [-1, 1]; matrix, (2, 3), where it was cut; blind, as of
    `restore_photograph`, for which pack finds the other faces. Returns uint8 (H, W, 3). Raises PackError.
    """
    size = crop.shape[-1]
    faces = (
        [alignment.similarity(face.points, alignment.template(size)) for face in alignment.find_faces(photograph, pack)]
        if blind
        else []
    )
    return _laid(photograph, crop, matrix, faces, blind, size)


def _laid(photograph, crop, matrix, faces, blind, size):
    strangers = [face for face in faces if not np.allclose(face, matrix)] if blind else []
    for face in strangers:  # the person last, on top
        photograph = paste(photograph, to_uint8(blind(_cut(photograph, [face], size)))[0], face)
    return paste(photograph, to_uint8(crop)[0], matrix)


def check_others(others, blind=True):
    """Raises FaceError where `others` is no choice for other faces, or is "blind" without a way to restore them so."""
    if others not in OTHERS or (others == "blind" and blind is None):
        raise FaceError(
            f'Unknown choice for other faces: {others!r}. Remedy: "leave", or "blind" with the function `blind`.'
        )


def paste(photograph, crop, matrix):
    """A restored crop laid back over the photograph it was cut from, fading out towards its edges.

    Args: photograph, uint8 (H, W, 3); crop, uint8 (S, S, 3); matrix, (2, 3) from pixels of the photograph to pixels of the crop.
    Returns uint8 (H, W, 3).
    """
    finer = max(1.0, float(np.hypot(*matrix[:, 0])))  # pixels of the crop to one of the photograph
    side = max(2, round(len(crop) / finer))
    if side < len(crop):  # averaged first: a warp alone would skip pixels
        crop, matrix = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), _rescaled(matrix, side / len(crop))
    place = lambda picture: cv2.warpAffine(
        picture, matrix, photograph.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )  # noqa: E731
    mask = place(soft_mask(len(crop)))[..., None]  # (H, W, 1)
    return (mask * place(crop) + (1 - mask) * photograph).round().clip(0, 255).astype(np.uint8)


def _rescaled(matrix, times):
    """The same map to pixels of the crop at `times` its side; pixel centres are whole numbers."""
    return times * matrix + np.array([[0, 0, (times - 1) / 2]] * 2)


def soft_mask(side):
    """(side, side) float32: 1 inside, falling to 0 at the edges over FEATHER of the side, without a kink."""
    ramp = np.clip((0.5 + np.minimum(np.arange(side), np.arange(side)[::-1])) / (FEATHER * side), 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)
