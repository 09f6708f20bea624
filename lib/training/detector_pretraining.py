"""Training of the face detector on scenes of procedural people (losses of SCRFD's form)."""

import torch
import torch.nn.functional as F

from lib.models.detector import STRIDES, Detector
from lib.training.evaluation_pretraining import jitter
from lib.training.pretraining import fit

SIZES = ((14, 48), (32, 96), (64, 192), (128, 512))  # pixels of a face's larger side that each level answers for
CANVAS = 192  # pixels: a training picture; other steps see a quarter as many of twice, a ninth of three times the side
MIDDLE = 0.3  # a place answers for a face when it is nearer to its middle than this fraction of its sides


def scenes(x, landmarks, g, side=CANVAS):
    """Pictures in which a face is anywhere, of any size, turned by up to 20 degrees, before something else or cut off.

    x: (N, 3, H, W) in [-1, 1]; landmarks: (N, 68, 2) in [-1, 1]. Returns pictures (N, 3, side, side) and landmarks in their
    pixels, whole numbers at pixel centres, as insightface counts them.
    """
    n = len(x)
    draw = lambda *shape: torch.rand(n, *shape, generator=g, device=g.device)  # noqa: E731
    extent = (landmarks.amax(1) - landmarks.amin(1)).amax(1)
    zoom = extent / (0.1 * 11 ** draw())  # the face's larger side is a tenth to eleven tenths of the picture's
    turn, shift = 0.7 * (draw() - 0.5), 1.9 * (draw(2) - 0.5) * zoom[:, None]
    centre = (landmarks.amin(1) + landmarks.amax(1)) / 2 + shift
    turned = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    grid = F.affine_grid(
        torch.cat([zoom[:, None, None] * turned, centre[..., None]], 2), [n, 3, side, side], align_corners=False
    )
    points = (landmarks - centre[:, None]) @ turned / zoom[:, None, None]
    behind = F.interpolate(2 * draw(3, 5, 5) - 1, side, mode="bicubic").clamp(-1, 1) * draw(1, 1, 1)
    grain = 1.2 * draw(1, 1, 1).square() * torch.randn(x.shape[:2] + (side, side), generator=g, device=g.device)
    behind = torch.where(draw(1, 1, 1) < 0.3, -1.0, behind + grain)  # insightface pads with black
    pasted = F.grid_sample(x, grid, align_corners=False, padding_mode="border")
    return torch.where((grid.abs() <= 1).all(-1)[:, None], pasted, behind), (points + 1) * side / 2 - 0.5


def five_points(landmarks):
    """The middles of the eyes, the tip of the nose and the corners of the mouth (..., 5, 2) of 68 landmarks (..., 68, 2)."""
    eyes = [landmarks[..., a:b, :].mean(-2) for a, b in ((36, 42), (42, 48))]
    return torch.stack([*eyes, *(landmarks[..., k, :] for k in (30, 48, 54))], -2)


def places(level, side):
    """x and y in pixels (P, 2) of the places of a level in a square picture."""
    along = STRIDES[level] * torch.arange(side // STRIDES[level])
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).reshape(-1, 2).float()


def loss(found, landmarks, side=CANVAS):
    """Focal loss of the scores, and smooth errors of boxes and points in units of the face, over places that answer for it.

    found: what Detector returns; landmarks: (N, 68, 2) in pixels; side: of the pictures.
    """
    low, high = landmarks.amin(1), landmarks.amax(1)
    size = (high - low).amax(1)
    seen = (landmarks >= 0).logical_and(landmarks < side).all(2).float().mean(1)
    total = 0.0
    for level, (scores, boxes, points) in enumerate(zip(*found)):
        at = places(level, side).to(landmarks)
        near = ((at - (low + high)[:, None] / 2).abs() < MIDDLE * (high - low)[:, None]).all(2)  # (N, P)
        least, most = SIZES[level]
        yes = near & ((size >= least) & (size < most) & (seen > 0.85))[:, None]
        nearly = ((size >= least / 1.4) & (size < most * 1.4))[:, None]
        counts = (
            ~near | ~nearly | yes
        )  # on a face cut off, or a little too large or small for the level, nothing is asked
        focal = (
            F.binary_cross_entropy_with_logits(scores, yes.float(), reduction="none")
            * (yes.float() - scores.sigmoid()).abs().square()
        )
        total = total + (focal * counts).sum() / yes.sum().clamp(min=8)
        box = torch.cat([at - low[:, None], high[:, None] - at], 2)  # (N, P, 4)
        five = (five_points(landmarks)[:, None] - at[:, None]).flatten(2)  # (N, P, 10)
        for guess, goal, weight in ((boxes, box, 1.0), (points, five, 2.0)):
            error = F.smooth_l1_loss(
                guess * STRIDES[level] / size[:, None, None], goal / size[:, None, None], beta=0.02, reduction="none"
            )
            total = total + weight * 10 * (error.mean(2) * yes).sum() / yes.sum().clamp(min=8)
    return total


def fit_detector(pool, *, net=None, batch=16, device="cpu", **options):
    """Trains a detector, or goes on with `net`, on scenes of a pool's people, one in three degraded. Returns it and the losses."""
    net = (net or Detector()).to(device)

    def loss_of(g):
        i, x, degraded = pool.batch(batch, g, degraded=True)
        bad = torch.rand(len(x), generator=g, device=g.device) < 1 / 3
        times = 1 + int(torch.randint(3, (), generator=g, device=g.device))
        x, marks = torch.where(bad[:, None, None, None], degraded, x), pool.landmarks[i.to(pool.landmarks.device)].to(x)
        pictures, points = scenes(x[:: times**2], marks[:: times**2], g, times * CANVAS)
        return loss(net(jitter(pictures, g).clamp(-1, 1)), points, times * CANVAS)

    return net, fit("detector", [net], loss_of, device=device, **options)
