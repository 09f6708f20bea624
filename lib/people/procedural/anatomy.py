"""The head in three dimensions: a 68-point skeleton, the head's outline, and the camera that looks at them.

Unit: the distance between the pupils of the mean face. Origin: half way between the pupils.
x to the picture's right, y down, z towards the viewer. Landmark order: iBUG 300-W (Sagonas et al. 2013).
"""

from functools import lru_cache

import numpy as np

UNIT = 0.235  # picture widths per face unit
EYE_LINE = 0.47  # height of the eyes in the picture, as in FFHQ crops
DISTANCE = 10.0  # camera distance, face units

JAW = np.array(
    [
        (1.12, 0.02),
        (1.11, 0.31),
        (1.07, 0.60),
        (1.00, 0.88),
        (0.89, 1.13),
        (0.71, 1.35),
        (0.49, 1.51),
        (0.25, 1.60),
        (0, 1.63),
    ]
)
SKULL = np.array([(1.12, -0.28), (1.10, -0.62), (1.00, -0.97), (0.82, -1.25), (0.55, -1.44), (0.28, -1.54), (0, -1.57)])
BROW = np.array(
    [(0.42, 0.02, -0.26), (0.29, -0.055, -0.06), (0.06, -0.075, 0.08), (-0.14, -0.05, 0.1), (-0.31, 0, 0.1)]
)
NOSE = np.array(
    [
        (0, -0.06, 0.14),
        (0, 0.18, 0.26),
        (0, 0.41, 0.40),
        (0, 0.62, 0.52),
        (-0.25, 0.74, 0.20),
        (-0.13, 0.79, 0.30),
        (0, 0.82, 0.35),
        (0.13, 0.79, 0.30),
        (0.25, 0.74, 0.20),
    ]
)
LIPS = np.array(
    [
        (-0.42, 0, 0.02),
        (-0.26, -0.085, 0.15),
        (-0.09, -0.14, 0.24),
        (0, -0.11, 0.26),
        (0.09, -0.14, 0.24),
        (0.26, -0.085, 0.15),
        (0.42, 0, 0.02),
        (0.26, 0.12, 0.14),
        (0.10, 0.175, 0.21),
        (0, 0.185, 0.22),
        (-0.10, 0.175, 0.21),
        (-0.26, 0.12, 0.14),
        (-0.35, 0, 0.05),
        (-0.14, -0.01, 0.19),
        (0, 0.005, 0.21),
        (0.14, -0.01, 0.19),
        (0.35, 0, 0.05),
        (0.14, 0.015, 0.19),
        (0, 0.02, 0.21),
        (-0.14, 0.015, 0.19),
    ]
)


@lru_cache(maxsize=None)
def spline_matrix(count, closed, per=5):
    """Catmull-Rom weights (samples, count): the curve `matrix @ points` passes through every point."""
    segments, rows = count if closed else count - 1, []
    for i in range(segments):
        for t in np.arange(per) / per:
            basis = 0.5 * np.array(
                [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
            )
            row = np.zeros(count)
            for k, weight in zip(range(i - 1, i + 3), basis):
                row[k % count if closed else min(max(k, 0), count - 1)] += weight
            rows.append(row)
    if not closed:
        rows.append(np.eye(count)[-1])
    return np.array(rows)


def smooth(points, closed=False, per=5):
    """A smooth curve through `points` (P, d): (samples, d)."""
    return spline_matrix(len(points), closed, per) @ points


def depth(x, y):
    """Depth z of the bare face (no nose) at x, y in face units; arrays or floats."""
    return 0.62 * np.sqrt(np.maximum(1 - (x / 1.2) ** 2, 0)) - 0.58 - 0.3 * np.maximum(-y - 0.5, 0) ** 2


def on_face(points):
    """Lift (P, 2) face points onto the face: (P, 3)."""
    points = np.asarray(points, float)
    return np.column_stack([points, depth(points[:, 0], points[:, 1])])


class Camera:
    """Weak perspective: turns the head by a shot's pose and puts the eyes where FFHQ crops have them."""

    def __init__(self, shot):
        a, b, c = np.radians([shot.yaw, shot.pitch, shot.roll])
        self.yaw = a
        turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        tilt = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        self.after_yaw = (tilt @ nod).T
        self.whole = (tilt @ nod @ turn).T
        self.unit = UNIT * shot.scale
        self.centre = np.array([0.5 + shot.shift_x, EYE_LINE + shot.shift_y])

    def _flatten(self, turned):
        near = self.unit * DISTANCE / (DISTANCE - turned[:, 2:])
        return turned[:, :2] * near + self.centre

    def project(self, points):
        """(P, 3) face units -> (P, 2) picture widths, x right and y down."""
        return self._flatten(np.asarray(points, float) @ self.whole)

    def face(self, points):
        """Project (P, 2) points that lie on the bare face."""
        return self._flatten(on_face(points) @ self.whole)

    def outline(self, half, grow=0.0):
        """Visible outline of the head at the half-widths and heights `half` (P, 2), left then right: two (P, 2).

        Each level is an ellipse seen from the side by the yaw, so the outline is where its surface turns away.
        """
        w, y, side = half[:, 0], half[:, 1], np.array([[-1], [1]])
        d = 0.70 * w
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        reach = np.sqrt((w * cosine) ** 2 + (d * sine) ** 2) + 1e-9
        centre = np.where(
            y < -0.28, -0.80, -0.02 - d
        )  # the skull stays over the ears, the jaw comes forward to the chin
        x = side * (reach + grow * np.minimum(w / 1.1, 1) ** 0.7) + centre * sine
        z = centre * cosine + side * (d * d - w * w) * (sine * cosine / reach)
        points = np.stack([x, np.broadcast_to(y, x.shape), z], -1)
        return self._flatten(points.reshape(-1, 3) @ self.after_yaw).reshape(2, -1, 2)


def wide(genes):
    """How many times wider than the mean face."""
    return 1 + 0.09 * genes.face_width


def jaw_half(genes, shot):
    """Half-widths and heights (9, 2) of the jaw from the ear to the chin for these genes and this mouth opening."""
    jaw = JAW.copy()
    jaw[:, 0] *= wide(genes)
    jaw[1:4, 0] *= 1 + 0.035 * genes.cheek * np.array([0.6, 1, 0.7])
    jaw[3:8, 0] *= 1 + 0.13 * genes.jaw * np.array([0.35, 0.8, 1, 0.8, 0.5])
    jaw[5:8, 0] *= 1 + 0.13 * genes.chin_width * np.array([0.4, 1, 1.3])
    low = np.clip(jaw[:, 1] - 0.6, 0, None)
    jaw[:, 1] += low * (0.12 * genes.chin_length + 0.08 * shot.mouth_open)
    return jaw


def skull_half(genes):
    """Half-widths and heights (7, 2) of the skull from the temple to the crown."""
    skull = SKULL.copy()
    skull[:, 0] *= wide(genes)
    skull[:, 1] *= 1 + 0.05 * genes.forehead
    return skull


def eye(genes, shot, side):
    """Six eyelid points (6, 3) in iBUG order for the picture's left (-1) or right (+1) eye, and its centre (3,)."""
    half = 0.295 * (1 + 0.13 * genes.eye_width)
    high = 0.162 * (1 + 0.25 * genes.eye_size)
    lift = high * shot.eye_open
    base = np.array(
        [
            (half, 0, -0.13),
            (0.36 * half, -lift * (0.93 + 0.10 * genes.eye_slant), 0.03),
            (-0.40 * half, -lift, 0.04),
            (-half, 0.025, -0.04),
            (-0.38 * half, 0.62 * high * (0.6 + 0.4 * shot.eye_open), 0.03),
            (0.38 * half, 0.62 * high * (0.6 + 0.4 * shot.eye_open), 0.02),
        ]
    )
    angle = 0.19 * genes.eye_tilt
    base[:, 1] -= np.sin(angle) * base[:, 0]
    base[:, 0] *= side
    centre = np.array([side * (0.50 + 0.045 * genes.eye_spacing), 0, 0])
    points = base + centre
    return (points if side < 0 else points[[3, 2, 1, 0, 5, 4]]), centre


def brow(genes, shot, side):
    """Five brow points (5, 3) in iBUG order for one side."""
    points = BROW.copy()
    points[:, 0] *= 1 + 0.10 * genes.brow_length
    points[1:4, 1] -= 0.05 * genes.brow_arch * np.array([1, 1.1, 0.4])
    points[:, 1] -= points[:, 0] * 0.16 * genes.brow_tilt
    points[3:, 1] += 0.055 * max(-shot.smile, 0)
    points[:, 0] += 0.53 + 0.045 * genes.eye_spacing
    points[0, 0] = min(points[0, 0], 0.92 * wide(genes))  # or the tail would leave a narrow, turned head
    points[:, 0] *= side
    points[:, 1] -= 0.40 + 0.07 * genes.brow_height + 0.05 * (shot.eye_open - 1)
    return points if side < 0 else points[::-1]


def lips(genes, shot):
    """Twenty mouth points (20, 3) in iBUG order: 12 outer, 8 inner."""
    points = LIPS.copy()
    smile, gap = shot.smile, shot.mouth_open
    points[:, 0] *= (1 + 0.17 * genes.mouth_width) * (1 + 0.13 * max(smile, 0) - 0.06 * gap)
    upper, lower = [1, 2, 3, 4, 5], [7, 8, 9, 10, 11]
    points[upper, 1] *= 1 + 0.42 * genes.upper_lip
    points[3, 1] += 0.035 * genes.cupid
    points[lower, 1] *= 1 + 0.34 * genes.lower_lip
    bend = (np.abs(points[:, 0]) / 0.42) ** 2
    points[:, 1] += -0.085 * smile * (bend - 0.45)
    points[:, 2] -= 0.05 * max(smile, 0) * bend
    open_by = np.zeros(20)
    open_by[lower] = (0.7, 1, 1, 1, 0.7)
    open_by[17:] = (0.95, 1, 0.95)
    points[:, 1] += 0.24 * gap * open_by
    points[[13, 14, 15], 1] -= 0.05 * gap
    points[:, 1] += 1.10 + 0.06 * genes.mouth_height
    return points


def nose(genes):
    """Nine nose points (9, 3): the bridge from the top, then the base from left to right."""
    points = NOSE.copy()
    points[4:, 0] *= 1 + 0.28 * genes.nose_width
    points[1:, 1] *= 1 + 0.09 * genes.nose_length
    points[3, 1] += 0.05 * genes.nose_tip
    points[:4, 2] *= 1 + 0.15 * genes.nose_bridge
    return points


def landmarks(genes, shot, camera):
    """The 68 landmarks (68, 2) in iBUG order, picture widths."""
    left, right = camera.outline(jaw_half(genes, shot))
    jaw = np.concatenate([left[:8], (left[8:] + right[8:]) / 2, right[7::-1]])
    inside = np.concatenate(
        [
            brow(genes, shot, -1),
            brow(genes, shot, 1),
            nose(genes),
            eye(genes, shot, -1)[0],
            eye(genes, shot, 1)[0],
            lips(genes, shot),
        ]
    )
    return np.concatenate([jaw, camera.project(inside)])
