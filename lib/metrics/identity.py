"""Identity of faces: embeddings by a recogniser (an insightface pack or one ONNX file), and their comparison.

Identity is the cosine between embeddings (the paper's ID, Sec. IV; ArcFace, arXiv 1801.07698).
"""

from functools import lru_cache
from hashlib import sha256

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F

from lib import paths
from lib.errors import PackError, PictureError
from lib.images import to_uint8
from lib.people import alignment, insightface_packs

RECOGNISER = paths.DATA / "models" / insightface_packs.PEOPLE / "people-r.onnx"
# Numbers per face of common landmark models: 68, 98 and 106 points in the plane, 468 and 1103 in space. Such a file
# passes for a recogniser by its shape.
LANDMARK_OUTPUTS = (136, 196, 212, 1404, 3309)


def recogniser(scorer=None, root=insightface_packs.INSIGHTFACE):
    """The recogniser that insightface makes of a pack or file; it is loaded once.

    Args: scorer, an .onnx file (`paths.from_root`) or what `insightface_packs.pack_folder` takes; people-r, which knows
    procedural people only, by default; root, used for pack names only.
    Returns an insightface ArcFaceONNX. Raises PackError when it is missing, unreadable or not a recogniser.
    """
    scorer = scorer or RECOGNISER
    if str(scorer).endswith(".onnx"):
        file = paths.from_root(scorer)
        if not file.is_file():
            raise PackError(f"No recogniser file: {file}. Remedy: check the path, or use a pack that you have.")
        return _checked(_from_file(file), file)
    folder = insightface_packs.pack_folder(scorer, root)
    models = insightface_packs.models(folder)
    if "recognition" not in models:  # insightface itself would leave every embedding None
        raise PackError(
            f"No recogniser in the pack: {folder}. Remedy: use a pack that has one (buffalo_l), or give a recogniser's "
            ".onnx file."
        )
    return _checked(models["recognition"], folder)


@lru_cache(maxsize=4)
def _from_file(file):
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    onnxruntime.set_default_logger_severity(3)  # errors only, as insightface sets it for packs
    try:
        model = ArcFaceONNX(model_file=str(file))
        model.prepare(ctx_id=0)
    except Exception as error:  # protobuf, onnxruntime and bare assertions, depending on what is wrong
        raise PackError(
            f"Not a recogniser: {file} ({type(error).__name__}: {error}). Remedy: give an ONNX file with one picture "
            "in and one embedding out; if it should be one, copy it again."
        ) from error
    return model


def _checked(model, where):
    """The model, if it maps (N, 3, S, S) to embeddings (N, D); other models would fail late or silently."""
    reads, writes = list(model.input_shape), list(model.output_shape)
    square = len(reads) == 4 and reads[1] == 3 and reads[2] == reads[3]
    if not square or len(writes) != 2 or writes[1] in (0, 1, *LANDMARK_OUTPUTS):
        raise PackError(
            f"Not a recogniser: {where} reads {reads} and writes {writes}. Remedy: give an ONNX file that reads "
            f"(N, 3, S, S) and writes embeddings (N, D); D of {', '.join(map(str, LANDMARK_OUTPUTS))} is of landmarks."
        )
    return model


def check_scorer(scorer, real, root=insightface_packs.INSIGHTFACE):
    """Check that a recogniser can score a person, before anything is computed.

    Args: scorer, as in `recogniser`, or None; real, whether the person exists; root, used for pack names only.
    Raises PackError: not a recogniser; or a real person without one, or with people-r, which knows drawn people only.
    """
    model = recogniser(scorer, root)
    if real and (not scorer or _digest(model.model_file) == _digest(RECOGNISER)):
        raise PackError(
            f"No recogniser of real faces: {scorer or 'none is given'}, and people-r knows drawn people only. "
            "Remedy: give SCORER an insightface pack (buffalo_l) or a recogniser's .onnx file."
        )


def _digest(file):
    with open(file, "rb") as content:
        return sha256(content.read()).digest()


def embed(pictures, scorer=None, batch=32, root=insightface_packs.INSIGHTFACE):
    """Identity embeddings of aligned crops, warped by one fixed similarity to insightface's own template.

    Args: pictures, float (N, 3, S, S) in [-1, 1], aligned to `alignment.template(S)`; scorer and root, as in
    `recogniser`; batch, how many pictures the network reads at once.
    Returns float32 (N, D), unit norm, on the CPU. Raises PackError; PictureError for pictures that are not such crops.
    """
    if pictures.ndim != 4 or len(pictures) == 0 or pictures.shape[2] != pictures.shape[3]:
        raise PictureError(
            f"Not square crops: {tuple(pictures.shape)}. Remedy: give (N, 3, S, S), aligned by lib.people.person."
        )
    model = recogniser(scorer, root)
    batch = model.input_shape[0] if isinstance(model.input_shape[0], int) else batch  # some files fix it to 1
    blue_first = to_uint8(pictures)[..., ::-1]  # (N, S, S, 3), BGR, as insightface reads
    crops = [_arcface_crop(picture, model.input_size[0]) for picture in blue_first]
    parts = [model.get_feat(crops[i : i + batch]) for i in range(0, len(crops), batch)]
    return _unit(torch.from_numpy(np.concatenate(parts)), scorer)  # (N, D)


def _arcface_crop(picture, size):
    from insightface.utils.face_align import arcface_dst  # insightface's 112 px template

    goal = (arcface_dst.astype(np.float64) + 0.5) * size / 112 - 0.5
    return alignment.warp(picture, alignment.similarity(alignment.template(picture.shape[0]), goal), size)


def _unit(features, scorer):
    norms = features.float().norm(dim=1, keepdim=True)  # (N, 1)
    if not (torch.isfinite(norms) & (norms > 0)).all():
        raise PackError(
            f"Embeddings are zero or not finite: {scorer}. Remedy: the file is damaged or is no recogniser."
        )
    return features.float() / norms


def cosine(a, b):
    """Paired cosine: the identity of a[i] with b[i].

    Args: a and b, float (N, D) or broadcastable to each other. Returns float (N,) in [-1, 1].
    """
    return F.cosine_similarity(a, b, dim=-1)


def to_references(embeddings, references):
    """Identity with a person: cosine to the normalised mean of the references' embeddings.

    Args: embeddings, float (N, D); references, float (R, D) of one person. Returns float (N,) in [-1, 1].
    """
    return cosine(embeddings, F.normalize(references.mean(dim=0, keepdim=True), dim=1))


def degrees(a, b):
    """Angle between embeddings (N, D), in degrees from 0 to 180: "Deg." of HonestFace. Returns float (N,)."""
    return torch.rad2deg(torch.acos(cosine(a, b).clamp(-1, 1)))
