"""A supersampled picture of filled smooth shapes, with a mask for each region."""

from functools import lru_cache

import cv2
import numpy as np

FINE = 4  # bits of sub-pixel precision


def blend(a, b, t):
    """a (1 - t) + b t for colours or points."""
    return np.asarray(a) * (1 - t) + np.asarray(b) * t


@lru_cache(maxsize=None)
def _turn(count):
    t = np.arange(count) * (2 * np.pi / count)
    return np.column_stack([np.cos(t), np.sin(t)])


@lru_cache(maxsize=None)
def _profile(count, taper):
    return taper + (1 - taper) * np.sin(np.linspace(0, np.pi, count))


@lru_cache(maxsize=None)
def _slope(count):
    return np.gradient(np.eye(count), axis=0).T


def circle(centre, radius, count=20):
    """A circle or, for a pair of radii, an ellipse: (count, 2)."""
    return centre + _turn(count) * radius


def circles(centres, radii, count=8):
    """Circles (K, count, 2) about `centres` (K, 2) with `radii` (K,)."""
    return centres[:, None] + _turn(count) * radii[:, None, None]


def ribbon(line, width, taper=1.0):
    """A stroke along `line` (P, 2): polygon (2P, 2); `width` a number or (P,); ends narrowed to `taper` of it."""
    return ribbons(line[None], width, taper)[0]


def ribbons(lines, width, taper=0.0):
    """Strokes along K `lines` (K, P, 2): polygons (K, 2P, 2) with ends narrowed to `taper` of `width`."""
    path = np.ascontiguousarray(lines).view(np.complex128)[..., 0]
    step = path @ _slope(path.shape[1])
    offset = step * (_profile(path.shape[1], taper) * (0.5j * width)) / (np.abs(step) + 1e-9)
    edges = np.concatenate([path + offset, (path - offset)[:, ::-1]], 1)
    return edges.view(float).reshape(len(edges), -1, 2)


class Canvas:
    """A picture of four channels: red, green, blue, and the weight of the shading (0..255)."""

    def __init__(self, picture, regions=()):
        self.picture, self.side = picture, picture.shape[0]
        self.regions = {name: np.zeros(picture.shape[:2], np.uint8) for name in regions}

    def _grid(self, points):
        scale, shift = self.side * (1 << FINE), 0.5 - 0.5 * (1 << FINE)
        if isinstance(points, list):
            return [(p * scale + shift).astype(np.int32) for p in points]
        grid = (points * scale + shift).astype(np.int32)
        return list(grid) if grid.ndim == 3 else [grid]

    def fill(self, points, colour, weight=255, region=None):
        """Fill one polygon (P, 2), or several by the even-odd rule, in picture widths, and mark it as of `region`."""
        grid = self._grid(points)
        r, g, b = colour
        cv2.fillPoly(self.picture, grid, (min(r, 255), min(g, 255), min(b, 255), weight), cv2.LINE_AA, FINE)
        if region and self.regions:
            for name, mask in self.regions.items():
                cv2.fillPoly(mask, grid, 255 * (name == region), cv2.LINE_AA, FINE)

    def region(self, name, points):
        """Mark a polygon as of a region without painting it."""
        for other, mask in self.regions.items():
            cv2.fillPoly(mask, self._grid(points), 255 * (name == other), cv2.LINE_AA, FINE)

    def shrink(self, size):
        """Picture float32 (size, size, 3), shading weight float32 (size, size, 1) in 0..1, masks uint8 or None."""
        small = cv2.resize(self.picture, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        masks = {n: cv2.resize(m, (size, size), interpolation=cv2.INTER_AREA) for n, m in self.regions.items()}
        return small[..., :3], small[..., 3:] / 255, masks or None
