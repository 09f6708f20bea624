"""The operators of eq. 9: blur by k_sigma, resize by r, noise n_delta, JPEG at quality q.

Each maps a float32 (H, W, 3) picture in 0..255 to another. Kernels: generalised and plateau Gaussians
(Wang et al. 2021, Real-ESRGAN, sec. 3.2) and the circular sinc (sec. 3.3).
"""

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np

from lib.errors import DrawError

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
KINDS = ("iso", "aniso", "generalised_iso", "generalised_aniso", "plateau_iso", "plateau_aniso", "sinc")
NARROWEST = 1e-3  # a blur of no width is the identity, not a division by zero


def kernel(
    kind: str,
    size: int,
    sigma_x: float = 0.0,
    sigma_y: float = 0.0,
    angle: float = 0.0,
    beta: float = 1.0,
    omega: float = math.pi,
) -> np.ndarray:
    """A blur kernel by its kind (Wang et al. 2021, Real-ESRGAN, eq. 3 and its appendix).

    kind: one of KINDS. size: odd side in pixels. sigma_x, sigma_y: standard deviations along the kernel's own axes,
    pixels; the iso kinds ignore sigma_y. angle: radians, from the x axis (right) towards the y axis (down).
    beta: shape of the generalised (1 is Gaussian) and plateau kinds. omega: cut-off of the sinc, radians per pixel.
    Returns float32 (size, size), sum 1. Raises KeyError on another kind.
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
    """Ideal circular low-pass omega J1(omega r) / (2 pi r): the ringing of sharpened and compressed pictures."""
    half = np.arange(size // 2 + 1.0)
    radius = np.hypot(half[None, :], half[:, None])  # (half, half), a quadrant is enough
    radius[0, 0] = 1.0
    quadrant = omega * bessel_j1(omega * radius) / (2 * math.pi * radius)
    quadrant[0, 0] = omega**2 / (4 * math.pi)  # the limit at r = 0
    return np.pad(quadrant, ((size // 2, 0), (size // 2, 0)), mode="reflect")


def bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel function J1 by its integral, (1/pi) int_0^pi cos(t - x sin t) dt, for any x >= 0.

    The integrand is periodic and smooth, so the midpoint rule converges faster than any power of its steps.
    """
    count = 32 + int(np.abs(x).max())
    t = (np.arange(count) + 0.5) * math.pi / count
    return np.cos(t - np.asarray(x)[..., None] * np.sin(t)).mean(-1)


def _normalised(values):
    """Sum 1; what no picture can show is exactly zero, for OpenCV skips zeros and crawls through denormal numbers."""
    values = np.where(np.abs(values) < 1e-7 * values.max(), 0.0, values)
    return (values / values.sum()).astype(np.float32)


def check_setting(condition: bool, message: str) -> None:
    """Raise DrawError with the message unless the condition holds."""
    if not condition:
        raise DrawError(f"A setting is out of range: {message}. Remedy: draw again, or correct the saved draw.")


@dataclass(frozen=True)
class Blur:
    """x * k_sigma. Settings as in `kernel`, sigma in pixels."""

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
    """down_r: sides divided by `down` (below 1 it enlarges) and rounded, at least one pixel."""

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
    """+ n_delta, clipped to 0..255. `delta`: standard deviation in grey levels; for poisson, a factor on shot noise.

    `grey`: the same noise in R, G and B.
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
    """Poisson noise with as many photons at white as the picture has levels, rounded up to a power of two (BasicSR)."""
    levels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    if grey:
        levels = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)[..., None]
    photons = 2.0 ** math.ceil(math.log2(max(2, np.count_nonzero(np.bincount(levels.ravel())))))
    counted = generator.poisson(levels / 255.0 * photons) / photons * 255.0
    return (counted - levels).astype(np.float32)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Jpeg:
    """[.]_JPEG_q: written and read by OpenCV's libjpeg, quality 1..100, 4:2:0 chroma."""

    quality: int

    def __post_init__(self):
        whole = 1 <= self.quality <= 100 and self.quality == int(self.quality)
        check_setting(whole, f"JPEG quality {self.quality} is not a whole number in 1..100")

    def __call__(self, picture):
        blue_first = cv2.cvtColor(to_bytes(picture), cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, int(self.quality)])
        return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB).astype(np.float32)


OPERATORS = {"blur": Blur, "resize": Resize, "noise": Noise, "jpeg": Jpeg}
