"""68 landmarks of aligned crops: found by an insightface pack (68 or 106 points) or by a 68-point ONNX file.

Every function of the workbook that wants a landmarker takes any function from pictures (N, 3, S, S) to points
(N, 68, 2). For procedural people that may be one that returns the ground truth.
"""

import functools

import numpy as np
import onnxruntime
import torch

from lib import paths
from lib.errors import PackError, PictureError
from lib.images import to_uint8
from lib.people import insightface_packs

DETECTION_SIZE = 128  # pixels per side at which a crop is searched: it holds one large face
# Which of the 106 points of insightface's 2d106det are the 68 of iBUG 300-W, in their order. Several public projects
# agree on it. The nose's lower edge is approximate, and no model of 106 points was available to test it.
# fmt: off
FROM_106 = (
    1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17,  # jaw
    43, 48, 49, 51, 50, 102, 103, 104, 105, 101,  # brows
    72, 73, 74, 86, 78, 79, 80, 85, 84,  # nose
    35, 41, 42, 39, 37, 36, 89, 95, 96, 93, 91, 90,  # eyes
    52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55, 65, 66, 62, 70, 69, 57, 60, 54,  # lips
)
# fmt: on


def find_landmarks(pictures, pack=insightface_packs.PEOPLE, model=None, *, root=insightface_packs.INSIGHTFACE):
    """68 landmarks of the highest-scoring face in each crop.

    Args: pictures, (N, 3, S, S) in [-1, 1]; pack and root, as in `insightface_packs.pack_folder`; model, a 68-point
    ONNX file that follows insightface's conventions, in place of the pack's own landmark model.
    Returns float64 (N, 68, 2), x and y in pixels, where pixel (0, 0) covers 0..1; NaN where no face is detected.
    Raises PackError (missing, unreadable, another kind of model), PictureError (not square crops).
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(
            f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.people.person."
        )
    models = insightface_packs.models(insightface_packs.pack_folder(pack, root))
    landmarker = _from_file(str(paths.from_root(model))) if model else _from_pack(models, pack)
    found = np.full((len(pictures), 68, 2), np.nan)
    blue_first = np.ascontiguousarray(to_uint8(pictures)[..., ::-1])  # (N, S, S, 3), BGR, as insightface reads
    for points, picture in zip(found, blue_first):
        boxes, _ = models["detection"].detect(picture, input_size=(DETECTION_SIZE, DETECTION_SIZE), max_num=1)
        for box in boxes[:, :4]:
            points[:] = _points_in(landmarker, picture, box)
    return torch.from_numpy(found)


def _points_in(landmarker, picture, box):
    from insightface.app.common import Face

    points = landmarker.get(picture, Face(bbox=box))
    points = points[list(FROM_106)] if len(points) == 106 else points  # (68, 2)
    return points + 0.5  # insightface's pixel centres are whole numbers


def _from_pack(models, pack):
    """The landmark model of a pack, of 106 or 68 points in the plane."""
    for name in ("landmark_2d_106", "landmark_2d_68"):
        if name in models:
            return models[name]
    raise PackError(
        f"No landmark model in the pack: {pack}. Remedy: use one with 2d106det.onnx (buffalo_l), or give model, a "
        "68-point ONNX file."
    )


@functools.lru_cache(maxsize=4)
def _from_file(file):
    from insightface.model_zoo.landmark import Landmark  # 1.5 s to import

    if not paths.from_root(file).is_file():
        raise PackError(f"No landmark model: {file}. Remedy: `git checkout -- data`, or check the path.")
    onnxruntime.set_default_logger_severity(3)  # errors only
    try:
        model = Landmark(model_file=file)
        if model.input_size[0] != model.input_size[1] or (model.lmk_dim, model.lmk_num) != (2, 68):
            raise ValueError(f"input {model.input_size}, {model.lmk_num} points of {model.lmk_dim} dimensions")
    except Exception as error:  # protobuf, onnxruntime and bare assertions, depending on what is wrong
        raise PackError(
            f"Not a landmark model: {file} ({type(error).__name__}: {error}). Remedy: give a file with one square "
            "picture in, and x and y of 68 points out."
        ) from error
    model.prepare(ctx_id=-1)
    return model
