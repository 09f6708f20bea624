"""The operators of eq. 9: blur by k_sigma, resize by r, noise n_delta, JPEG at quality q.

Each operator maps a float32 picture (H, W, 3) in 0..255 to another. The kernels are the generalised and plateau
Gaussians of Real-ESRGAN (Wang et al. 2021, sec. 3.2) and the circular sinc (sec. 3.3).
"""

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import j1

from lib.errors import DegradationError

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
KINDS = ("iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso", "sinc")
NARROWEST = 1e-3  # pixels; keeps a blur of no width from dividing by zero


def kernel(
    kind: str,
    size: int,
    sigma_x: float = 0.0,
    sigma_y: float = 0.0,
    angle: float = 0.0,
    beta: float = 1.0,
    omega: float = math.pi,
) -> np.ndarray:
    """Compute a blur kernel (Wang et al. 2021, Real-ESRGAN, eq. 3 and its appendix).

    Args:
        kind: one of KINDS.
        size: side in pixels, odd.
        sigma_x, sigma_y: standard deviations along the kernel's own axes, pixels; the iso kinds ignore sigma_y.
        angle: radians, from the x axis (right) towards the y axis (down).
        beta: shape of the generalised kinds (1 is Gaussian) and of the plateau kinds.
        omega: cut-off frequency of the sinc, radians per pixel.
    Returns float32 (size, size) with sum 1. Raises KeyError for another kind.
    """
    if kind == "sinc":
        return _normalised(_sinc(size, omega))
    if kind.endswith("iso") and not kind.endswith("aniso"):
        sigma_y, angle = sigma_x, 0.0
    distance = _mahalanobis(size, sigma_x, sigma_y, angle)
    return _normalised(_PROFILES[kind.split("_")[0]](distance, beta))


_PROFILES = {
    "iso": lambda squared, beta: np.exp(-squared / 2),
    "aniso": lambda squared, beta: np.exp(-squared / 2),
    "generalised": lambda squared, beta: np.exp(-(squared**beta) / 2),
    "plateau": lambda squared, beta: 1 / (squared**beta + 1),
}


def _mahalanobis(size, sigma_x, sigma_y, angle):
    """Squared distance from the centre in units of the two standard deviations, (size, size)."""
    axis = np.arange(size) - size // 2
    x, y = axis[None, :], axis[:, None]
    along = (math.cos(angle) * x + math.sin(angle) * y) / max(sigma_x, NARROWEST)
    across = (math.cos(angle) * y - math.sin(angle) * x) / max(sigma_y, NARROWEST)
    return along**2 + across**2


def _sinc(size, omega):
    """Ideal circular low-pass filter omega J1(omega r) / (2 pi r): the ringing of sharpened and compressed pictures."""
    axis = np.arange(size) - size // 2
    radius = np.hypot(axis[None, :], axis[:, None])  # (size, size)
    radius[size // 2, size // 2] = 1.0  # replaced below by the limit at r = 0
    values = omega * j1(omega * radius) / (2 * math.pi * radius)
    values[size // 2, size // 2] = omega**2 / (4 * math.pi)
    return values


def _normalised(values):
    """The kernel with sum 1. Negligible values become zero, because OpenCV is slow on denormal numbers."""
    values = np.where(np.abs(values) < 1e-7 * values.max(), 0.0, values)
    return (values / values.sum()).astype(np.float32)


def check_setting(condition: bool, message: str) -> None:
    """Raise DegradationError with the message unless the condition holds."""
    if not condition:
        raise DegradationError(f"A setting is out of range: {message}. Remedy: correct the value, or sample again.")


@dataclass(frozen=True)
class Blur:
    """Convolution with k_sigma. The fields are the arguments of `kernel`."""

    kind: str
    size: int
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    angle: float = 0.0
    beta: float = 1.0
    omega: float = math.pi

    def __post_init__(self):
        check_setting(self.kind in KINDS, f"blur kind {self.kind!r} is none of {', '.join(KINDS)}")
        check_setting(self.size % 2 == 1 and 1 <= self.size <= 255, f"kernel side {self.size} is not odd and in 1..255")
        check_setting(
            self.sigma_x >= 0 and self.sigma_y >= 0 and self.beta > 0 and 0 < self.omega <= math.pi, f"{self}"
        )

    def __call__(self, picture):
        return cv2.filter2D(picture, -1, kernel(**dataclasses.asdict(self)))


@dataclass(frozen=True)
class Resize:
    """down_r: both sides divided by `down` and rounded, at least one pixel. A value below 1 enlarges."""

    down: float
    interpolation: str = "bilinear"

    def __post_init__(self):
        known = ", ".join(INTERPOLATIONS)
        check_setting(self.interpolation in INTERPOLATIONS, f"interpolation {self.interpolation!r} is none of {known}")
        check_setting(0.05 <= self.down <= 512, f"down {self.down} is not in 0.05..512")

    def __call__(self, picture):
        height, width = (max(1, round(side / self.down)) for side in picture.shape[:2])
        return cv2.resize(picture, (width, height), interpolation=INTERPOLATIONS[self.interpolation])


@dataclass(frozen=True)
class Noise:
    """Addition of n_delta, clipped to 0..255.

    Fields: delta, the standard deviation in grey levels, or for poisson a factor on the shot noise; seed; kind,
    gaussian or poisson; grey, whether R, G and B get the same noise.
    """

    delta: float
    seed: int
    kind: str = "gaussian"
    grey: bool = False

    def __post_init__(self):
        check_setting(self.kind in ("gaussian", "poisson"), f"noise kind {self.kind!r} is neither gaussian nor poisson")
        check_setting(0 <= self.delta < math.inf and self.seed >= 0, f"{self}")

    def __call__(self, picture):
        generator = np.random.default_rng(self.seed)
        return np.clip(picture + np.float32(self.delta) * self._unit(picture, generator), 0, 255)

    def _unit(self, picture, generator):
        if self.kind == "poisson":
            return _shot_noise(picture, generator, self.grey)
        shape = picture.shape[:2] + ((1,) if self.grey else (3,))
        return generator.standard_normal(shape, dtype=np.float32)


def _shot_noise(picture, generator, grey):
    """Poisson noise as BasicSR makes it: white has as many photons as the picture has levels, up to a power of two."""
    levels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    if grey:
        levels = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)[..., None]
    photons = 2.0 ** math.ceil(math.log2(max(2, np.count_nonzero(np.bincount(levels.ravel())))))
    counted = generator.poisson(levels / 255.0 * photons) / photons * 255.0
    return (counted - levels).astype(np.float32)


def round_to_uint8(values: np.ndarray) -> np.ndarray:
    """Round values in grey levels and clip them to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Jpeg:
    """[.]_JPEG_q: encoded and decoded by OpenCV's libjpeg, quality 1..100, 4:2:0 chroma."""

    quality: int

    def __post_init__(self):
        valid = 1 <= self.quality <= 100 and self.quality == int(self.quality)
        check_setting(valid, f"JPEG quality {self.quality} is not a whole number in 1..100")

    def __call__(self, picture):
        blue_first = cv2.cvtColor(round_to_uint8(picture), cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, int(self.quality)])
        return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32)


OPERATORS = {"blur": Blur, "resize": Resize, "noise": Noise, "jpeg": Jpeg}
