"""Face embeddings, through insightface only: a pack (buffalo_l, ...) or one recogniser in an ONNX file.

The identity of a restoration is the cosine between embeddings (the paper's ID, Sec. IV; ArcFace, arXiv 1801.07698).
"""

from functools import lru_cache

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F

from lib import paths
from lib.errors import PackError, PictureError
from lib.images import to_uint8
from lib.metrics import identity
from lib.paths import DATA
from lib.people import alignment, insightface_packs
from lib.people.insightface_packs import PEOPLE


@lru_cache(maxsize=4)
def _from_file(file):
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    onnxruntime.set_default_logger_severity(3)  # errors only, as insightface sets it for packs
    try:
        model = ArcFaceONNX(model_file=str(file))
        model.prepare(ctx_id=0)
    except Exception as error:  # protobuf, onnxruntime and bare assertions, according to what is wrong
        raise PackError(
            f"Not a recogniser: {file} ({type(error).__name__}: {error}). Remedy: give an ONNX file with "
            f"one picture in and one embedding out; if it should be one, copy it again."
        ) from error
    return model


def recogniser(pack, root=insightface_packs.INSIGHTFACE):
    """The recogniser that insightface makes of a pack or file; kept, so that it loads once.

    Args: pack, an .onnx file (`paths.from_root`) or what `insightface_packs.pack_folder` takes; root, used for pack names only.
    Returns an insightface ArcFaceONNX. Raises PackError when missing, unreadable or not a recogniser.
    """
    if not str(pack).endswith(".onnx"):
        folder = insightface_packs.pack_folder(pack, root)
        if "recognition" not in insightface_packs.models(
            folder
        ):  # insightface would go on and leave every embedding None
            raise PackError(
                f"No recogniser in the pack: {folder}. Remedy: use a pack that has one (buffalo_l), or give "
                f"a recogniser's .onnx file."
            )
        return _checked(insightface_packs.models(folder)["recognition"], folder)
    file = paths.from_root(pack)
    if not file.is_file():
        raise PackError(f"No recogniser file: {file}. Remedy: check the path, or use a pack that you have.")
    return _checked(_from_file(file), file)


def _checked(model, where):
    """The model, where it reads square RGB pictures and writes a vector each; others go wrong late, or silently."""
    reads, writes = list(model.input_shape), list(model.output_shape)
    if len(reads) != 4 or reads[1] != 3 or reads[2] != reads[3] or len(writes) != 2 or writes[1] in (0, 1):
        raise PackError(
            f"Not a recogniser: {where} reads {reads} and writes {writes}. Remedy: give an ONNX file that reads (N, 3, S, S) and "
            "writes (N, D)."
        )
    return model


def _arcface_crop(picture, size):
    from insightface.utils.face_align import arcface_dst  # insightface's 112 px template

    goal = (arcface_dst.astype(np.float64) + 0.5) * size / 112 - 0.5
    return alignment.warp(picture, alignment.similarity(alignment.template(picture.shape[0]), goal), size)


def embed(pictures, pack, batch=32, root=insightface_packs.INSIGHTFACE):
    """Identity embeddings of aligned crops, carried by one fixed similarity to insightface's own template.

    Args: pictures, float (N, 3, S, S) in [-1, 1], aligned to `align.template(S)`; pack and root as in `recogniser`;
    batch, pictures a run.
    Returns float32 (N, D), unit norm, on the CPU. Raises PackError; PictureError for pictures that are not such crops.
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(
            f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.people.person."
        )
    model = recogniser(pack, root)
    batch = model.input_shape[0] if isinstance(model.input_shape[0], int) else batch  # some files fix it to 1
    crops = [
        _arcface_crop(picture, model.input_size[0]) for picture in to_uint8(pictures)[..., ::-1]
    ]  # BGR, as insightface reads
    runs = [model.get_feat(crops[i : i + batch]) for i in range(0, len(crops), batch)]
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


RECOGNISER = DATA / "models" / PEOPLE / "people-r.onnx"


def embeddings(pictures, pack=None):
    """Unit embeddings (N, D) by the small judge people-r, or by an insightface pack or ONNX file for real faces."""
    return identity.embed(pictures, pack or RECOGNISER)


def degrees(a, b):
    """Angle between embeddings (N, D), in degrees from 0 to 180: "Deg." of HonestFace."""
    return torch.rad2deg(torch.acos(identity.cosine(a, b).clamp(-1, 1)))
