"""Whole photographs: find the known person among the faces, restore that crop, and paste it back under a soft mask."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from lib.errors import FaceError
from lib.images import to_tensor, to_uint8
from lib.people import alignment
from lib.restoration.person_identity import PersonIdentity

FEATHER = 0.12  # width of the mask's border, as a fraction of the crop's side
OTHERS = ("leave", "blind")


@dataclass(frozen=True)
class FoundFaces:
    """The faces of a photograph, largest first, and the index of the known person among them."""

    crops: torch.Tensor  # (F, 3, S, S), [-1, 1]
    matrices: list  # F (2, 3) arrays, from pixels of the photograph to pixels of a crop
    identities: torch.Tensor  # (F,), identity with the references
    person: int


def find_person(photograph, references, pack, scorer=None, size=512, where="this photograph", **root):
    """All faces of a photograph, and the one that resembles the references most.

    Args: photograph, uint8 RGB (H, W, 3); references, aligned crops of the person (R, 3, S, S) in [-1, 1]; pack, the
    insightface pack that detects faces, and root of named packs; scorer, the recogniser, the pack's own by default;
    size of a crop, pixels; where, what errors call the photograph.
    Returns FoundFaces. Raises NoFaceError, NotThePersonError, PictureSizeError (a face of too few pixels), PackError.
    """
    return PersonFinder(pack, scorer, size, **root).find_faces(photograph, references, where)


class PersonFinder(PersonIdentity):
    """Finds one person in many photographs; called, it returns the matrix of the person's face (for `load_folder`).

    Args: as of `find_person`. The references are embedded once.
    """

    def __call__(self, photograph, references, where):
        found = self.find_faces(photograph, references, where)
        return found.matrices[found.person]

    def find_faces(self, photograph, references, where="this photograph"):
        """The FoundFaces of a photograph; arguments and errors as of `find_person`."""
        faces = alignment.find_faces(photograph, self.pack, self.root)
        alignment.one_face(faces, where, "largest")  # raises the error of a photograph without a face
        matrices = [alignment.similarity(face.points, alignment.template(self.size)) for face in faces]
        crops = cut_crops(photograph, matrices, self.size)  # (F, 3, size, size)
        identities = self.with_references(crops, references)  # (F,)
        person = int(torch.argmax(identities))
        self.check_found(identities, where)
        alignment.check_face_size(faces[person], where)
        return FoundFaces(crops, matrices, identities, person)


def cut_crops(photograph, matrices, size):
    """The crops (F, 3, size, size) in [-1, 1] of a photograph, uint8 (H, W, 3), by F matrices (2, 3)."""
    return to_tensor(np.stack([alignment.warp(photograph, matrix, size) for matrix in matrices]))


def restore_photograph(
    photograph,
    restore_person,
    restore_other=None,
    *,
    references,
    pack,
    scorer=None,
    size=512,
    others="leave",
    where="this photograph",
):
    """A photograph in which the known person has been restored and, if wanted, everybody else.

    Args: as of `find_person`; restore_person and restore_other, functions from crops (N, 3, size, size) in [-1, 1] to
    restored ones, for the known person and for other faces; others, "leave" other faces or restore them "blind".
    Returns uint8 (H, W, 3) of the same size, and the identity of every face with the references, largest face first.
    Raises the errors of `find_person`; FaceError for another `others`.
    Source: Dual-Pivot Tuning, section V.A (faces are aligned as in CodeFormer); leaving other people is our choice.
    """
    check_others(others, restore_other)
    found = find_person(photograph, references, pack, scorer, size, where)
    if others == "blind":
        photograph = _restore_others(photograph, found.matrices, found.matrices[found.person], restore_other, size)
    crop = restore_person(found.crops[found.person : found.person + 1])  # (1, 3, size, size)
    return paste(photograph, to_uint8(crop)[0], found.matrices[found.person]), found.identities


def paste_person(photograph, crop, matrix, restore_other=None, pack=None):
    """A photograph with the person's restored crop pasted back and, if wanted, everybody else restored.

    Args: photograph, uint8 (H, W, 3); crop, (1, 3, S, S) in [-1, 1]; matrix, (2, 3), by which it was cut;
    restore_other, as of `restore_photograph`, for the faces that pack detects; None leaves them.
    Returns uint8 (H, W, 3). Raises PackError.
    """
    size = crop.shape[-1]
    if restore_other is not None:
        faces = alignment.find_faces(photograph, pack)
        matrices = [alignment.similarity(face.points, alignment.template(size)) for face in faces]
        photograph = _restore_others(photograph, matrices, matrix, restore_other, size)
    return paste(photograph, to_uint8(crop)[0], matrix)  # last, so that the person lies on top


def _restore_others(photograph, matrices, person, restore_other, size):
    """The photograph with every face restored but the person's, whose matrix is `person`."""
    for matrix in matrices:
        if not np.allclose(matrix, person):
            crop = restore_other(cut_crops(photograph, [matrix], size))  # (1, 3, size, size)
            photograph = paste(photograph, to_uint8(crop)[0], matrix)
    return photograph


def check_others(others, restore_other=True):
    """Raises FaceError if `others` is not one of OTHERS, or is "blind" without a function that restores other faces."""
    if others not in OTHERS or (others == "blind" and restore_other is None):
        raise FaceError(
            f'Unknown choice for other faces: {others!r}. Remedy: "leave", or "blind" with a function for them.'
        )


def paste(photograph, crop, matrix):
    """A restored crop pasted over the photograph it was cut from, faded out towards its edges.

    Args: photograph, uint8 (H, W, 3); crop, uint8 (S, S, 3); matrix, (2, 3) from pixels of the photograph to pixels of
    the crop.
    Returns uint8 (H, W, 3).
    """
    scale = max(1.0, float(np.hypot(*matrix[:, 0])))  # pixels of the crop per pixel of the photograph
    side = max(2, round(len(crop) / scale))
    if side < len(crop):  # averaged first, because a warp alone would skip pixels
        matrix = _rescaled(matrix, side / len(crop))
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    mask = _placed(soft_mask(len(crop)), matrix, photograph)[..., None]  # (H, W, 1)
    blended = mask * _placed(crop, matrix, photograph) + (1 - mask) * photograph  # (H, W, 3)
    return blended.round().clip(0, 255).astype(np.uint8)


def _placed(crop, matrix, photograph):
    """The crop where it lies in the photograph, and zero around it."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(crop, matrix, photograph.shape[1::-1], flags=flags)


def _rescaled(matrix, times):
    """The same map to pixels of the crop at `times` its side; pixel centres are whole numbers."""
    return times * matrix + np.array([[0, 0, (times - 1) / 2]] * 2)


def soft_mask(side):
    """A float32 mask (side, side): 1 inside, with a smooth fall to 0 over FEATHER of the side at each edge."""
    ramp = np.clip((0.5 + np.minimum(np.arange(side), np.arange(side)[::-1])) / (FEATHER * side), 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)
