"""Hair: a shape behind the head, a cap in front of it, and strands that follow both."""

import numpy as np

from lib.people.procedural.anatomy import skull_half, smooth, wide
from lib.people.procedural.canvas import blend, circle, circles, ribbons

COLOURS = {
    "black": (34, 28, 32),
    "brown": (102, 62, 36),
    "blond": (228, 186, 108),
    "red": (190, 80, 30),
    "grey": (150, 150, 156),
    "white": (236, 230, 222),
    "auburn": (126, 40, 34),
}
# hair: how far it stands off the skull, hairline height at the middle, how far down the side, bumps
CAPS = {
    "cropped": (0.03, -1.0, 0.0, 0),
    "short": (0.13, -0.98, 0.15, 0),
    "spiky": (0.16, -1.0, 0.0, 0.16),
    "parted": (0.16, -0.98, 0.2, 0),
    "curly": (0.24, -0.90, 0.25, 0.09),
    "frizzy": (0.52, -0.92, 0.4, 0.10),
    "medium": (0.15, -1.0, 0.3, 0),
    "long": (0.13, -1.04, 0.3, 0),
    "wavy": (0.18, -0.98, 0.3, 0.05),
    "tied": (0.06, -1.04, 0.0, 0),
    "fringed": (0.15, -0.50, 0.3, 0),
}
LENGTHS = {"medium": (1.25, 0.16), "fringed": (1.35, 0.14), "long": (2.9, 0.2), "wavy": (2.9, 0.34)}


def colour(genes):
    """Hair colour (3,) 0..255."""
    return np.array(COLOURS[genes.hair_colour], float) * (1 + 0.16 * genes.hair_shade)


def _bumpy(line, size, centre, spikes=False):
    """`line` with rounded bumps, or spikes, of `size` outwards from `centre`."""
    t = np.arange(len(line))
    wave = np.abs(np.sin(t * 0.8 + 0.3 * np.sin(t)))
    out = line - centre
    out = out / (np.sqrt((out**2).sum(1, keepdims=True)) + 1e-9)
    return line + out * (size * (1.3 - 1.5 * wave**0.7 if spikes else wave))[:, None]


def _outer(look, grow, down):
    """The hair's outer edge from the picture's left ear over the crown to the right one: (P, 2)."""
    half = skull_half(look.genes)
    half[:, 1] -= grow * 1.1 * np.clip((-half[:, 1] - 0.3) / 1.2, 0, 1)
    half = np.concatenate([[(1.10 * wide(look.genes), down)], half])
    left, right = look.camera.outline(half, grow)
    return np.concatenate([left[:-1], [(left[-1] + right[-1]) / 2], right[-2::-1]])


def _hairline(look, middle, down):
    """The hairline from the left ear over the brow to the right one: (P, 2)."""
    stretch, drop = wide(look.genes), 0.06 * look.genes.hairline
    middle = middle * (1 + 0.05 * look.genes.forehead) + drop
    style, s = look.genes.hair, 1 if look.genes.hair_side > 0 else -1
    if style == "fringed":
        inner = [
            (-0.92, -0.30),
            (-0.60, middle - 0.02),
            (-0.3, middle),
            (0, middle - 0.02),
            (0.3, middle),
            (0.60, middle - 0.02),
            (0.92, -0.30),
        ]
    elif style == "parted":
        inner = [
            (-0.95, -0.42),
            (-0.80, -0.58),
            (-0.45, -0.68),
            (-0.05, -0.82),
            (0.42, -1.22),
            (0.66, -0.95),
            (0.92, -0.50),
        ]
    elif style in ("long", "medium", "wavy"):
        inner = [(-0.93, -0.2), (-0.78, -0.62), (-0.42, -1.0), (0, -1.17), (0.42, -1.0), (0.78, -0.62), (0.93, -0.2)]
    else:
        inner = [
            (-0.96, -0.34),
            (-0.90, -0.70),
            (-0.50, middle + 0.03),
            (0, middle),
            (0.50, middle + 0.03),
            (0.90, -0.70),
            (0.96, -0.34),
        ]
    inner = np.array(inner) * (stretch, 1)
    if s < 0:
        inner = inner[::-1] * (-1, 1)
    left, right = look.camera.outline(np.array([(1.07 * stretch, down), (1.03 * stretch, down)]))
    return np.concatenate([left[:1], look.camera.face(inner), right[:1]])


def front(look):
    """The cap's polygon (P, 2), or None for a bald head. Its two edges are stored in `look` for the strands."""
    genes = look.genes
    if genes.hair == "bald":
        return None
    grow, middle, down, bumps = CAPS[genes.hair]
    grow *= 1 + 0.3 * genes.hair_volume
    look.outer, look.line = smooth(_outer(look, grow, down), per=4), smooth(_hairline(look, middle, down), per=4)
    if bumps:
        centre = look.camera.project([[0, -0.3, -0.6]])[0]
        rim = _bumpy(look.outer, bumps * look.camera.unit, centre, genes.hair == "spiky")
        lower = _bumpy(look.line, -bumps * look.camera.unit * (genes.hair in ("curly", "frizzy")), centre)
    else:
        rim, lower = look.outer, look.line
    return np.concatenate([rim, lower[::-1]])


def _strands(look, count, seed, a=0.02, b=0.97):
    """Lines from the hairline to the outer edge: (count, 6, 2)."""
    rng = np.random.default_rng([look.genes.marks, seed])
    t, k = np.sort(rng.uniform(0.03, 0.97, count)), np.arange(6) / 5
    low = look.line[(t * (len(look.line) - 1)).astype(int)]
    high = look.outer[(np.clip(0.5 + (t - 0.5) * 1.02, 0, 1) * (len(look.outer) - 1)).astype(int)]
    start, stop = rng.uniform(a, a + 0.15, count), rng.uniform(b - 0.15, b, count)
    along = start[:, None] + (stop - start)[:, None] * k
    return low[:, None] * (1 - along[..., None]) + high[:, None] * along[..., None]


def _draw_locks(canvas, look):
    """Locks that fall in front of the ears and over the shoulders."""
    if look.genes.hair not in LENGTHS:
        return
    unit, k = look.camera.unit, np.arange(9)[:, None] / 8
    for s, side in ((-1, look.sides[0]), (1, look.sides[1])):
        inner = side - np.column_stack(
            [s * unit * (0.26 + 0.14 * np.sin(3 * k[:, 0])) * np.minimum(4 * k[:, 0], 1), np.zeros(9)]
        ) * (1 - 0.75 * k**2)
        canvas.fill(
            np.concatenate([smooth(side, per=3), smooth(inner, per=3)[::-1]]), look.hair, weight=110, region="hair"
        )
        lines = np.stack([blend(side, inner, t) for t in (0.2, 0.4, 0.6, 0.8)])
        canvas.fill(ribbons(lines[::2], 0.03 * unit), look.hair * 0.82, weight=110)
        canvas.fill(ribbons(lines[1::2], 0.026 * unit), np.clip(look.hair * 1.08 + 12, 0, 255), weight=110)


def draw_front(canvas, look):
    """The cap with its strands and sheen."""
    if look.front is None:
        return
    unit, tone = look.camera.unit, look.hair
    _draw_locks(canvas, look)
    if look.genes.hair == "cropped":
        tone = blend(tone, look.skin, 0.25)
    canvas.fill(look.front, tone, weight=110, region="hair")
    if look.genes.hair in ("curly", "frizzy"):
        rng = np.random.default_rng([look.genes.marks, 5])
        spots = _strands(look, 44, 4)[np.arange(44), rng.integers(0, 6, 44)]
        for shade in (0.80, 1.12):
            rings = ribbons(
                circles(spots[int(shade > 1) :: 2], rng.uniform(0.07, 0.12, 22) * unit, 10)[:, :8], 0.035 * unit, 0.2
            )
            canvas.fill(rings, np.clip(tone * shade + 8 * (shade > 1), 0, 255), weight=110)
        return
    canvas.fill(ribbons(_strands(look, 22, 1), 0.032 * unit), tone * 0.82, weight=110)
    canvas.fill(ribbons(_strands(look, 16, 2, 0.2, 0.85), 0.028 * unit), np.clip(tone * 1.08 + 12, 0, 255), weight=110)


def draw_back(canvas, look):
    """The hair behind the head."""
    genes, unit, tone = look.genes, look.camera.unit, look.hair
    if genes.hair == "bald":
        return
    dark = tone * 0.72
    if genes.hair == "tied":
        knot = look.camera.project([[0.1 * genes.hair_side, -1.72, -0.9]])[0]
        canvas.fill(circle(knot, (0.48 * unit, 0.40 * unit), 24), tone * 0.9, weight=110, region="hair")
        lines = np.stack(
            [
                knot
                + np.array(
                    [
                        (-0.36 + 0.1 * i, -0.1 - 0.2 * np.cos(i)),
                        (-0.1 + 0.05 * i, -0.28 + 0.04 * i),
                        (0.3, 0.02 + 0.06 * i),
                    ]
                )
                * unit
                for i in range(5)
            ]
        )
        canvas.fill(ribbons(lines, 0.04 * unit), dark, weight=110)
    if genes.hair not in LENGTHS:
        return
    length, out = LENGTHS[genes.hair]
    ends = look.outer[[2, -3]]
    bottom = look.camera.centre[1] + length * unit * (1 + 0.08 * genes.hair_volume)
    wave = 0.09 * unit * (genes.hair == "wavy")
    y = np.arange(9) / 8
    sides = []
    for s, end in ((-1, ends[0]), (1, ends[1])):
        x = end[0] + s * out * unit * np.sin(y * 2.2) + wave * np.sin(y * 14)
        sides.append(np.column_stack([x, end[1] + (bottom - end[1]) * y]))
    curl = sides[0][-1:] + (0.2 * unit, 0.08 * unit), sides[1][-1:] + (-0.2 * unit, 0.08 * unit)
    canvas.fill(
        np.concatenate([look.outer[:1], smooth(sides[0]), curl[0], curl[1], smooth(sides[1])[::-1], look.outer[::-1]]),
        dark,
        weight=110,
        region="hair",
    )
    lines = np.concatenate(
        [[side + (-s * 0.1 * i * unit, 0) for i in range(1, 5)] for s, side in ((-1, sides[0]), (1, sides[1]))]
    )
    canvas.fill(ribbons(lines, 0.05 * unit), tone * 0.84, weight=110)
    look.sides = sides
