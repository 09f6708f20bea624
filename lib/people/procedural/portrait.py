"""The drawing of one person in one shot: flat shapes on smooth curves through the projected skeleton, softly shaded."""

import math

import cv2
import numpy as np

from lib.people.procedural import hair, scene
from lib.people.procedural.anatomy import Camera, eye, landmarks, skull_half, smooth, spline_matrix, wide
from lib.people.procedural.canvas import Canvas, blend, circle, circles, ribbon, ribbons

REGIONS = ("skin", "hair", "eyes", "brows", "nose", "mouth")
SKIN = np.array(
    [(250, 218, 196), (244, 206, 178), (234, 187, 152), (214, 158, 119), (180, 123, 87), (142, 92, 64), (104, 66, 46)],
    float,
)
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
# x, y, z of each soft spot, its two radii (face units), and its log-shade in red, green, blue
SPOTS = np.array(
    [
        (-0.50, -0.10, 0.0, 0.30, 0.17, -0.10, -0.17, -0.16),
        (0.50, -0.10, 0.0, 0.30, 0.17, -0.10, -0.17, -0.16),
        (-0.17, -0.06, 0.1, 0.08, 0.16, -0.10, -0.14, -0.14),
        (0.17, -0.06, 0.1, 0.08, 0.16, -0.10, -0.14, -0.14),
        (-0.50, 0.24, 0.0, 0.22, 0.07, -0.06, -0.10, -0.08),
        (0.50, 0.24, 0.0, 0.22, 0.07, -0.06, -0.10, -0.08),
        (0, 0.25, 0.3, 0.07, 0.28, 0.10, 0.11, 0.11),
        (0, 0.60, 0.5, 0.10, 0.09, 0.10, 0.12, 0.13),
        (0, 0.66, 0.5, 0.17, 0.13, 0.0, -0.08, -0.08),
        (-0.19, 0.55, 0.2, 0.07, 0.17, -0.09, -0.13, -0.13),
        (0.19, 0.55, 0.2, 0.07, 0.17, -0.09, -0.13, -0.13),
        (0, 0.87, 0.2, 0.22, 0.05, -0.16, -0.22, -0.22),
        (0, 0.97, 0.2, 0.04, 0.07, -0.05, -0.07, -0.07),
        (0, 1.37, 0.1, 0.19, 0.055, -0.14, -0.18, -0.18),
        (0, 1.49, 0.05, 0.17, 0.09, 0.05, 0.05, 0.05),
        (-0.62, 0.36, -0.1, 0.17, 0.09, 0.06, 0.06, 0.06),
        (0.62, 0.36, -0.1, 0.17, 0.09, 0.06, 0.06, 0.06),
        (0, -0.72, 0.0, 0.42, 0.22, 0.06, 0.06, 0.05),
        (0, -1.34, -0.1, 0.55, 0.10, 0.38, 0.38, 0.40),
    ]
)


def skin_colour(genes):
    """Skin colour (3,) 0..255 from the tone, light to dark, and the undertone, cool to warm."""
    at = (genes.skin_tone + 1) / 2 * (len(SKIN) - 1.001)
    return blend(SKIN[int(at)], SKIN[int(at) + 1], at % 1) + genes.undertone * np.array([3, 1, -8])


def _ears(canvas, look):
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
        if look.genes.hair not in hair.LENGTHS:
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


def _eyes(canvas, look):
    left, right = _eye(look, look.points[36:42], -1), _eye(look, look.points[42:48], 1)
    for i, ((one, colour), (other, _)) in enumerate(zip(left, right)):
        canvas.fill([one, other], colour, region=None if i else "eyes")


def _brows(canvas, look):
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


def _nose(canvas, look, points):
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


def _mouth(canvas, look, points):
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


def _marks(canvas, look):
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


def _wrinkles(canvas, look):
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


def _glasses(canvas, look):
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


def _shade(look, size, soft):
    """Shade less one (size, size, 3): light over a round head, soft spots of the face, cast shadows `soft` (size, size)."""
    shot, camera, unit = look.shot, look.camera, look.camera.unit
    spots = SPOTS.copy()
    spots[:, 5:] *= 0.8 + 0.3 * shot.light
    if look.genes.blush > -0.3:
        blush = 0.11 * (look.genes.blush + 0.5)
        spots = np.concatenate(
            [spots, [(s * 0.62, 0.60, -0.12, 0.24, 0.19, 0.02, -blush, -0.8 * blush) for s in (-1, 1)]]
        )
    at, grid = camera.project(spots[:, :3]), (np.arange(size) + 0.5) / size
    # the floor keeps numbers that cannot be seen from becoming denormal, which is slow
    across = np.exp(np.maximum(-0.5 * ((grid - at[:, :1]) / (spots[:, 3:4] * unit)) ** 2, -20))
    down = np.exp(np.maximum(-0.5 * ((grid - at[:, 1:]) / (spots[:, 4:5] * unit)) ** 2, -20))
    middle = camera.project([[0, 0.1, -0.6]])[0]
    nx, ny = (grid - middle[0]) / (1.1 * unit), (grid - middle[1]) / (1.5 * unit)
    form_x = shot.light * (0.24 * shot.light_x * np.clip(nx, -1.3, 1.3)) - 0.17 * np.clip(np.abs(nx), 0, 1.15) ** 3
    form_y = shot.light * 0.16 * shot.light_y * np.clip(ny, -1.2, 1.2) - 0.09 * np.clip(ny, 0, 1.2) ** 2
    one, grey = np.ones((1, size)), np.array([[0.85, 1.05, 1.05]])
    tint = 0.02 + shot.warmth * np.array([[0.03, 0.0, -0.05]])
    rows = np.concatenate([down, one, form_y[None], one])
    columns = (
        np.concatenate([across, form_x[None], one, one])[:, :, None]
        * np.concatenate([spots[:, 5:], grey, grey, tint])[:, None]
    )
    shade = (rows.T.astype(np.float32) @ columns.reshape(len(rows), -1).astype(np.float32)).reshape(size, size, 3)
    shade -= soft[..., None] * np.array([0.30, 0.42, 0.42], np.float32)
    return cv2.exp(shade) - 1


def _shadows(look, size, head):
    """Cast shadows (size, size) float32 in 0..1: under the chin and under the hair."""
    unit, mask = look.camera.unit, np.zeros((size, size), np.uint8)

    def put(points, value):
        cv2.fillPoly(mask, [np.round((points * size - 0.5) * 16).astype(np.int32)], value, cv2.LINE_AA, 4)

    put(head + (-0.12 * look.shot.light_x * unit, 0.24 * unit), 255)
    put(head, 0)
    if look.front is not None:
        put(look.front + (-0.05 * look.shot.light_x * unit, 0.10 * unit), 190)
    sigma = 0.065 * unit * size
    return cv2.GaussianBlur(mask, (0, 0), sigma).astype(np.float32) / 255


class Look:
    """One person in one shot with what several strokes need: camera, landmarks, colours."""

    def __init__(self, genes, shot):
        self.genes, self.shot, self.camera = genes, shot, Camera(shot)
        self.points = landmarks(genes, shot, self.camera)
        self.skin, self.hair = skin_colour(genes), hair.colour(genes)
        left, right = self.camera.outline(skull_half(genes))
        self.skull = np.concatenate([right[:6], [(left[6] + right[6]) / 2], left[5::-1]])  # right ear, crown, left ear
        self.front = hair.front(self)


def draw(genes, shot, size, masks=False):
    """One picture: uint8 (size, size, 3) RGB, landmarks float32 (68, 2) pixels, and None or {region: uint8 (size, size)}."""
    look = Look(genes, shot)
    side = size * max(2, math.ceil(192 / size))
    canvas = Canvas(scene.backdrop(shot, side), REGIONS if masks else ())
    p, head = look.points, smooth(np.concatenate([look.points[:17], look.skull]), True, 3)
    hair.draw_back(canvas, look)
    scene.draw_body(canvas, look)
    _ears(canvas, look)
    canvas.fill(head, look.skin, region="skin")
    _wrinkles(canvas, look)
    hair.draw_beard(canvas, look)
    _nose(canvas, look, p[27:36])
    _mouth(canvas, look, p[48:])
    _eyes(canvas, look)
    _brows(canvas, look)
    _marks(canvas, look)
    hair.draw_front(canvas, look)
    _glasses(canvas, look)
    picture, weight, regions = canvas.shrink(size)
    coarse = max(size // 2, min(size, 64))  # shading is smooth: half the resolution is enough
    shade = cv2.resize(_shade(look, coarse, _shadows(look, coarse, head)), (size, size), interpolation=cv2.INTER_LINEAR)
    shade *= weight
    shade += 1
    return cv2.convertScaleAbs(cv2.multiply(picture, shade)), (p * size).astype(np.float32), regions
