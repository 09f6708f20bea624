"""68 landmarks of aligned crops: found by an insightface pack (68 or 106 points) or by a 68-point ONNX file in its faces.

Wherever the workbook wants a detector it takes anything that turns pictures (N, 3, S, S) into points (N, 68, 2): these, or for
drawn people a function that returns the truth.
"""

import functools

import numpy as np
import onnxruntime
import torch

from lib import paths
from lib.errors import PackError, PictureError
from lib.images import to_uint8
from lib.people import insightface_packs

FIRST = 128  # pixels a side at which a crop is searched: it holds one large face
MARGIN = 1.5  # insightface's landmark models see this many times the box
# Which of the 106 points of insightface's 2d106det are the 68 of iBUG 300-W, in their order: jaw, brows, nose, eyes, lips. Several
# public projects agree on it; the nose's lower edge is only near, and no model of 106 points was here to try it on.
FROM_106 = (
    1,
    10,
    12,
    14,
    16,
    3,
    5,
    7,
    0,
    23,
    21,
    19,
    32,
    30,
    28,
    26,
    17,
    43,
    48,
    49,
    51,
    50,
    102,
    103,
    104,
    105,
    101,
    72,
    73,
    74,
    86,
    78,
    79,
    80,
    85,
    84,
    35,
    41,
    42,
    39,
    37,
    36,
    89,
    95,
    96,
    93,
    91,
    90,
    52,
    64,
    63,
    71,
    67,
    68,
    61,
    58,
    59,
    53,
    56,
    55,
    65,
    66,
    62,
    70,
    69,
    57,
    60,
    54,
)


def find_landmarks(
    pictures,
    pack=insightface_packs.PEOPLE,
    model=None,
    *,
    unit=False,
    margin=MARGIN,
    root=insightface_packs.INSIGHTFACE,
):
    """Landmarks of aligned crops, in the face that the pack's detector is surest to mean; NaN where it finds none.

    Args: pictures, (N, 3, S, S) in [-1, 1]; pack and root as in `insightface_packs.pack_folder`; model, a 68-point ONNX file in place of the
    pack's own landmark model; unit, whether that file reads and writes 0..1 (PFLD) and not -1..1 (insightface); margin, how
    many times the box it sees.
    Returns float64 (N, 68, 2), x and y in pixels; pixel (0, 0) covers 0..1. Raises PackError (missing, unreadable, another kind of
    model), PictureError (not square crops).
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(
            f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.people.person."
        )
    models = insightface_packs.models(insightface_packs.pack_folder(pack, root))
    reader = _file(str(paths.from_root(model)), unit) if model else _own(models, pack)
    found = np.full((len(pictures), 68, 2), np.nan)
    for points, picture in zip(found, np.ascontiguousarray(to_uint8(pictures)[..., ::-1])):  # BGR, as insightface reads
        boxes, _ = models["detection"].detect(picture, input_size=(FIRST, FIRST), max_num=1)
        for box in boxes[:, :4]:
            points[:] = _read(reader, picture, box, unit, margin)
    return torch.from_numpy(found)


def _read(reader, picture, box, unit, margin):
    from insightface.app.common import Face

    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * margin / MARGIN
    points = reader.get(picture, Face(bbox=np.concatenate([middle - half, middle + half])))
    side = 2 * MARGIN * half.max()  # pixels of the picture that the model sees
    if unit:  # insightface took 0..1 for -1..1: the middle of what it sees for its left top corner
        points = 2 * (points - middle) + middle - side / 2
    points = points[list(FROM_106)] if len(points) == 106 else points
    return points + 0.5  # insightface counts pixel centres as whole numbers


def _own(models, pack):
    """The landmark model of a pack, of 106 or 68 points in the plane."""
    for name in ("landmark_2d_106", "landmark_2d_68"):
        if name in models:
            return models[name]
    raise PackError(
        f"No landmark model in the pack: {pack}. Remedy: use one with 2d106det.onnx (buffalo_l), or give model, a 68-point "
        "ONNX file."
    )


@functools.lru_cache(maxsize=4)
def _file(file, unit):
    from insightface.model_zoo.landmark import Landmark  # 1.5 s to import

    if not paths.from_root(file).is_file():
        raise PackError(f"No landmark model: {file}. Remedy: `git checkout -- data`, or check the path.")
    onnxruntime.set_default_logger_severity(3)
    try:
        model = Landmark(model_file=file)
        if model.input_size[0] != model.input_size[1] or (model.lmk_dim, model.lmk_num) != (2, 68):
            raise ValueError(f"input {model.input_size}, {model.lmk_num} points of {model.lmk_dim} dimensions")
    except Exception as error:  # protobuf, onnxruntime and bare assertions, according to what is wrong
        raise PackError(
            f"Not a landmark model: {file} ({type(error).__name__}: {error}). Remedy: one square picture in, "
            "x and y of 68 points out."
        ) from error
    model.prepare(ctx_id=-1)
    if unit:
        model.input_mean, model.input_std = 0.0, 255.0
    return model
