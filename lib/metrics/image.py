"""Metrics of pairs of images: PSNR, SSIM, MS-SSIM, and the perceptual distance by the network people-p."""

import functools
from pathlib import Path

import cv2
import onnxruntime
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from lib.errors import PictureSizeError, WeightsError
from lib.images import to_uint8
from lib.paths import DATA

PERCEPTUAL = DATA / "models" / "people-p.onnx"
SIZE = 128  # pixels that people-p reads
SMALLEST_SSIM = 11  # pixels: one window
SMALLEST_MS_SSIM = 161  # five scales of an 11 px window


def psnr(a, b):
    """Peak signal-to-noise ratio (N,) in dB of pictures (N, 3, H, W) in [-1, 1] (torchmetrics)."""
    return peak_signal_noise_ratio(a, b, data_range=2.0, reduction="none", dim=(1, 2, 3))


def sharpness(x):
    """Variance of the Laplacian (N,) of the luminance of pictures (N, 3, H, W), 0 to 255 (Pech-Pacheco et al. 2000)."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in to_uint8(x)]
    return torch.tensor([cv2.Laplacian(picture, cv2.CV_64F).var() for picture in grey])


def ssim(a, b):
    """Structural similarity (N,) of pictures (N, 3, H, W) in [-1, 1] (torchmetrics).

    The window is Gaussian with 11 px and sigma 1.5. The mean is over windows inside the picture, as in the paper and in
    scikit-image; torchmetrics' own mean adds mirrored borders. Raises PictureSizeError below SMALLEST_SSIM pixels.
    """
    _check_side(a, SMALLEST_SSIM, "an 11 px window")
    a, b = (a + 1) / 2, (b + 1) / 2  # its luminance term depends on the offset: on [-1, 1] dark pictures score too low
    score = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
    return score[1][..., 5:-5, 5:-5].mean((1, 2, 3))  # (N,) of the map (N, 3, H, W)


def ms_ssim(a, b):
    """SSIM over five scales (N,) of pictures (N, 3, H, W) in [-1, 1] (Wang et al. 2003; torchmetrics).

    torchmetrics mirrors the border at the last scale, and the paper takes windows inside the picture. The results
    differ by about 0.001 at 192 px. Raises PictureSizeError below SMALLEST_MS_SSIM pixels.
    """
    _check_side(a, SMALLEST_MS_SSIM, "five scales")
    a, b = (a + 1) / 2, (b + 1) / 2
    return multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(len(a))


def _check_side(pictures, least, what):
    if min(pictures.shape[2:]) < least:
        raise PictureSizeError(
            f"{min(pictures.shape[2:])} px are too few for {what}. Remedy: pictures of at least {least} px."
        )


def perceptual(a, b, network=PERCEPTUAL):
    """Distance (N,) between unit features of the small network people-p; it has the form of LPIPS, but other features.

    Args: a and b, (N, 3, 128, 128) in [-1, 1]; network, its ONNX file. Returns values >= 0, 0 for equal pictures.
    Raises PictureSizeError (another size than the network reads), WeightsError.
    """
    session = _session(str(network))
    size = session.get_inputs()[0].shape[2:]
    if any(list(x.shape[2:]) != size for x in (a, b)):
        raise PictureSizeError(
            f"{Path(network).stem} reads {size} px, not {list(a.shape[2:])} and {list(b.shape[2:])}. "
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
            f"No perceptual network: {path} ({type(error).__name__}). "
            "Remedy: `git checkout -- data`, or rerun notebook 10."
        ) from error
