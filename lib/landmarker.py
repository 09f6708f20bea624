"""Landmarks of aligned crops, found by insightface's own landmark class: people-l for drawn people, or a model of the same kind."""
import functools
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from lib import paths
from lib.errors import PackError, PictureError
from lib.pictures import to_uint8

LANDMARKER = paths.DATA / "judges" / "people-l.onnx"
TYPICAL = np.array([0.257, 0.351, 0.743, 0.856])  # left, top, right, bottom of the 68 points in a crop, mean over training people


def find_landmarks(pictures, model=LANDMARKER, passes=2):
    """Landmarks of aligned crops: a first pass in the box where faces usually are, the next in the box of what was found.

    Args: pictures, (N, 3, S, S) in [-1, 1]; model, an ONNX file as insightface's landmark models are (input 192 x 192, x and y
    in [-1, 1]); passes, at least 1. Returns float64 (N, K, 2), x and y in pixels; pixel (0, 0) covers 0..1.
    Raises PackError (missing, unreadable, another kind of model), PictureError (not square crops).
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.faces.")
    size, found = pictures.shape[-1], []
    for picture in np.ascontiguousarray(to_uint8(pictures)[..., ::-1]):  # BGR, as insightface reads
        box = TYPICAL * size
        for _ in range(passes):
            points = _open(str(paths.given(model))).get(picture, _face(box)) + _half_pixels(box)
            box = np.concatenate([points.min(0), points.max(0)])
        found.append(points)
    return torch.from_numpy(np.stack(found)).double()


def _half_pixels(box):
    """insightface counts pixel centres as whole numbers in picture and crop alike; the model's -1..1 spans the crop's edges."""
    return 0.5 - 0.5 * 1.5 * max(box[2:] - box[:2]) / 192


def _face(box):
    from insightface.app.common import Face
    return Face(bbox=box)


@functools.lru_cache(maxsize=4)
def _open(file):
    from insightface.model_zoo.landmark import Landmark  # 1.5 s to import
    if not Path(file).is_file():
        raise PackError(f"No landmark model: {file}. Remedy: `git checkout -- data`, or check the path.")
    onnxruntime.set_default_logger_severity(3)
    try:
        model = Landmark(model_file=file)
        if model.input_size != (192, 192) or model.lmk_dim != 2:
            raise ValueError(f"input {model.input_size}, {model.lmk_num} points of {model.lmk_dim} dimensions")
    except Exception as error:  # protobuf, onnxruntime and bare assertions, according to what is wrong
        raise PackError(f"Not a landmark model: {file} ({type(error).__name__}: {error}). Remedy: one picture of 192 x 192 in, "
                        "x and y of every point out, as 2d106det.onnx of insightface's packs.") from error
    model.prepare(ctx_id=-1)
    return model
