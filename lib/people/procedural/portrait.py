"""The drawing of one person in one shot: flat shapes on smooth curves through the projected skeleton, then shading."""

import math

import cv2
import numpy as np

from lib.people.procedural import beard, features, hair, marks, scene, shading
from lib.people.procedural.anatomy import Camera, landmarks, skull_half, smooth
from lib.people.procedural.canvas import Canvas, blend

REGIONS = ("skin", "hair", "eyes", "brows", "nose", "mouth")
SKIN = np.array(
    [(250, 218, 196), (244, 206, 178), (234, 187, 152), (214, 158, 119), (180, 123, 87), (142, 92, 64), (104, 66, 46)],
    float,
)


def skin_colour(genes):
    """Skin colour (3,) 0..255 by the tone (light to dark) and the undertone (cool to warm)."""
    at = (genes.skin_tone + 1) / 2 * (len(SKIN) - 1.001)
    return blend(SKIN[int(at)], SKIN[int(at) + 1], at % 1) + genes.undertone * np.array([3, 1, -8])


class Look:
    """One person in one shot, with what several drawing functions need: camera, landmarks, colours."""

    def __init__(self, genes, shot):
        self.genes, self.shot, self.camera = genes, shot, Camera(shot)
        self.points = landmarks(genes, shot, self.camera)
        self.skin, self.hair = skin_colour(genes), hair.colour(genes)
        left, right = self.camera.outline(skull_half(genes))
        self.skull = np.concatenate([right[:6], [(left[6] + right[6]) / 2], left[5::-1]])  # right ear, crown, left ear
        self.front = hair.front(self)


def draw(genes, shot, size, masks=False):
    """One picture.

    Returns uint8 (size, size, 3) RGB, landmarks float32 (68, 2) in pixels, and None or {region: uint8 (size, size)}.
    """
    look = Look(genes, shot)
    side = size * max(2, math.ceil(192 / size))
    canvas = Canvas(scene.backdrop(shot, side), REGIONS if masks else ())
    p, head = look.points, smooth(np.concatenate([look.points[:17], look.skull]), True, 3)
    hair.draw_back(canvas, look)
    scene.draw_body(canvas, look)
    features.draw_ears(canvas, look)
    canvas.fill(head, look.skin, region="skin")
    marks.draw_wrinkles(canvas, look)
    beard.draw_beard(canvas, look)
    features.draw_nose(canvas, look, p[27:36])
    features.draw_mouth(canvas, look, p[48:])
    features.draw_eyes(canvas, look)
    features.draw_brows(canvas, look)
    marks.draw_marks(canvas, look)
    hair.draw_front(canvas, look)
    marks.draw_glasses(canvas, look)
    picture, weight, regions = canvas.shrink(size)
    coarse = max(size // 2, min(size, 64))  # shading is smooth: half the resolution is enough
    shade = cv2.resize(
        shading.shade(look, coarse, shading.shadows(look, coarse, head)), (size, size), interpolation=cv2.INTER_LINEAR
    )
    shade *= weight
    shade += 1
    return cv2.convertScaleAbs(cv2.multiply(picture, shade)), (p * size).astype(np.float32), regions
