"""Distances between landmark sets: in pixels, and after an alignment by translation, similarity or affine map.

All are computed in float64, batched over leading dimensions, and differentiable. Only the restored points are aligned.
"""

import torch

from lib.errors import (
    DegenerateLandmarksError,
    LandmarkShapeError,
    LandmarkValueError,
    LandmarkWeightError,
    TooFewLandmarksError,
)

COUNT = 68  # of the iBUG 300-W set (Sagonas et al. 2013)
GROUPS = {  # the two regions that HonestFace reports (section 4.1), as indices into the 68 points
    "eyes": (*range(17, 27), *range(36, 48)),  # brows, then eyelids: 22 points
    "mouth border": (*range(48, 60),),  # the outer lip: 12 points
}
# A set is refused when its smaller spread is below this fraction of its larger one. Points on a line have about 1e-7
# after float32 rounding. At the limit the distance keeps nine digits; the transform loses as many as the ratio has.
THINNEST = 1e-5
ROUNDING = 1e-12  # a spread below this fraction of the distance to the origin is rounding: the points coincide


def affine_landmark_distance(restored, ground_truth, weights=None, return_transform=False):
    """Eq. 14, min over A of sum_k w_k ||A l'_k - h_k||^2, at the A of eq. 15: a sum of squares without mean or root.

    A is solved from a 2 x 2 system in the moments about the weighted means, without an inverse. The distance is the sum
    of the squared residuals, because near its minimum an error of A counts squared.
    Args: restored (..., N, 2), the points l that A moves, and ground_truth (..., N, 2), h, both x, y in pixels, N >= 3;
    weights (..., N) or (N,), above 0, 1 by default; return_transform, whether A is returned, too.
    Returns float64 (...), in squared pixels of the ground truth times weight; with return_transform also A, float64
    (..., 2, 3).
    Raises LandmarkShapeError, TooFewLandmarksError, LandmarkValueError, LandmarkWeightError; DegenerateLandmarksError
    where the smaller spread of the weighted restored points is below THINNEST of the larger.
    Source: HonestFace, section 3.4, eqs 14 and 15.
    """
    x, mean, w = _centred(*_checked(restored, ground_truth, weights, least=3))  # (..., 4, N), (..., 4, 1)
    p = x[..., :2, :]  # (..., 2, N)
    m, c = (x @ p.mT).split(2, -2)  # (..., 2, 2) each: L'WL'^T and HWL'^T about the means
    _refuse_thin(m, mean, w)
    a = torch.linalg.solve(m, c, left=False)  # (..., 2, 2)
    left = _residual(a, x)  # (..., 2, N)
    distance = torch.einsum("...dn,...dn->...", left, left)  # (...)
    if not return_transform:
        return distance
    a = a + torch.linalg.solve(
        m, left @ p.mT, left=False
    )  # one step of refinement: the moments have squared the condition
    return distance, torch.cat([a, mean[..., 2:, :] - a @ mean[..., :2, :]], -1)  # (...), (..., 2, 3)


def similarity_landmark_distance(restored, ground_truth, weights=None):
    """Eq. 14 with A restricted to rotation, scale and shift (four parameters), by least squares over complex numbers.

    Args and unit as of `affine_landmark_distance`, N >= 2. Returns float64 (...). Raises the same errors,
    DegenerateLandmarksError for coincident points only. Source: Umeyama 1991 without reflections.
    """
    x, mean, w = _centred(*_checked(restored, ground_truth, weights, least=2))  # (..., 4, N), (..., 4, 1)
    size = x[..., :2, :].square().sum((-2, -1))  # (...)
    _refuse(_coincide(size, mean, w), DegenerateLandmarksError, "Coincident restored points", "give points that differ")
    p, g = (torch.complex(*half.unbind(-2)) for half in x.split(2, -2))  # (..., N)
    turn = (p.conj() * g).sum(-1) / size  # (...), scale times e^(i angle)
    left = torch.view_as_real(g - turn[..., None] * p)  # (..., N, 2)
    return left.square().sum((-2, -1))  # (...)


def translation_landmark_distance(restored, ground_truth, weights=None):
    """Eq. 14 with A restricted to a shift (two parameters): both sets centred at their weighted means.

    Args and unit as of `affine_landmark_distance`, N >= 1. Returns float64 (...). Raises LandmarkShapeError,
    TooFewLandmarksError, LandmarkValueError, LandmarkWeightError. Source: HonestFace, section 3.4.
    """
    x, _, _ = _centred(*_checked(restored, ground_truth, weights, least=1))  # (..., 4, N)
    return (x[..., :2, :] - x[..., 2:, :]).square().sum((-2, -1))  # (...)


def landmark_distance(restored, ground_truth, weights=None):
    """L2-LD: (sum_k w_k ||l_k - h_k||) / sum_k w_k, the weighted mean distance in pixels, without alignment.

    Args as of `affine_landmark_distance`, N >= 1. Returns float64 (...), in pixels (not squared). Raises as
    `translation_landmark_distance`. Source: HonestFace, section 3.4, which names it without a formula; the mean over
    points is our choice.
    """
    points, goal, w = _checked(restored, ground_truth, weights, least=1)
    apart = torch.linalg.vector_norm(points - goal, dim=-1)  # (..., N)
    return apart.mean(-1) if w is None else (w * apart).sum(-1) / w.sum(-1)  # (...)


def ald_eyes(restored, ground_truth, weights=None):
    """ALD-e of Table 1: eq. 14 over the 22 points of eyes and brows, aligned by them alone.

    Args: sets of 68 points (..., 68, 2) in pixels; weights (..., 68) or (68,). Returns float64 (...). Raises as
    `affine_landmark_distance`. Source: HonestFace, section 4.1, whose "eyes" include the brows.
    """
    return _of_group("eyes", restored, ground_truth, weights)


def ald_mouth(restored, ground_truth, weights=None):
    """ALD-m of Table 1: eq. 14 over the 12 points of the outer lip, aligned by them alone; otherwise as `ald_eyes`."""
    return _of_group("mouth border", restored, ground_truth, weights)


def nearest_reference(degraded, references, weights=None):
    """Eq. 6, r_0 = argmin_i d(r_i, x_L): the reference whose landmarks an affine map brings nearest to the input's.

    The references are moved, as in the equation, so all distances are in pixels of the input.
    Args: degraded (..., N, 2), landmarks of the input in pixels; references (R, N, 2); weights (N,).
    Returns (index int64 (...), distances float64 (..., R)). Raises as `affine_landmark_distance`, and
    LandmarkShapeError without a reference. Source: HonestFace, section 3.2.
    """
    goal, sets = torch.as_tensor(degraded), torch.as_tensor(references)
    if sets.dim() != 3 or len(sets) == 0 or goal.dim() < 2 or sets.shape[1:] != goal.shape[-2:]:
        raise LandmarkShapeError(
            f"References of shape {tuple(sets.shape)} for an input of shape {tuple(goal.shape)}: every "
            f"face. Remedy: give (R, N, 2) with R >= 1, and (..., N, 2) with the same points."
        )
    goal = goal[..., None, :, :].expand(*goal.shape[:-2], *sets.shape)  # (..., R, N, 2)
    distances = affine_landmark_distance(sets.expand_as(goal), goal, weights)  # (..., R)
    return distances.argmin(-1), distances


def _of_group(name, restored, ground_truth, weights):
    """Eq. 14 over one of GROUPS."""
    chosen, sets = list(GROUPS[name]), [torch.as_tensor(x) for x in (restored, ground_truth)]
    if any(x.shape[-2:] != (COUNT, 2) for x in sets):
        raise LandmarkShapeError(
            f"Sets of shape {tuple(sets[0].shape)} and {tuple(sets[1].shape)}: every face. "
            f"Remedy: {name} is defined on the 68 points of iBUG only; give (..., 68, 2)."
        )
    if weights is not None:
        weights = torch.as_tensor(weights)
        _refuse_shape(weights, sets[0])
        weights = weights[..., chosen]
    return affine_landmark_distance(sets[0][..., chosen, :], sets[1][..., chosen, :], weights)


def _checked(restored, ground_truth, weights, least):
    """Both sets (..., N, 2) and the weights, if any, as float64 tensors. Raises the error of the first bad face."""
    points, goal = (torch.as_tensor(x, dtype=torch.float64) for x in (restored, ground_truth))
    if points.shape != goal.shape or points.dim() < 2 or points.shape[-1] != 2:
        raise LandmarkShapeError(
            f"Sets of shape {tuple(points.shape)} and {tuple(goal.shape)}: every face. "
            f"Remedy: give two sets (..., N, 2) of the same shape."
        )
    if points.shape[-2] < least:
        raise TooFewLandmarksError(
            f"{points.shape[-2]} points: every face. Remedy: this alignment needs at least {least}."
        )
    for name, sums in (
        ("restored", points.sum((-2, -1))),
        ("ground truth", goal.sum((-2, -1))),
    ):  # a sum is finite only if all its terms are, and ten times faster to test
        _refuse(
            ~sums.isfinite(),
            LandmarkValueError,
            f"NaN or infinity in the {name} points",
            "leave out faces in which no landmarks were found, and count them",
        )
    if weights is None:
        return points, goal, None
    w = torch.as_tensor(weights, dtype=torch.float64)
    _refuse_shape(w, points)
    _refuse(
        ~((w > 0) & w.isfinite()).all(-1),
        LandmarkWeightError,
        "A weight that is not positive and finite",
        "leave a point out by giving sets without it",
    )
    return points, goal, w


def _centred(points, goal, w):
    """Rows x, y of the points and x, y of the goal, about their means and times sqrt(w).

    Returns (..., 4, N), the means (..., 4, 1), and w.
    """
    x = points.new_empty(
        *points.shape[:-2], 4, points.shape[-2]
    )  # (..., 4, N): sums along rows are faster than along pairs
    x[..., :2, :], x[..., 2:, :] = points.mT, goal.mT
    if w is None:
        mean = x.mean(-1, keepdim=True)  # (..., 4, 1)
        return x.sub_(mean), mean, points.new_ones(points.shape[-2])
    mean = x @ (w / w.sum(-1, keepdim=True))[..., None]  # (..., 4, 1)
    return (x - mean) * w.sqrt()[..., None, :], mean, w


def _residual(a, x):
    """g - a p of the rows x = (p, g): (..., 2, N); one product is a single pass over the points."""
    return torch.cat([-a, torch.eye(2, dtype=a.dtype, device=a.device).expand_as(a)], -1) @ x


def _refuse_shape(w, points):
    if w.shape not in (points.shape[:-1], points.shape[-2:-1]):
        raise LandmarkShapeError(
            f"Weights of shape {tuple(w.shape)} for points of shape {tuple(points.shape)}: every face. "
            f"Remedy: give (..., N), or (N,) for all faces alike."
        )


def _refuse_thin(m, mean, w):
    """Raises for faces whose moments m (..., 2, 2) have one eigenvalue that is a tiny fraction of the other."""
    m = m.detach()
    size = m[..., 0, 0] + m[..., 1, 1]  # (...)
    area = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] ** 2  # (...), about smaller times larger eigenvalue
    _refuse(
        ~(area > (THINNEST * size) ** 2) | _coincide(size, mean, w),
        DegenerateLandmarksError,
        f"Collinear or coincident restored points (thinner than {THINNEST:g} of their length)",
        "give points that span the face in both directions",
    )


def _coincide(size, mean, w):
    """Whether the weighted square spread (...) of points about their mean (upper half of (..., 4, 1)) is rounding."""
    return size <= ROUNDING**2 * mean[..., :2, 0].square().sum(-1) * w.sum(-1)


def _refuse(bad, error, what, remedy):
    """Raises the error with the first bad face of (...)."""
    if bad.any():
        index = bad.nonzero()[0].tolist()
        face = "the only face" if not index else f"face {index[0] if len(index) == 1 else tuple(index)}"
        raise error(f"{what}: {face}. Remedy: {remedy}.")
