"""Whole photographs to aligned crops: detection by an insightface pack, a 5-point similarity, an anti-aliased warp.

Crops follow the FFHQ template that CodeFormer, DiffBIR and the public Dual-Pivot code share (facexlib,
`FaceRestoreHelper.face_template`): a crop of any size has its eyes, nose and mouth corners where `template(size)` says.
"""
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

from lib import paths
from lib.errors import FaceError, NoFaceError, PackError, SeveralFacesError

TEMPLATE_512 = np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]])
BORDER = (133, 132, 135)  # the grey that facexlib puts around a crop
INSIGHTFACE = "~/.insightface"  # where insightface itself keeps downloaded packs
PEOPLE = "people"  # the pack of drawn people, in data/models
KINDS = ["detection", "recognition", "landmark_2d_106", "landmark_2d_68"]  # insightface's names of the models that are used


class Face(NamedTuple):
    """A detected face, in pixels of its photograph."""
    box: np.ndarray  # (4,) left, top, right, bottom
    points: np.ndarray  # (5, 2) x, y of both eyes (image left first), nose, mouth corners
    score: float


def template(size):
    """Where eyes, nose and mouth corners lie in a crop: pixel centres, so that area-resized crops agree.

    Args: size, pixels. Returns (5, 2) float64, x and y.
    """
    return (TEMPLATE_512 + 0.5) * size / 512 - 0.5


def pack_folder(pack, root=INSIGHTFACE):
    """The folder of an insightface pack; never a download.

    Args: pack, "people" (the workbook's own), a name under `root`/models ("buffalo_l") or the path of a folder (`paths.given`);
    root, used for names only. Returns an absolute Path. Raises PackError when it is not there or holds no model.
    """
    named = isinstance(pack, str) and Path(pack).name == pack
    # insightface would let a folder of that name in the current directory win, and would try a download
    root = paths.DATA if pack == PEOPLE else root
    folder = Path(root, "models", pack).expanduser().absolute() if named else paths.given(pack)
    if not any(folder.glob("*.onnx")) and not any(folder.glob("*/*.onnx")):
        raise PackError(f"No insightface pack: {folder} is not a folder with ONNX models. Remedy: while online, run "
                        f"python -c \"import insightface; insightface.app.FaceAnalysis('buffalo_l')\" once, "
                        f"or give the path of a pack folder that you have (its models have terms of their own).")
    return folder


@lru_cache(maxsize=4)
def models(folder):
    """What insightface makes of a pack's folder: KINDS -> its models. Kept, so that they load once. Raises PackError."""
    from insightface.app import FaceAnalysis  # 1.5 s to import, and only whole photographs and landmarks need it
    try:
        app = FaceAnalysis(str(folder), allowed_modules=KINDS)
    except Exception as error:  # protobuf, onnxruntime and bare assertions, according to what is wrong
        raise PackError(f"Pack cannot be opened: {folder} ({type(error).__name__}: {error}). Remedy: a pack needs an SCRFD detector, as "
                        f"det_10g.onnx of buffalo_l; for a recogniser alone give its .onnx file.") from error
    app.prepare(ctx_id=0)
    if not app.det_model.use_kps:
        raise PackError(f"Detector without points: {folder}. Remedy: use one that gives five points (SCRFD *_kps).")
    return app.models


def find_faces(picture, pack, root=INSIGHTFACE):
    """All faces of a photograph that the detector is at least half sure of, largest first.

    Args: picture, uint8 RGB (H, W, 3); pack and root as in `pack_folder`.
    Returns a list of Face, perhaps empty. Raises PackError.
    """
    boxes, points = models(pack_folder(pack, root))["detection"].detect(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    faces = [Face(box[:4], five, float(box[4])) for box, five in zip(boxes, points)]
    return sorted(faces, key=lambda face: -np.prod(face.box[2:] - face.box[:2]))


def similarity(points, goal):
    """Rotation, scale and shift that best carry points onto points, in least squares (Umeyama 1991, by scikit-image).

    Args: points and goal, (5, 2) x, y in pixels.
    Returns (2, 3) float64; a point p goes to matrix @ [p, 1]. Raises FaceError when the points coincide.
    """
    estimate = SimilarityTransform.from_estimate(np.float64(points), np.float64(goal))
    if not estimate or not 0.01 < estimate.scale < 100:
        raise FaceError(f"No similarity: the points {np.round(points).tolist()} coincide. Remedy: use another photograph.")
    return estimate.params[:2]


def resize(picture, size):
    """A square picture at another size: area average downwards, cubic upwards.

    Args: picture, uint8 (S, S, 3); size, pixels. Returns uint8 (size, size, 3).
    """
    down = size <= picture.shape[0]
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if down else cv2.INTER_CUBIC)


def warp(picture, matrix, size):
    """Carry a picture through a similarity without aliasing: warped at its own resolution, then area-averaged.

    Args: picture, uint8 (H, W, 3); matrix, (2, 3) to pixels of the result; size of the square result.
    Returns uint8 (size, size, 3); outside of the picture it is BORDER.
    """
    times = max(1, int(np.ceil(1 / np.hypot(*matrix[:, 0]) - 1e-6)))  # how often finer the source is than the result
    fine = times * matrix + np.array([[0, 0, (times - 1) / 2]] * 2)  # pixel centres: (p + 1/2) * times - 1/2
    flags = cv2.INTER_LINEAR if times > 1 else cv2.INTER_CUBIC
    large = cv2.warpAffine(picture, fine, (size * times, size * times), flags=flags, borderValue=BORDER)
    return resize(large, size)


def one_face(faces, where, choose="only"):
    """The face that is meant.

    Args: faces, from `find_faces`; where, named in errors; choose, "only" or "largest".
    Returns a Face. Raises NoFaceError; SeveralFacesError unless "largest" was asked for.
    """
    if choose not in ("only", "largest"):
        raise FaceError(f"Unknown choice of a face: {choose!r}. Remedy: \"only\" or \"largest\".")
    if not faces:
        raise NoFaceError(f"No face found: {where}. Remedy: use a photograph with a larger, more frontal face, "
                          f"or crop it square by hand to the template and load it without a pack.")
    if len(faces) > 1 and choose == "only":
        boxes = [face.box.round().astype(int).tolist() for face in faces]
        raise SeveralFacesError(f"{len(faces)} faces found: {where}, at {boxes}. Remedy: crop the photograph to the "
                                f"person who is meant, or load it by lib.faces.load_person(..., choose=\"largest\").")
    return faces[0]


def align(picture, pack, size=128, root=INSIGHTFACE, choose="only", where="this photograph"):
    """One whole photograph to one aligned crop (the paper's pre-processing, as in CodeFormer).

    Args: picture, uint8 RGB (H, W, 3); pack and root as in `pack_folder`; size of the crop; choose as in `one_face`;
    where, what errors call the photograph.
    Returns (crop uint8 (size, size, 3), matrix (2, 3) from pixels of the photograph to pixels of the crop).
    Raises PackError, NoFaceError, SeveralFacesError.
    """
    face = one_face(find_faces(picture, pack, root), where, choose)
    matrix = similarity(face.points, template(size))
    return warp(picture, matrix, size), matrix
