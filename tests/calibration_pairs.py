"""Fixed pairs of pictures, and their metrics by implementations that lib does not use.

`python tests/calibration_pairs.py` writes them. MS-SSIM has no other implementation here, so it is computed below from
its paper, in numpy and scipy.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import skimage.data
from scipy.ndimage import gaussian_filter, shift
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lib.people import procedural

FILE = Path(__file__).parents[1] / "data" / "calibration" / "pairs.json"
SCALES = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # exponents of Wang et al. 2003, finest first
PUBLISHED = "pyiqa computes it with weights that are downloaded, so no value can be had here"
EXCEPTIONS = {
    "lpips": f"{PUBLISHED}; the LPIPS of SqueezeNet, whose weights are small, is held by tests/test_real_models.py",
    "ea_dists": f"{PUBLISHED}; its edges are held against scikit-image and its sum in closed form by "
    "tests/test_published.py",
    **dict.fromkeys(("dists", "msswd", "niqe", "musiq", "clipiqa", "maniqa", "qalign"), PUBLISHED),
}


def pairs():
    """name -> two uint8 pictures (192, 192, 3): a photograph of scikit-image or a drawn person, clean and degraded."""
    person = procedural.ProceduralPerson(9)
    clean = {
        "astronaut": skimage.data.astronaut()[:192, 128:320],
        "person": procedural.render([(person, person.shot(0))], 192).pictures[0],
        "cat": skimage.data.cat()[50:242, 100:292],
        "coffee": skimage.data.coffee()[100:292, 200:392],
        "rocket": skimage.data.rocket()[100:292, 220:412],
    }
    return {f"{name}, {how}": (x, spoilt) for name, x in clean.items() for how, spoilt in spoil(x).items()}


def spoil(clean):
    """how -> the picture with noise of sigma 12, blurred by sigma 2, moved right by a pixel, a fifth darker."""
    x = clean.astype(float)
    noise = np.random.default_rng(5).normal(0, 12, x.shape)
    spoilt = {
        "noise": x + noise,
        "blur": gaussian_filter(x, (2, 2, 0)),
        "shift": shift(x, (0, 1, 0), mode="nearest"),
        "darker": 0.8 * x,
    }
    return {how: y.round().clip(0, 255).astype(np.uint8) for how, y in spoilt.items()}


def ms_ssim(a, b):
    """Wang et al. 2003, eq. 7, of uint8 pictures: contrast and structure at five scales, luminance at the last one."""
    a, b = (x.astype(float).transpose(2, 0, 1) for x in (a, b))  # (3, H, W)
    product = 1.0
    for scale, exponent in enumerate(SCALES):
        light, structure = terms(a, b)
        last = scale == len(SCALES) - 1
        product *= (light * structure if last else structure).mean((1, 2)) ** exponent
        a, b = (
            (x.reshape(3, x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4)) for x in (a, b)) if not last else (a, b)
        )
    return float(product.mean())


def terms(a, b):
    """SSIM's l and cs of (3, H, W), 0..255, in every 11 px Gaussian window (sigma 1.5) that lies inside."""
    side = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(side, side)[None] / side.sum() ** 2
    mean = lambda x: fftconvolve(x, window, mode="valid", axes=(1, 2))  # noqa: E731
    ma, mb, c1, c2 = mean(a), mean(b), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances, covariance = mean(a * a) + mean(b * b) - ma**2 - mb**2, mean(a * b) - ma * mb
    return (2 * ma * mb + c1) / (ma**2 + mb**2 + c1), (2 * covariance + c2) / (variances + c2)


METRICS = {
    "psnr": lambda a, b: peak_signal_noise_ratio(a, b, data_range=255),
    "ssim": lambda a, b: structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    ),
    "ms_ssim": ms_ssim,
}


def calibration():
    """What data/calibration/pairs.json holds."""
    skimage_is = f"scikit-image {version('scikit-image')}"
    return {
        "what": "fixed pairs of tests/calibration_pairs.py, measured by an implementation that lib does not use",
        "by": {
            "psnr": f"{skimage_is}, peak_signal_noise_ratio, data_range 255",
            "ssim": f"{skimage_is}, structural_similarity, Gaussian sigma 1.5, population covariance, data_range 255",
            "ms_ssim": f"tests/calibration_pairs.py, Wang et al. 2003 in numpy {version('numpy')} and scipy "
            f"{version('scipy')}",
        },
        "exceptions": EXCEPTIONS,
        "values": {
            name: {metric: round(compute(*pair), 6) for metric, compute in METRICS.items()}
            for name, pair in pairs().items()
        },
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(calibration(), indent=1) + "\n", encoding="utf-8")
