"""Light on a face: soft spots over the features, form over a round head, and cast shadows."""

import cv2
import numpy as np

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


def shade(look, size, soft):
    """The light's factor minus one (size, size, 3): a round head, soft spots and cast shadows `soft` (size, size)."""
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


def shadows(look, size, head):
    """Cast shadows under the chin and the hair: float32 (size, size) in 0..1."""
    unit, mask = look.camera.unit, np.zeros((size, size), np.uint8)

    def fill(points, value):
        cv2.fillPoly(mask, [np.round((points * size - 0.5) * 16).astype(np.int32)], value, cv2.LINE_AA, 4)

    fill(head + (-0.12 * look.shot.light_x * unit, 0.24 * unit), 255)
    fill(head, 0)
    if look.front is not None:
        fill(look.front + (-0.05 * look.shot.light_x * unit, 0.10 * unit), 190)
    sigma = 0.065 * unit * size
    return cv2.GaussianBlur(mask, (0, 0), sigma).astype(np.float32) / 255
