"""Face embeddings, through insightface only: a pack (buffalo_l, ...) or one recogniser in an ONNX file.

The identity of a restoration is the cosine between embeddings (the paper's ID, Sec. IV; ArcFace, arXiv 1801.07698).
"""
from functools import lru_cache

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F

from lib import align, paths
from lib.errors import PackError, PictureError
from lib.pictures import to_uint8


@lru_cache(maxsize=4)
def _from_file(file):
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    onnxruntime.set_default_logger_severity(3)  # errors only, as insightface sets it for packs
    try:
        model = ArcFaceONNX(model_file=str(file))
        model.prepare(ctx_id=0)
    except Exception as error:  # protobuf, onnxruntime and bare assertions, according to what is wrong
        raise PackError(f"Not a recogniser: {file} ({type(error).__name__}: {error}). Remedy: give an ONNX file with "
                        f"one picture in and one embedding out; if it should be one, copy it again.") from error
    return model


@lru_cache(maxsize=4)
def _from_folder(folder):
    from insightface.app import FaceAnalysis
    try:
        models = FaceAnalysis(str(folder), allowed_modules=["detection", "recognition"]).models
    except Exception as error:
        raise PackError(f"Pack cannot be opened: {folder} ({type(error).__name__}: {error}). Remedy: a pack needs a "
                        f"detector; for a recogniser alone give its .onnx file.") from error
    if "recognition" not in models:  # insightface would go on and leave every embedding None
        raise PackError(f"No recogniser in the pack: {folder}. Remedy: use a pack that has one (buffalo_l), or give "
                        f"a recogniser's .onnx file.")
    return models["recognition"]


def recogniser(pack, root=align.INSIGHTFACE):
    """The recogniser that insightface makes of a pack or file; kept, so that it loads once.

    Args: pack, an .onnx file (`paths.given`) or what `align.pack_folder` takes; root, used for pack names only.
    Returns an insightface ArcFaceONNX. Raises PackError when missing, unreadable or not a recogniser.
    """
    if not str(pack).endswith(".onnx"):
        return _from_folder(align.pack_folder(pack, root))
    file = paths.given(pack)
    if not file.is_file():
        raise PackError(f"No recogniser file: {file}. Remedy: check the path, or use a pack that you have.")
    return _from_file(file)


def _arcface_crop(picture, size):
    from insightface.utils.face_align import arcface_dst  # insightface's 112 px template
    goal = (arcface_dst.astype(np.float64) + 0.5) * size / 112 - 0.5
    return align.warp(picture, align.similarity(align.template(picture.shape[0]), goal), size)


def _prepare(pictures, size, crop):
    if crop == "whole":
        return [align.resize(picture, size) for picture in pictures]
    if crop == "template":
        return [_arcface_crop(picture, size) for picture in pictures]
    raise PictureError(f"Unknown crop: {crop!r}. Remedy: \"template\" for published recognisers, \"whole\" for one "
                       f"that was trained on whole crops.")


def embed(pictures, pack, crop="template", batch=32, root=align.INSIGHTFACE):
    """Identity embeddings of aligned crops.

    Args: pictures, float (N, 3, S, S) in [-1, 1], aligned to `align.template(S)`; pack and root as in `recogniser`;
    crop, "template" warps by one fixed similarity to insightface's template (published recognisers), "whole" only
    resizes (a recogniser trained on whole crops); batch, pictures a run.
    Returns float32 (N, D), unit norm, on the CPU. Raises PackError; PictureError for pictures that are not such crops.
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.faces.")
    model = recogniser(pack, root)
    batch = model.input_shape[0] if isinstance(model.input_shape[0], int) else batch  # some files fix it to 1
    crops = _prepare(to_uint8(pictures)[..., ::-1], model.input_size[0], crop)  # BGR, as insightface reads
    runs = [model.get_feat(crops[i:i + batch]) for i in range(0, len(crops), batch)]
    return _unit(torch.from_numpy(np.concatenate(runs)), pack)


def _unit(features, pack):
    norms = features.float().norm(dim=1, keepdim=True)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise PackError(f"Embeddings are zero or not finite: {pack}. Remedy: the file is damaged or is no recogniser.")
    return features.float() / norms


def cosine(a, b):
    """Paired cosine: the identity of a[i] with b[i].

    Args: a and b, float (N, D) or broadcastable to each other. Returns float (N,) in [-1, 1].
    """
    return F.cosine_similarity(a, b, dim=-1)


def to_references(embeddings, references):
    """Identity with a person: cosine to the mean of the references' embeddings, made unit again.

    Args: embeddings, float (N, D); references, float (R, D) of one person. Returns float (N,) in [-1, 1].
    """
    return cosine(embeddings, F.normalize(references.mean(dim=0, keepdim=True), dim=1))
