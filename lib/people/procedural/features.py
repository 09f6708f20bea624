"""The features of a face: ears, eyes, brows, nose and mouth."""

import numpy as np

from lib.people.procedural.anatomy import eye, smooth, wide
from lib.people.procedural.canvas import blend, circle, circles, ribbon, ribbons
from lib.people.procedural.hair import LENGTHS

IRIS = {
    "blue": (58, 128, 232),
    "green": (46, 164, 84),
    "brown": (122, 66, 26),
    "hazel": (146, 134, 44),
    "grey": (146, 160, 176),
    "amber": (240, 160, 24),
    "turquoise": (24, 190, 190),
    "violet": (146, 88, 224),
}


def draw_ears(canvas, look):
    """Ears and earrings."""
    left, right = look.camera.outline(np.array([(1.06, -0.12), (1.10, 0.15), (1.08, 0.5)]) * (wide(look.genes), 1))
    size = 0.19 * (1 + 0.28 * look.genes.ears)
    for side, edge in ((-1, left), (1, right)):
        shape = np.array(
            [
                (-0.4, -0.08),
                (0.3, -0.16),
                (1, -0.05),
                (0.95, 0.2),
                (0.62, 0.42),
                (0.42, 0.62),
                (-0.1, 0.66),
                (-0.5, 0.3),
            ]
        )
        points = edge[1] + shape * (side * size, 0.58 * (1 + 0.18 * look.genes.ears)) * look.camera.unit
        if look.genes.hair not in LENGTHS:
            canvas.fill(smooth(points, True), look.skin * (0.95, 0.88, 0.86), region="skin")
            canvas.fill(
                ribbon(smooth(points[1:5] * 0.8 + 0.2 * edge[1]), 0.05 * look.camera.unit),
                look.skin * (0.78, 0.64, 0.6),
            )
        if look.genes.earring != "none":
            drop = points[5] + (0, 0.02 * look.camera.unit)
            sizes = (0.075,) if look.genes.earring == "stud" else (0.19, 0.13)
            rings = [circle(drop + (0, (sizes[0] - 0.02) * look.camera.unit), r * look.camera.unit) for r in sizes]
            canvas.fill(rings, (250, 214, 110), weight=60)


def _eye(look, points, side):
    """Shapes and colours of one eye in the order of drawing: [(polygon, colour)]."""
    genes, shot, unit, skin = look.genes, look.shot, look.camera.unit, look.skin
    upper, lower = smooth(points[:4]), smooth(points[[3, 4, 5, 0]])
    centre = look.camera.project(
        eye(genes, shot, side)[1][None] + (0.075 * shot.gaze_x, -0.005 + 0.045 * shot.gaze_y, 0.02)
    )[0]
    radius = 0.138 * (1 + 0.10 * genes.iris_size) * unit
    glint = (0.36 * np.sign(shot.light_x), -0.36)
    discs = circles(
        centre + radius * np.array([(0, 0), (0, 0), (0, 0.22), (0, 0), glint]),
        radius * np.array([1, 0.86, 0.58, 0.42, 0.24]),
        20,
    )
    discs = np.concatenate([discs.reshape(-1, 2), upper + (0, 0.035 * unit)])
    floor = np.interp(discs[:, 0], lower[::-1, 0], lower[::-1, 1])
    discs[:, 1] = np.maximum(np.interp(discs[:, 0], upper[:, 0], upper[:, 1]), np.minimum(discs[:, 1], floor))
    iris = np.array(IRIS[genes.iris]) * (1 + 0.12 * genes.iris_shade)
    dark = blend(look.hair * 0.3, skin * 0.2, 0.5)
    colours = (
        iris * (0.42 - 0.12 * genes.limbal_ring),
        iris,
        blend(iris, (255, 255, 255), 0.28),
        (16, 12, 16),
        (255, 255, 255),
    )
    shapes = [
        (np.concatenate([upper, lower]), (246, 243, 240)),
        *zip(discs[:100].reshape(5, 20, 2), colours),
        (np.concatenate([upper, discs[:99:-1]]), skin * (0.55, 0.48, 0.48)),
        (ribbon(upper, (0.06 + 0.018 * genes.lashes) * unit, 0.35), dark),
        (ribbon(lower, 0.022 * unit, 0.2), skin * (0.66, 0.52, 0.5)),
        (ribbon(upper - (0, (0.085 + 0.035 * genes.eye_crease) * unit), 0.026 * unit, 0.1), skin * (0.74, 0.6, 0.57)),
    ]
    if genes.lashes > 0.2:
        outer = points[0 if side < 0 else 3]
        shapes.append((outer + np.array([(-side * 0.06, -0.03), (side * 0.11, -0.07), (0, 0)]) * unit, dark))
    return shapes


def draw_eyes(canvas, look):
    """Both eyes; the region mask is that of the whites."""
    left, right = _eye(look, look.points[36:42], -1), _eye(look, look.points[42:48], 1)
    for i, ((one, colour), (other, _)) in enumerate(zip(left, right)):
        canvas.fill([one, other], colour, region=None if i else "eyes")


def draw_brows(canvas, look):
    """Brows, with single hairs."""
    genes, unit = look.genes, look.camera.unit
    lines = np.stack([smooth(look.points[17:22]), smooth(look.points[26:21:-1])])  # outer to inner
    t = np.arange(lines.shape[1]) / (lines.shape[1] - 1)
    width = (
        0.125
        * (1 + 0.55 * genes.brow_thickness)
        * (0.25 + (0.75 + 0.25 * genes.brow_taper) * t**0.6)
        * np.minimum(8.55 - 8 * t, 1)
    )
    colour = blend(look.hair * (0.78, 0.68, 0.62), (40, 28, 24), 0.25 - 0.25 * genes.brow_shade)
    canvas.fill(ribbons(lines, width * unit, 1.0), colour, weight=200, region="brows")
    way = np.array([[[-1, 1]], [[1, 1]]]) * unit
    start = lines[:, 7:-2:3] + (0, 0.02 * unit)
    hairs = np.stack([start, start + way * (0.05, -0.025), start + way * (0.12, -0.03)], 2).reshape(-1, 3, 2)
    canvas.fill(ribbons(hairs, 0.022 * unit), colour * 0.82, weight=200)


def draw_nose(canvas, look, points):
    """Nostrils and the lower edge; the region is larger than what is painted."""
    unit, skin = look.camera.unit, look.skin
    root = points[0]
    canvas.region(
        "nose",
        smooth(
            np.concatenate(
                [
                    [root + (-0.09 * unit, 0), points[4] + (-0.02 * unit, -0.16 * unit)],
                    points[4:9],
                    [points[8] + (0.02 * unit, -0.16 * unit), root + (0.09 * unit, 0)],
                ]
            ),
            per=4,
        ),
    )
    curves, holes = [ribbon(smooth(points[5:8]), 0.03 * unit, 0.2)], []
    for wing, inner, s in ((points[4], points[5], -1), (points[8], points[7], 1)):
        curve = np.array([wing + (0, -0.17 * unit), wing + (s * 0.045 * unit, -0.07 * unit), wing, inner])
        curves.append(ribbon(smooth(curve), 0.035 * unit, 0.15))
        holes.append(circle(blend(wing, inner, 0.72) + (0, -0.015 * unit), (0.075 * unit, 0.034 * unit)))
    canvas.fill(holes, skin * (0.42, 0.28, 0.26))
    canvas.fill(curves, skin * (0.70, 0.54, 0.50))


def draw_mouth(canvas, look, points):
    """Lips, and teeth and tongue of an open mouth."""
    genes, unit, skin = look.genes, look.camera.unit, look.skin
    outer, inner = points[:12], points[12:]
    top, bottom = smooth(outer[:7]), smooth(np.concatenate([outer[6:], outer[:1]]))
    over, under = smooth(inner[:5]), smooth(np.concatenate([inner[4:], inner[:1]]))
    rose = blend(
        skin * (0.80, 0.52, 0.50),
        (196, 58, 84) if genes.lip_colour > 0 else (168, 96, 78),
        0.12 + 0.45 * abs(genes.lip_colour),
    )
    canvas.fill(np.concatenate([top, bottom]), rose, region="mouth")
    canvas.fill(np.concatenate([top, over[::-1]]), rose * 0.84)
    if look.shot.mouth_open > 0:
        canvas.fill(np.concatenate([over, under]), (86, 28, 36))
        floor = under[::-1]
        canvas.fill(np.concatenate([blend(over, floor, 0.62), under]), (190, 84, 88))
        canvas.fill(np.concatenate([over, blend(over, floor, 0.5)[::-1]])[1:-1], (250, 247, 240))
    canvas.fill(ribbon(over, 0.035 * unit, 0.3), rose * (0.45, 0.36, 0.38))
    shine = blend(under[4:-4], bottom[7:-7:1][: len(under[4:-4])], 0.45)
    canvas.fill(ribbon(shine, 0.035 * unit, 0.0), blend(rose, (255, 255, 255), 0.32))
    canvas.fill(circles(outer[[0, 6]], np.full(2, 0.022 * unit)), skin * (0.68, 0.52, 0.5))
