"""Training of the face detector on scenes of procedural people, with losses of SCRFD's form (Guo et al. 2021)."""

import torch
import torch.nn.functional as F

from lib.models.detector import STRIDES, Detector
from lib.training.evaluation_pretraining import jitter
from lib.training.pretraining import fit

SIZES = ((14, 48), (32, 96), (64, 192), (128, 512))  # each level detects faces whose larger side is in this range, px
CANVAS = 192  # side of a training picture, px; some steps use 2 or 3 times the side and 1/4 or 1/9 of the pictures
MIDDLE = 0.3  # places within this fraction of the box's sides from its centre are responsible for the face


def scenes(x, landmarks, g, side=CANVAS):
    """Place faces anywhere in pictures, of any size, turned by up to 20 degrees, partly cut off, on random backgrounds.

    Args: x, (N, 3, H, W) in [-1, 1]; landmarks, (N, 68, 2) in [-1, 1]; g, the generator; side, of the result in pixels.
    Returns pictures (N, 3, side, side) and landmarks (N, 68, 2) in their pixels, with whole numbers at pixel centres.
    """
    n = len(x)

    def draw(*shape):
        return torch.rand(n, *shape, generator=g, device=g.device)

    extent = (landmarks.amax(1) - landmarks.amin(1)).amax(1)  # (N,)
    zoom = extent / (0.1 * 11 ** draw())  # the face's larger side becomes 0.1 to 1.1 of the picture's
    turn, shift = 0.7 * (draw() - 0.5), 1.9 * (draw(2) - 0.5) * zoom[:, None]
    centre = (landmarks.amin(1) + landmarks.amax(1)) / 2 + shift
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    theta = torch.cat([zoom[:, None, None] * turned, centre[..., None]], 2)  # (N, 2, 3)
    grid = F.affine_grid(theta, [n, 3, side, side], align_corners=False)
    points = (landmarks - centre[:, None]) @ turned / zoom[:, None, None]
    behind = F.interpolate(2 * draw(3, 5, 5) - 1, side, mode="bicubic").clamp(-1, 1) * draw(1, 1, 1)
    grain = 1.2 * draw(1, 1, 1).square() * torch.randn(x.shape[:2] + (side, side), generator=g, device=g.device)
    behind = torch.where(draw(1, 1, 1) < 0.3, -1.0, behind + grain)  # insightface pads with black
    pasted = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return torch.where((grid.abs() <= 1).all(-1)[:, None], pasted, behind), (points + 1) * side / 2 - 0.5


def five_points(landmarks):
    """Centres of the eyes, tip of the nose and corners of the mouth (..., 5, 2), from landmarks (..., 68, 2)."""
    eyes = [landmarks[..., a:b, :].mean(-2) for a, b in ((36, 42), (42, 48))]
    return torch.stack([*eyes, *(landmarks[..., k, :] for k in (30, 48, 54))], -2)


def places(level, side):
    """x and y in pixels (P, 2) of the places of a level in a square picture of `side` pixels."""
    along = STRIDES[level] * torch.arange(side // STRIDES[level])
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).reshape(-1, 2).float()


def detection_loss(found, landmarks, side=CANVAS):
    """Focal loss of the scores, and smooth L1 losses of boxes and points relative to the face's size.

    Boxes and points count only at places that are responsible for the face. Scores do not count where a face is cut off
    or slightly too large or small for the level.

    Args: found, as Detector returns it; landmarks, (N, 68, 2) in pixels; side, of the pictures in pixels.
    """
    return sum(_level_loss(level, outputs, landmarks, side) for level, outputs in enumerate(zip(*found)))


def _level_loss(level, outputs, landmarks, side):
    scores, boxes, points = outputs
    low, high = landmarks.amin(1), landmarks.amax(1)  # (N, 2)
    size = (high - low).amax(1)  # (N,)
    at = places(level, side).to(landmarks)  # (P, 2)
    counts, responsible = _assignment(level, at, landmarks, side)  # (N, P) each
    faces = responsible.sum().clamp(min=8)
    entropy = F.binary_cross_entropy_with_logits(scores, responsible.float(), reduction="none")
    focal = entropy * (responsible.float() - scores.sigmoid()).square()
    total = (focal * counts).sum() / faces
    box = torch.cat([at - low[:, None], high[:, None] - at], 2)  # (N, P, 4)
    five = (five_points(landmarks)[:, None] - at[:, None]).flatten(2)  # (N, P, 10)
    for guess, goal, weight in ((boxes, box, 10.0), (points, five, 20.0)):
        guess, goal = guess * STRIDES[level] / size[:, None, None], goal / size[:, None, None]
        error = F.smooth_l1_loss(guess, goal, beta=0.02, reduction="none")  # (N, P, K)
        total = total + weight * (error.mean(2) * responsible).sum() / faces
    return total


def _assignment(level, at, landmarks, side):
    """The places of a level whose scores count, and those that are responsible for the face: (N, P), bool."""
    low, high = landmarks.amin(1), landmarks.amax(1)
    size, (least, most) = (high - low).amax(1), SIZES[level]
    visible = ((landmarks >= 0) & (landmarks < side)).all(2).float().mean(1)  # (N,)
    near = ((at - (low + high)[:, None] / 2).abs() < MIDDLE * (high - low)[:, None]).all(2)  # (N, P)
    responsible = near & ((size >= least) & (size < most) & (visible > 0.85))[:, None]
    nearly_in_range = ((size >= least / 1.4) & (size < most * 1.4))[:, None]
    return ~near | ~nearly_in_range | responsible, responsible


def fit_detector(pool, *, net=None, batch=16, device="cpu", **options):
    """Train a detector on scenes of a pool's people, a third of them degraded.

    Args: net, a detector to train further, or None for a new one. Returns the detector and the losses.
    """
    net = (net or Detector()).to(device)

    def loss_of(g):
        i, x, degraded = pool.degraded_batch(batch, g)
        bad = torch.rand(len(x), generator=g, device=g.device) < 1 / 3
        times = 1 + int(torch.randint(3, (), generator=g, device=g.device))
        x = torch.where(bad[:, None, None, None], degraded, x)
        marks = pool.landmarks[i.to(pool.landmarks.device)].to(x)  # (N, 68, 2)
        pictures, points = scenes(x[:: times**2], marks[:: times**2], g, times * CANVAS)
        return detection_loss(net(jitter(pictures, g).clamp(-1, 1)), points, times * CANVAS)

    return net, fit("detector", [net], loss_of, device=device, **options)
