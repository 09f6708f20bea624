"""Whole photographs to aligned crops: detection by an insightface pack, a 5-point similarity, an anti-aliased warp.

Crops follow the FFHQ template that CodeFormer, DiffBIR and the public Dual-Pivot code share (facexlib,
`FaceRestoreHelper.face_template`). `template(size)` gives the places of eyes, nose and mouth corners in a crop.
"""

from typing import NamedTuple

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

from lib.errors import FaceError, NoFaceError, PictureSizeError, SeveralFacesError
from lib.people.insightface_packs import INSIGHTFACE, models, pack_folder

TEMPLATE_512 = np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]])
ARCFACE = 112  # pixels: the input of insightface's ArcFaceONNX
SMALLEST_FACE = 24  # pixels of the shorter side of a detected face
BORDER = (133, 132, 135)  # the grey that facexlib puts around a crop


class Face(NamedTuple):
    """A detected face, in pixels of its photograph."""

    box: np.ndarray  # (4,) left, top, right, bottom
    points: np.ndarray  # (5, 2) x, y of both eyes (image left first), nose, mouth corners
    score: float


def template(size):
    """The places of eyes, nose and mouth corners in a crop, in a convention that holds for area-resized crops, too.

    Args: size, pixels. Returns (5, 2) float64, x and y; pixel centres are whole numbers.
    """
    return (TEMPLATE_512 + 0.5) * size / 512 - 0.5


def find_faces(picture, pack, root=INSIGHTFACE):
    """All faces of a photograph with a detection score of at least 0.5, largest first.

    Args: picture, uint8 RGB (H, W, 3); pack and root as in `pack_folder`.
    Returns a list of Face, perhaps empty. Raises PackError.
    """
    boxes, points = models(pack_folder(pack, root))["detection"].detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    faces = [Face(box[:4], five, float(box[4])) for box, five in zip(boxes, points)]
    return sorted(faces, key=lambda face: -np.prod(face.box[2:] - face.box[:2]))


def similarity(points, goal):
    """The least-squares rotation, scale and shift from points to other points (Umeyama 1991, by scikit-image).

    Args: points and goal, (5, 2) x, y in pixels.
    Returns (2, 3) float64, which maps a point p to matrix @ [p, 1]. Raises FaceError when the points coincide.
    """
    estimate = SimilarityTransform.from_estimate(np.float64(points), np.float64(goal))
    if not estimate or not 0.01 < estimate.scale < 100:
        raise FaceError(
            f"No similarity: the points {np.round(points).tolist()} coincide. Remedy: use another photograph."
        )
    return estimate.params[:2]


def resize(picture, size):
    """A square picture at another size: area average downwards, cubic upwards.

    Args: picture, uint8 (S, S, 3); size, pixels. Returns uint8 (size, size, 3).
    """
    down = size <= picture.shape[0]
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if down else cv2.INTER_CUBIC)


def warp(picture, matrix, size):
    """A picture mapped by a similarity without aliasing: warped at its own resolution, then area-averaged.

    Args: picture, uint8 (H, W, 3); matrix, (2, 3) to pixels of the result; size of the square result.
    Returns uint8 (size, size, 3), with BORDER outside of the picture.
    """
    times = max(1, int(np.ceil(1 / np.hypot(*matrix[:, 0]) - 1e-6)))  # downscaling factor, rounded up
    fine = times * matrix + np.array([[0, 0, (times - 1) / 2]] * 2)  # pixel centres: (p + 1/2) * times - 1/2
    flags = cv2.INTER_LINEAR if times > 1 else cv2.INTER_CUBIC
    large = cv2.warpAffine(picture, fine, (size * times, size * times), flags=flags, borderValue=BORDER)
    return resize(large, size)


def one_face(faces, where, choose="only"):
    """The only or the largest of the detected faces.

    Args: faces, from `find_faces`; where, named in errors; choose, "only" or "largest".
    Returns a Face. Raises NoFaceError; SeveralFacesError unless "largest" was asked for.
    """
    if choose not in ("only", "largest"):
        raise FaceError(f'Unknown choice of a face: {choose!r}. Remedy: "only" or "largest".')
    if not faces:
        raise NoFaceError(
            f"No face found: {where}. Remedy: use a photograph with a larger, more frontal face, "
            f"or crop it square by hand to the template and load it without a pack."
        )
    if len(faces) > 1 and choose == "only":
        boxes = [face.box.round().astype(int).tolist() for face in faces]
        raise SeveralFacesError(
            f"{len(faces)} faces found: {where}, at {boxes}. Remedy: crop the photograph to the "
            f'person who is meant, or choose the largest face with choose="largest".'
        )
    return faces[0]


def check_face_size(face, where):
    """Raises PictureSizeError for a face (Face) of fewer than SMALLEST_FACE pixels, which holds too little to align."""
    side = float((face.box[2:] - face.box[:2]).min())
    if side < SMALLEST_FACE:
        raise PictureSizeError(
            f"Face too small: {where}, {side:.0f} px, at least {SMALLEST_FACE} are needed. Remedy: use a larger "
            "photograph, or give an aligned square crop without a pack."
        )


def align(picture, pack, size=128, root=INSIGHTFACE, choose="only", where="this photograph"):
    """One whole photograph to one aligned crop (the paper's pre-processing, as in CodeFormer).

    Args: picture, uint8 RGB (H, W, 3); pack and root as in `pack_folder`; size of the crop; choose as in `one_face`;
    where, what errors call the photograph.
    Returns (crop uint8 (size, size, 3), matrix (2, 3) from pixels of the photograph to pixels of the crop).
    Raises PackError, NoFaceError, SeveralFacesError, PictureSizeError (a face of too few pixels).
    """
    face = one_face(find_faces(picture, pack, root), where, choose)
    check_face_size(face, where)
    matrix = similarity(face.points, template(size))
    return warp(picture, matrix, size), matrix


def to_arcface():
    """The similarity (2, 3) from pixels of a 112 px crop to insightface's template, which shows less of the head."""
    from insightface.utils.face_align import arcface_dst

    return similarity(template(ARCFACE), arcface_dst)
