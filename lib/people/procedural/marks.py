"""What lies on a face: freckles, moles, scars, wrinkles and glasses."""

import numpy as np

from lib.people.procedural.anatomy import smooth, spline_matrix, wide
from lib.people.procedural.canvas import blend, circles, ribbon, ribbons


def draw_marks(canvas, look):
    """Freckles, moles and a scar."""
    genes, camera, unit, skin = look.genes, look.camera, look.camera.unit, look.skin
    rng = np.random.default_rng(genes.marks)
    if genes.freckles != "none":
        count = {"light": 22, "strong": 46}[genes.freckles]
        spots = np.column_stack([rng.uniform(-0.85, 0.85, count), rng.normal(0.45, 0.15, count)])
        sizes = rng.uniform(0.018, 0.034, count) * unit
        canvas.fill(circles(camera.face(spots), sizes), skin * (0.74, 0.58, 0.48))
    if genes.moles:
        moles = np.array(genes.moles)
        centres, radii = camera.face(moles[:, :2]), moles[:, 2] * unit
        canvas.fill(circles(centres, radii, 14), skin * (0.36, 0.25, 0.22))
        canvas.fill(circles(centres - 0.3 * radii[:, None], 0.3 * radii), skin * (0.6, 0.45, 0.4))
    if genes.scar != "none":
        s = 1 if genes.scar_place > 0 else -1
        ends = {
            "brow": ((0.62, -0.68), (0.74, -0.28)),
            "cheek": ((0.48, 0.48), (0.86, 0.78)),
            "chin": ((0.12, 1.34), (0.30, 1.56)),
            "forehead": ((0.12, -0.95), (0.38, -0.62)),
            "nose": ((-0.14, 0.26), (0.16, 0.40)),
        }[genes.scar]
        (a, b), (c, d) = ends
        path = camera.face(smooth(np.array([(s * a, b), (s * (a + c) / 2 + 0.03, (b + d) / 2), (s * c, d)])))
        if genes.scar == "nose":
            path = camera.project(
                np.column_stack([np.array([-0.16, -0.05, 0.05, 0.16]), [0.3, 0.32, 0.36, 0.38], [0.12, 0.3, 0.3, 0.12]])
            )
        canvas.fill(ribbon(path + (0.018 * unit, 0.018 * unit), 0.07 * unit, 0.2), skin * (0.66, 0.46, 0.44))
        canvas.fill(ribbon(path, 0.05 * unit, 0.2), blend(skin, (255, 214, 204), 0.6))


def draw_wrinkles(canvas, look):
    """Wrinkles of forehead, eyes and mouth."""
    strength = (look.genes.wrinkles - 0.2) / 0.8
    if strength <= 0:
        return
    lines = [[(-0.5, -0.74), (0, -0.78), (0.5, -0.74)], [(-0.42, -0.9), (0, -0.94), (0.42, -0.9)]]
    lines += [
        [(s * 0.84, y), (s * 0.93, y + k), (s * 1.0, y + 2 * k)]
        for s in (-1, 1)
        for y, k in ((-0.03, -0.04), (0.06, 0.04))
    ]
    lines += [[(s * 0.33, 0.78), (s * 0.50, 0.92), (s * 0.56, 1.12)] for s in (-1, 1)]
    lines += [[(s * 0.3, 0.19), (s * 0.5, 0.26), (s * 0.7, 0.2)] for s in (-1, 1)]
    curves = spline_matrix(3, False) @ np.array(lines)
    curves = look.camera.face(curves.reshape(-1, 2)).reshape(curves.shape)
    canvas.fill(
        ribbons(curves, 0.028 * look.camera.unit, 0.05),
        blend(look.skin, look.skin * (0.68, 0.54, 0.5), 0.3 + 0.7 * strength),
    )


def draw_glasses(canvas, look):
    """Glasses."""
    kind, unit = look.genes.glasses, look.camera.unit
    if kind == "none":
        return
    power, broad, high = {"round": (2, 0.37, 0.36), "oval": (2.4, 0.42, 0.27), "square": (5, 0.41, 0.30)}[kind]
    t = np.arange(28) * (2 * np.pi / 28)
    round_ = np.column_stack(
        [np.sign(np.cos(t)) * abs(np.cos(t)) ** (2 / power), np.sign(np.sin(t)) * abs(np.sin(t)) ** (2 / power)]
    )
    colour = ((34, 30, 36), (120, 72, 40), (150, 30, 44), (40, 62, 110))[look.genes.marks % 4]
    ends = look.camera.outline(np.array([(1.07 * wide(look.genes), 0.02)]))
    for s, end in zip((-1, 1), ends):
        rings = [
            look.camera.project(
                np.column_stack(
                    [
                        s * 0.51 + k * broad * round_[:, 0],
                        0.04 + k * high * round_[:, 1],
                        np.full(28, 0.2) - 0.25 * np.abs(round_[:, 0] * broad + 0.1),
                    ]
                )
            )
            for k in (1.07, 0.92)
        ]
        canvas.fill(rings, colour, weight=60)
        canvas.fill(
            ribbon(np.concatenate([look.camera.project([(s * 0.9, -0.03, 0.1)]), end]), 0.07 * unit), colour, weight=60
        )
    canvas.fill(
        ribbon(smooth(look.camera.project([(-0.14, 0.0, 0.22), (0, -0.05, 0.26), (0.14, 0.0, 0.22)])), 0.07 * unit),
        colour,
        weight=60,
    )
