"""What surrounds the head: the backdrop, the neck and the clothes."""

import cv2
import numpy as np

from lib.people.procedural.anatomy import smooth
from lib.people.procedural.canvas import blend, ribbon


def backdrop(shot, side):
    """Backdrop (side, side, 4) uint8, weight 0."""
    rng = np.random.default_rng(shot.grain)
    one, two = np.array(shot.background_colours, float)
    two = blend(one, two, 0.5)
    coarse = np.zeros((6, 6, 4))
    tint = coarse[..., :3]
    if shot.background == "plain":
        tint[:] = blend(one, two, np.arange(6)[:, None, None] / 5)
    elif shot.background == "glow":
        y, x = np.mgrid[0:6, 0:6] / 5 - 0.5
        tint[:] = blend(one * 0.7, blend(one, (255, 255, 255), 0.3), np.exp(-5 * (x * x + y * y))[..., None])
    else:
        tint[:] = blend(one, two, rng.random((6, 6, 1))) * (0.8 + 0.4 * rng.random((6, 6, 1)))
    if shot.background == "wall":
        tint[:] = one
        tint[:, int(rng.integers(1, 5)) :] = two
    mode = cv2.INTER_NEAREST if shot.background == "wall" else cv2.INTER_CUBIC
    return cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (side, side), interpolation=mode)


def draw_body(canvas, look):
    """Neck and clothes."""
    shot, unit, skin = look.shot, look.camera.unit, look.skin
    top = look.camera.project([[0, 1.1, -0.75]])[0]
    x = 0.6 * top[0] + 0.4 * look.camera.centre[0]
    half = 0.60 + 0.05 * look.genes.jaw

    def at(*points):
        return np.array([(x + a * unit, look.camera.centre[1] + b * unit) for a, b in points])

    neck = np.concatenate(
        [
            [top + (-half * unit, -0.3 * unit)],
            at(
                (-half, 1.75),
                (-half - 0.25, 2.1),
                (-half - 0.3, 2.6),
                (half + 0.3, 2.6),
                (half + 0.25, 2.1),
                (half, 1.75),
            ),
            [top + (half * unit, -0.3 * unit)],
        ]
    )
    canvas.fill(smooth(neck), skin * 0.93, region="skin")
    colour = np.array(shot.clothing_colour, float)
    dip = {"round": (2.12, 0.5), "vee": (2.35, 0.42), "collar": (2.25, 0.3), "roll": (1.78, 0.66)}[shot.clothing]
    edge = at((-2.6, 2.5), (-1.9, 2.18), (-1.2, 2.0), (-half - 0.12, 1.86))
    right = at((half + 0.12, 1.86), (1.2, 2.0), (1.9, 2.18), (2.6, 2.5))
    if shot.clothing == "vee" or shot.clothing == "collar":
        middle = at((0, dip[0]))
    else:
        middle = smooth(
            at(
                (-half - 0.12, 1.86),
                (-dip[1], dip[0] - 0.04),
                (0, dip[0]),
                (dip[1], dip[0] - 0.04),
                (half + 0.12, 1.86),
            )
        )
    canvas.fill(
        np.concatenate([smooth(edge), middle, smooth(right), at((2.6, 4), (-2.6, 4))]),
        colour,
        weight=90,
        region="clothes",
    )
    rim = np.concatenate([at((-half - 0.1, 1.86)), middle, at((half + 0.1, 1.86))])
    canvas.fill(ribbon(rim, 0.07 * unit), blend(colour, (0, 0, 0), 0.22), weight=90, region="clothes")
    if shot.clothing == "collar":
        for s in (-1, 1):
            canvas.fill(
                at((s * (half + 0.1), 1.80), (0, 2.25), (s * 0.42, 2.42), (s * (half + 0.32), 2.05)),
                blend(colour, (255, 255, 255), 0.35),
                weight=90,
                region="clothes",
            )
