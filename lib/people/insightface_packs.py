"""insightface packs: the folder of a pack by its name or path, and its models, loaded once and never downloaded."""

from functools import lru_cache
from pathlib import Path

from lib import paths
from lib.errors import PackError

INSIGHTFACE = "~/.insightface"  # where insightface itself keeps downloaded packs
PEOPLE = "people"  # the pack of drawn people, in data/models
KINDS = [
    "detection",
    "recognition",
    "landmark_2d_106",
    "landmark_2d_68",
]  # insightface's names of the models that are used


def pack_folder(pack, root=INSIGHTFACE):
    """The folder of an insightface pack; nothing is downloaded.

    Args: pack, "people" (the workbook's own), a name under `root`/models ("buffalo_l"), or the path of a folder
    (`paths.from_root`); root, used for names only.
    Returns an absolute Path. Raises PackError when it is missing or holds no model.
    """
    path = paths.from_root(pack)  # refuses names that no file system takes
    named = isinstance(pack, str) and Path(pack).name == pack
    # insightface itself would prefer a folder of that name in the current directory, and would try a download
    root = paths.DATA if pack == PEOPLE else root
    folder = Path(root, "models", pack).expanduser().absolute() if named else path
    if not any(folder.glob("*.onnx")) and not any(folder.glob("*/*.onnx")):
        raise PackError(
            f"No insightface pack: {folder} is not a folder with ONNX models. Remedy: while online, run "
            f"python -c \"import insightface; insightface.app.FaceAnalysis('buffalo_l')\" once, "
            f"or give the path of a pack folder that you have (its models have terms of their own)."
        )
    return folder


@lru_cache(maxsize=4)
def models(folder):
    """The models of a pack's folder, by their kind (KINDS), as insightface loads them. Raises PackError."""
    from insightface.app import FaceAnalysis  # 1.5 s to import, and only whole photographs and landmarks need it

    try:
        app = FaceAnalysis(str(folder), allowed_modules=KINDS)
    except Exception as error:  # protobuf, onnxruntime and bare assertions, depending on what is wrong
        raise PackError(
            f"Pack cannot be opened: {folder} ({type(error).__name__}: {error}). Remedy: a pack needs an SCRFD "
            f"detector, as det_10g.onnx of buffalo_l; for a recogniser alone give its .onnx file."
        ) from error
    app.prepare(ctx_id=0)
    if not app.det_model.use_kps:
        raise PackError(f"Detector without points: {folder}. Remedy: use one that gives five points (SCRFD *_kps).")
    return app.models
