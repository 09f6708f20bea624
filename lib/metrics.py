"""The three rulers of the story: fidelity (PSNR), perceptual distance and identity."""
import functools
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from lib import identity
from lib.errors import WeightsError
from lib.paths import DATA

RECOGNISER = DATA / "judges" / "people-r.onnx"
PERCEPTUAL = DATA / "judges" / "people-p.onnx"
HIGHER_IS_BETTER = {"psnr": True, "perceptual": False, "identity": True}
LABEL = {"psnr": "PSNR (dB)", "perceptual": "perceptual (people-p)", "identity": "identity (people-r)"}


def labels(scorer=None):
    """How each metric is called in tables and figures; identity after the recogniser that scores it."""
    return LABEL | ({"identity": f"identity ({Path(scorer).stem})"} if scorer else {})


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures (N, 3, H, W) in [-1, 1], one a picture (torchmetrics)."""
    return peak_signal_noise_ratio(a, b, data_range=2.0, reduction="none", dim=(1, 2, 3))


def perceptual(a, b, judge=PERCEPTUAL):
    """Distance of unit features of the small judge people-p (not LPIPS), >= 0, lower is closer; (N, 3, 128, 128), one a picture."""
    session = _session(str(judge))
    return torch.from_numpy(session.run(None, {"x": np.asarray(a, np.float32), "y": np.asarray(b, np.float32)})[0])


def embeddings(pictures, pack=None):
    """Unit embeddings (N, D) by the small judge people-r, or by an insightface pack or ONNX file for real faces."""
    return identity.embed(pictures, pack or RECOGNISER, crop="template" if pack else "whole")


def measure(restored, truth=None, references=None, pack=None):
    """metric -> (N,) of restored pictures (N, 3, H, W) in [-1, 1].

    With the truth (N, 3, H, W): PSNR, perceptual distance, and identity as cosine to the truth's embedding; without it,
    identity alone, as cosine to the mean embedding of the references (R, 3, H, W).
    """
    found = embeddings(restored, pack)
    if truth is None:
        return {"identity": identity.to_references(found, embeddings(references, pack))}
    return {"psnr": psnr(restored, truth), "perceptual": perceptual(restored, truth),
            "identity": identity.cosine(found, embeddings(truth, pack))}


@functools.cache
def _session(path):
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(f"no judge: {path} ({type(error).__name__}). Remedy: `git checkout -- data`, or rerun notebook 10.") from error
