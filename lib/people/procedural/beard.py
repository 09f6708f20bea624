"""Beards: stubble, moustache, goatee and full beard."""

import numpy as np

from lib.people.procedural.anatomy import smooth
from lib.people.procedural.canvas import blend, ribbons


def draw_beard(canvas, look):
    """Stubble, moustache, goatee or full beard, drawn before the mouth."""
    kind, p, unit = look.genes.beard, look.points, look.camera.unit
    if kind == "none":
        return
    tone = blend(look.skin * 0.82, look.hair * 0.6, 0.30) if kind == "stubble" else look.hair * 0.92
    lip = p[48:60]
    whiskers = np.array(
        [
            lip[0] + (-0.10 * unit, 0.06 * unit),
            lip[1] + (-0.05 * unit, -0.10 * unit),
            p[51] + (-0.05 * unit, -0.12 * unit),
            p[51] + (0.05 * unit, -0.12 * unit),
            lip[5] + (0.05 * unit, -0.10 * unit),
            lip[6] + (0.10 * unit, 0.06 * unit),
        ]
    )
    if kind == "moustache":
        shape = np.concatenate([smooth(whiskers), smooth(lip[:7] + (0, 0.05 * unit))[::-1]])
    elif kind == "goatee":
        chin = np.concatenate(
            [
                whiskers,
                [lip[6] + (0.06 * unit, 0.3 * unit)],
                p[[9]] + (-0.04 * unit, 0.03 * unit),
                p[[8]] + (0, 0.08 * unit),
                p[[7]] + (0.04 * unit, 0.03 * unit),
                [lip[0] + (-0.06 * unit, 0.3 * unit)],
            ]
        )
        shape = smooth(chin, True)
    else:
        grow = 0.0 if kind == "stubble" else 0.10
        jaw = p[1:16] + (p[1:16] - p[33]) * grow * np.sin(np.linspace(0, np.pi, 15))[:, None]
        cheek = [
            blend(p[15], p[53], 0.16) + (0, 0.12 * unit),
            blend(p[14], p[53], 0.45),
            blend(p[14], p[53], 0.75) + (0, -0.06 * unit),
        ]
        other = [
            blend(p[2], p[49], 0.75) + (0, -0.06 * unit),
            blend(p[2], p[49], 0.45),
            blend(p[1], p[49], 0.16) + (0, 0.12 * unit),
        ]
        shape = np.concatenate(
            [smooth(jaw), smooth(np.concatenate([p[15:16], cheek, whiskers[4:0:-1], other, p[1:2]]))]
        )
    canvas.fill(shape, tone, weight=200, region="skin" if kind == "stubble" else "hair")
    if kind in ("goatee", "beard"):
        rng = np.random.default_rng([look.genes.marks, 9])
        low = p[4:13] if kind == "beard" else p[[7, 8, 9]]
        top = blend(low, p[57], 0.55)
        lines = np.stack([top, blend(top, low, 0.5) + rng.normal(0, 0.02 * unit, low.shape), low], 1)
        canvas.fill(ribbons(lines, 0.05 * unit), tone * 0.85, weight=200)
        canvas.fill(
            ribbons(lines[:-1] * 0.5 + lines[1:] * 0.5, 0.035 * unit), np.clip(tone * 1.08 + 8, 0, 255), weight=200
        )
