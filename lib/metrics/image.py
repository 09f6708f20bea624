"""Metrics of a pair of images: PSNR, SSIM, MS-SSIM, and the perceptual distance of the network people-p."""

import functools
from pathlib import Path

import onnxruntime
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lib.errors import PictureSizeError, WeightsError
from lib.paths import DATA

PERCEPTUAL = DATA / "models" / "people-p.onnx"
SIZE = 128  # pixels that people-p reads
SMALLEST_SSIM = 11  # pixels: one window
SMALLEST_MS_SSIM = 161  # five scales of an 11 px window


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures (N, 3, H, W) in [-1, 1], one a picture (torchmetrics)."""
    return peak_signal_noise_ratio(a, b, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(a, b):
    """Structural similarity of pictures (N, 3, H, W) in [-1, 1], Gaussian window of 11 px and sigma 1.5, one a picture (torchmetrics).

    The mean over windows that lie inside, as in the paper and in scikit-image; torchmetrics' own mean adds mirrored borders.
    """
    _demand_size(a, SMALLEST_SSIM, "an 11 px window")
    a, b = (
        (a + 1) / 2,
        (b + 1) / 2,
    )  # its mean term is not free of the offset: on [-1, 1] a darker picture scores far too low
    _, everywhere = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )  # (N, 3, H, W)
    return everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))


def ms_ssim(a, b):
    """SSIM over five scales (Wang et al. 2003) of pictures (N, 3, H, W) in [-1, 1] of at least 161 px, one a picture (torchmetrics).

    torchmetrics mirrors the border at the last scale; the paper takes windows inside: they differ by about 0.001 at 192 px.
    """
    _demand_size(a, SMALLEST_MS_SSIM, "five scales")
    a, b = (a + 1) / 2, (b + 1) / 2
    return multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(len(a))


def _demand_size(pictures, least, what):
    if min(pictures.shape[2:]) < least:
        raise PictureSizeError(
            f"{min(pictures.shape[2:])} px are too few for {what}. Remedy: pictures of at least {least} px."
        )


def perceptual(a, b, judge=PERCEPTUAL):
    """Distance of unit features of the small judge people-p (not LPIPS), >= 0, lower is closer; (N, 3, 128, 128), one a picture."""
    session = _session(str(judge))
    size = session.get_inputs()[0].shape[2:]
    if any(list(x.shape[2:]) != size for x in (a, b)):
        raise PictureSizeError(
            f"{Path(judge).stem} reads {size} px, not {list(a.shape[2:])} and {list(b.shape[2:])}. "
            "Remedy: resize the pictures, or leave this metric out."
        )
    x, y = (pictures.detach().cpu().float().numpy() for pictures in (a, b))
    return torch.from_numpy(session.run(None, {"x": x, "y": y})[0])


@functools.cache
def _session(path):
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(
            f"no judge: {path} ({type(error).__name__}). Remedy: `git checkout -- data`, or rerun notebook 10."
        ) from error
