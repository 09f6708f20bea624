"""Shots: what differs between the pictures of one procedural person, such as pose, expression, light and clothes."""

import colorsys
from dataclasses import dataclass

import numpy as np

SHOT_STREAM = 23  # separates these random numbers from those of genes


@dataclass(frozen=True)
class Shot:
    """What differs between pictures of one person: degrees for the pose, fractions of the picture for shifts."""

    index: int
    yaw: float  # degrees, positive turns the face to the picture's right
    pitch: float  # degrees, positive looks up
    roll: float  # degrees
    scale: float
    shift_x: float
    shift_y: float
    smile: float  # -1 frown .. 1 smile
    mouth_open: float  # 0..1
    eye_open: float  # about 0.6..1.15
    gaze_x: float  # -1..1
    gaze_y: float
    light_x: float  # direction the light comes from, -1..1
    light_y: float
    light: float  # strength, 0..1
    warmth: float  # -1 cool .. 1 warm
    background: str
    background_colours: tuple
    clothing: str
    clothing_colour: tuple
    grain: int  # seed of the background's pattern


def draw_shot(seed, k):
    """The k-th Shot of the person with this seed, independent of the genes."""
    rng = np.random.default_rng([SHOT_STREAM, seed, k])

    def normal(width, limit):
        return float(np.clip(rng.normal(0, width), -limit, limit))

    mood = int(rng.integers(4))
    smile = (rng.uniform(0.55, 1), rng.uniform(0.55, 1), rng.uniform(-0.2, 0.2), rng.uniform(-1, -0.55))[mood]
    gap = rng.uniform(0.3, 1) if rng.random() < 0.4 else 0.0
    colours = tuple(
        tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.10, high), rng.uniform(0.35, 0.88)))
        for high in (0.45, 0.45, 0.65)
    )
    return Shot(
        index=k,
        yaw=normal(12, 25),
        pitch=normal(4.5, 11),
        roll=normal(3.5, 8),
        scale=1 + normal(0.025, 0.06),
        shift_x=normal(0.01, 0.03),
        shift_y=normal(0.01, 0.03),
        smile=float(smile),
        mouth_open=float(gap),
        eye_open=float(rng.uniform(0.72, 1.12)),
        gaze_x=normal(0.35, 0.9),
        gaze_y=normal(0.2, 0.5),
        light_x=float(rng.uniform(-1, 1)),
        light_y=float(rng.uniform(-0.9, 0.1)),
        light=float(rng.uniform(0.35, 1)),
        warmth=normal(0.5, 1),
        background=("plain", "glow", "blotches", "wall")[int(rng.integers(4))],
        background_colours=colours[:2],
        clothing=("round", "vee", "collar", "roll")[int(rng.integers(4))],
        clothing_colour=colours[2],
        grain=int(rng.integers(2**31)),
    )
