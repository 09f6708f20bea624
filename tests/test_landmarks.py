"""Landmark distances: closed forms, invariances, what is not invariant, and every named error."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import (
    DegenerateLandmarksError,
    LandmarkError,
    LandmarkShapeError,
    LandmarkValueError,
    LandmarkWeightError,
    TooFewLandmarksError,
)
from lib.metrics.landmark_distances import (
    GROUPS,
    affine_landmark_distance,
    ald_eyes,
    ald_mouth,
    landmark_distance,
    nearest_reference,
    similarity_landmark_distance,
    translation_landmark_distance,
)
from lib.people.procedural import people_of, render

ALIGNED = (affine_landmark_distance, similarity_landmark_distance, translation_landmark_distance)
EVERY = (*ALIGNED, landmark_distance)
each_seed = pytest.mark.parametrize("seed", range(5))


def draw(seed, *shape, n=68):
    """Sets (..., n, 2) about a face's size and place in a picture of 128 pixels, their goals 2 px off, and weights."""
    rng = np.random.default_rng(seed)
    points = rng.normal(64, 25, (*shape, n, 2))
    return points, points + rng.normal(0, 2, points.shape), rng.uniform(0.2, 3, (*shape, n))


def by_lstsq(points, goal, weights=None):
    """Eq. 14 for one face by numpy: (distance, A)."""
    root = np.sqrt(np.ones(len(points)) if weights is None else weights)[:, None]
    lifted = np.column_stack([points, np.ones(len(points))])
    a = np.linalg.lstsq(root * lifted, root * goal, rcond=None)[0]
    return (root**2 * (lifted @ a - goal) ** 2).sum(), a.T


def moved(points, a):
    return points @ a[:, :2].T + a[:, 2]


A = np.array([[0.9, 0.3, 5.0], [-0.1, 1.2, -7.0]])


# ---- closed forms ----


@each_seed
def test_an_exact_affine_map_leaves_nothing_and_is_found(seed):
    points, _, w = draw(seed)
    distance, found = affine_landmark_distance(points, moved(points, A), w, return_transform=True)
    assert distance < 1e-9 and distance.dtype == torch.float64 and distance.shape == ()
    assert np.allclose(found, A, rtol=1e-10, atol=1e-9)


@each_seed
@pytest.mark.parametrize("n", [4, 12, 68])
def test_it_is_what_lstsq_finds(seed, n):
    points, goal, w = draw(seed, n=n)
    for weights in (None, w):
        distance, found = affine_landmark_distance(points, goal, weights, return_transform=True)
        expected, a = by_lstsq(points, goal, weights)
        assert float(distance) == pytest.approx(expected, rel=1e-9) and np.allclose(found, a, rtol=1e-9, atol=1e-8)


@each_seed
def test_tiny_residuals_are_as_exact(seed):
    """A distance of differences of sums would have lost all digits here."""
    points, _, _ = draw(seed)
    goal = moved(points, A) + np.random.default_rng(seed).normal(0, 1e-6, points.shape)
    assert float(affine_landmark_distance(points, goal)) == pytest.approx(by_lstsq(points, goal)[0], rel=1e-6)


def test_a_single_displaced_point_leaves_what_the_others_cannot_absorb():
    """In closed form: |d|^2 (1 - leverage of the point)."""
    points, _, _ = draw(0)
    goal, shift = points.copy(), np.array([3.0, -4.0])
    goal[10] += shift
    lifted = np.column_stack([points, np.ones(68)])
    leverage = lifted[10] @ np.linalg.solve(lifted.T @ lifted, lifted[10])
    assert float(affine_landmark_distance(points, goal)) == pytest.approx(25 * (1 - leverage), rel=1e-9)
    assert float(affine_landmark_distance(points, goal)) == pytest.approx(by_lstsq(points, goal)[0], rel=1e-9)


def test_three_points_always_fit():
    points, goal, _ = draw(1, n=3)
    assert affine_landmark_distance(points, goal) < 1e-9


@pytest.mark.parametrize("squeeze", [1, 1e-2, 1e-3, 1e-4, 2e-5])
def test_thin_faces_keep_nine_digits_down_to_the_limit(squeeze):
    """An affine map of the restored points changes nothing, so the answer is known whatever the conditioning."""
    points, goal, _ = draw(2)
    q, scale = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0], points - points.mean(0)
    thin = scale @ np.linalg.inv(np.linalg.cholesky(np.cov(scale.T))).T @ np.diag([30, 30 * squeeze]) @ q
    assert float(affine_landmark_distance(thin, goal)) == pytest.approx(by_lstsq(points, goal)[0], rel=1e-9)
    found = affine_landmark_distance(thin, goal, return_transform=True)[1].numpy()
    exact = np.linalg.lstsq(thin - thin.mean(0), goal - goal.mean(0), rcond=None)[0].T
    assert np.abs(found[:, :2] - exact).max() <= 1e-13 / squeeze * np.abs(exact).max() + 1e-11 * np.abs(exact).max()


def test_the_plain_distance_by_hand():
    assert float(landmark_distance([[0, 0], [1, 1]], [[3, 4], [1, 2]])) == pytest.approx(3)
    assert float(landmark_distance([[0, 0], [1, 1]], [[3, 4], [1, 2]], [3, 1])) == pytest.approx(4)


@each_seed
def test_each_alignment_forgives_its_own_maps_only(seed):
    points, _, w = draw(seed)
    turn = np.array([[0.9, -0.4, 3], [0.4, 0.9, -8]])
    shift, flip = np.array([[1, 0, 6], [0, 1, -2.0]]), np.array([[-1, 0, 128], [0, 1, 0.0]])
    for a, forgiven in ((A, (1, 0, 0)), (turn, (1, 1, 0)), (shift, (1, 1, 1)), (flip, (1, 0, 0))):
        found = [float(distance(points, moved(points, a), w)) for distance in ALIGNED]
        assert [value < 1e-9 for value in found] == list(map(bool, forgiven)) and all(
            v > 100 for v, f in zip(found, forgiven) if not f
        )


@each_seed
def test_the_wider_the_group_the_smaller_the_distance(seed):
    points, goal, w = draw(seed, 7)
    affine, similar, shifted = (distance(points, goal, w) for distance in ALIGNED)
    assert (affine < similar).all() and (similar < shifted).all()


@each_seed
def test_similarity_is_what_a_linear_solver_finds(seed):
    points, goal, w = draw(seed)
    root = np.repeat(np.sqrt(w), 2)
    rows = np.array([row for x, y in points for row in ((x, -y, 1, 0), (y, x, 0, 1))])
    left = np.linalg.lstsq(root[:, None] * rows, root * goal.ravel(), rcond=None)[1][0]
    assert float(similarity_landmark_distance(points, goal, w)) == pytest.approx(left, rel=1e-9)


# ---- invariances, and what is none ----


@each_seed
def test_affine_maps_of_the_restored_points_change_nothing(seed):
    points, goal, w = draw(seed)
    rng = np.random.default_rng(seed)
    a = np.column_stack([rng.normal(size=(2, 2)), rng.normal(0, 50, 2)])
    same = float(affine_landmark_distance(points, goal, w))
    assert float(affine_landmark_distance(moved(points, a), goal, w)) == pytest.approx(same, rel=1e-9)


def test_it_is_not_symmetric():
    """Scaling the truth by s scales the distance by s squared, scaling the restored points does nothing."""
    points, goal, _ = draw(3)
    there = float(affine_landmark_distance(points, goal))
    assert float(affine_landmark_distance(points, 3 * goal)) == pytest.approx(9 * there, rel=1e-9)
    assert float(affine_landmark_distance(3 * goal, points)) == pytest.approx(
        float(affine_landmark_distance(goal, points)), rel=1e-9
    )
    assert abs(float(affine_landmark_distance(goal, points)) / there - 1) > 1e-3


@each_seed
@pytest.mark.parametrize("distance", EVERY)
def test_order_of_points_and_batch_do_not_matter(seed, distance):
    points, goal, w = draw(seed, 2, 3)
    order = np.random.default_rng(seed).permutation(68)
    found = distance(points, goal, w)
    assert found.shape == (2, 3) and (found >= 0).all()
    assert torch.allclose(distance(points[..., order, :], goal[..., order, :], w[..., order]), found, rtol=1e-10)
    assert float(distance(points[1, 2], goal[1, 2], w[1, 2])) == pytest.approx(float(found[1, 2]), rel=1e-10)
    assert torch.allclose(
        distance(points, goal, w[0, 0]), distance(points, goal, np.tile(w[0, 0], (2, 3, 1))), rtol=1e-10
    )
    assert distance(points[:0], goal[:0]).shape == (0, 3)


@pytest.mark.parametrize("distance", EVERY)
def test_equal_sets_are_at_no_distance_and_weights_of_one_are_none(distance):
    points, goal, _ = draw(4)
    assert float(distance(points, points)) < 1e-9 < float(distance(points, goal))
    assert float(distance(points, goal, np.ones(68))) == pytest.approx(float(distance(points, goal)), rel=1e-12)


@pytest.mark.parametrize("distance", EVERY)
def test_whole_weights_are_repeated_points(distance):
    points, goal, _ = draw(5)
    times = np.random.default_rng(5).integers(1, 4, 68)
    repeated = distance(np.repeat(points, times, 0), np.repeat(goal, times, 0))
    assert float(distance(points, goal, times)) == pytest.approx(float(repeated), rel=1e-10)
    assert float(distance(points, goal)) != pytest.approx(float(repeated), rel=1e-3)


@pytest.mark.parametrize("distance", EVERY)
def test_gradients_flow_to_both_sets(distance):
    points, goal, w = (torch.tensor(x, requires_grad=i < 2) for i, x in enumerate(draw(6, 2, n=6)))
    assert torch.autograd.gradcheck(lambda p, g: distance(p, g, w), (points, goal))
    assert torch.autograd.gradcheck(distance, (points, goal))


def test_gradients_flow_through_the_transform_and_are_finite_at_the_minimum():
    points, goal, _ = (torch.tensor(x, requires_grad=True) for x in draw(7, n=5))
    assert torch.autograd.gradcheck(
        lambda p, g: affine_landmark_distance(p, g, return_transform=True)[1], (points, goal)
    )
    affine_landmark_distance(points, points.detach()).backward()
    assert points.grad.abs().max() < 1e-9
    single = points.detach().float().requires_grad_()
    affine_landmark_distance(single, goal.detach().float()).backward()
    assert single.grad.dtype == torch.float32 and single.grad.isfinite().all()


# ---- properties of any sets of points ----


@st.composite
def sets(draw_from, count=st.integers(4, 68)):
    """A face of any size at any place, its goal at any distance, weights over three orders: (N, 2), (N, 2), (N,)."""
    rng, n = np.random.default_rng(draw_from(st.integers(0, 2**32))), draw_from(count)
    size, place, off, ratio = (draw_from(st.floats(*ends)) for ends in ((1, 500), (-2000, 2000), (1e-3, 2), (0.05, 1)))
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    points = rng.normal(size=(n, 2)) * [size, size * ratio] @ turn + place
    return points, points + rng.normal(0, off * size, points.shape), 10 ** rng.uniform(-1.5, 1.5, n)


@st.composite
def maps(draw_from, stretch=True):
    """Any affine map (2, 3) that is not nearly singular, mirrored or not; without stretch any rigid motion."""
    a, b = (draw_from(st.floats(0, 6.3)) for _ in range(2))
    turn = lambda t: np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])  # noqa: E731
    sizes = (
        draw_from(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10), st.sampled_from([1, -1]))) if stretch else (1, 1, 1)
    )
    shift = draw_from(st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
    return np.column_stack([turn(a) @ np.diag([sizes[0], sizes[1] * sizes[2]]) @ turn(b), shift])


@settings(max_examples=40, deadline=None)
@given(face=sets(), a=maps(), rigid=maps(stretch=False), scale=st.floats(0.01, 100))
def test_what_changes_a_distance_and_what_does_not(face, a, rigid, scale):
    points, goal, w = face
    here = [float(distance(points, goal, w)) for distance in ALIGNED]
    tolerance = 1e-9 * float(np.square(points - points.mean(0)).sum())
    near = lambda found, expected: found == pytest.approx(expected, rel=1e-6, abs=tolerance)  # noqa: E731
    assert near(float(affine_landmark_distance(moved(points, a), goal, w)), here[0])
    assert near(float(similarity_landmark_distance(scale * moved(points, rigid), goal, w)), here[1])
    assert near(float(translation_landmark_distance(points + rigid[:, 2], goal, w)), here[2])
    for distance, expected in zip(ALIGNED[:2], here):
        assert near(
            float(distance(points, moved(goal, rigid), w)), expected
        )  # it does not matter where the truth stands
        assert near(float(distance(points, scale * goal, w)) / scale**2, expected)  # but how large it is
    for distance, expected in zip(ALIGNED, here):
        assert near(float(distance(points, goal, scale * w)) / scale, expected)
    assert float(landmark_distance(points, goal, scale * w)) == pytest.approx(
        float(landmark_distance(points, goal, w)), rel=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(face=sets(), data=st.data())
def test_a_wider_group_never_leaves_more(face, data):
    points, goal, w = face
    plain = (w[:, None] * (points - goal) ** 2).sum()
    left = [float(distance(points, goal, w)) for distance in ALIGNED] + [plain]
    assert all(a <= b * (1 + 1e-9) + 1e-9 for a, b in zip(left, left[1:])) and min(left) >= 0
    order = np.array(data.draw(st.permutations(range(len(points)))))
    for distance, expected in zip(EVERY, [*left[:3], float(landmark_distance(points, goal, w))]):
        assert float(distance(points[order], goal[order], w[order])) == pytest.approx(
            expected, rel=1e-8, abs=1e-9 * plain
        )


@settings(max_examples=20, deadline=None)
@given(faces=st.integers(4, 68).flatmap(lambda n: st.lists(sets(st.just(n)), min_size=2, max_size=5)))
def test_a_face_in_a_batch_is_as_alone_and_has_its_own_finite_gradient(faces):
    points, goal, w = (torch.tensor(np.stack(part)) for part in zip(*faces))
    points.requires_grad_(), goal.requires_grad_()
    for distance in EVERY:
        together = distance(points, goal, w)
        gradients = torch.autograd.grad(together[0], (points, goal))
        assert all(g.isfinite().all() and g[0].abs().max() > 0 and g[1:].abs().max() == 0 for g in gradients)
        for n, (p, g, one) in enumerate(faces):
            assert float(distance(p, g, one)) == pytest.approx(float(together[n].detach()), rel=1e-8)


# ---- groups and references ----


def test_the_groups_are_those_of_ibug():
    points = render([(p, p.shot(0)) for p in people_of("test", 5)]).landmarks
    assert len(GROUPS["eyes"]) == 22 and GROUPS["mouth border"] == tuple(range(48, 60))
    eyes, mouth = (points[:, list(GROUPS[name])] for name in GROUPS)
    assert (eyes[..., 1].max(1) < points[:, 30, 1]).all() and (
        mouth[..., 1].min(1) > points[:, 30, 1]
    ).all()  # above, below the nose
    assert set(GROUPS["eyes"]) == {*range(17, 27), *range(36, 48)}


@pytest.mark.parametrize("distance, name", [(ald_eyes, "eyes"), (ald_mouth, "mouth border")])
def test_a_group_sees_its_own_points_only(distance, name):
    points, goal, w = draw(8, 3)
    chosen = list(GROUPS[name])
    assert torch.allclose(
        distance(points, goal, w), affine_landmark_distance(points[:, chosen], goal[:, chosen], w[:, chosen])
    )
    goal[:, [i for i in range(68) if i not in chosen]] += 50
    assert torch.allclose(distance(points, goal), affine_landmark_distance(points[:, chosen], goal[:, chosen]))
    with pytest.raises(LandmarkShapeError, match="Remedy.*68"):
        distance(points[:, :60], goal[:, :60])
    with pytest.raises(LandmarkShapeError, match="Weights.*Remedy"):
        distance(points, goal, w[:, :60])


def test_the_nearest_reference_is_the_shot_most_like_the_input():
    """Each input is a reference seen askew, with a little noise: its own reference must be found."""
    found = []
    for person in people_of("test", 4):
        sets = render([(person, person.shot(k)) for k in range(6)]).landmarks
        inputs = moved(sets, A) + np.random.default_rng(person.seed).normal(0, 0.2, sets.shape)
        index, distances = nearest_reference(inputs, sets)
        found += index.tolist()
        assert distances.shape == (6, 6) and torch.equal(distances.argmin(1), index)
        assert float(distances[2, 4]) == pytest.approx(
            by_lstsq(sets[4], inputs[2])[0], rel=1e-9
        )  # the reference is moved
        assert int(nearest_reference(inputs[3], sets, np.ones(68))[0]) == int(index[3])
    assert found == 4 * list(range(6))


# ---- errors ----

POINTS, GOAL, WEIGHTS = draw(9, 3)


def spoilt(x, face, value):
    x = x.copy()
    x[face] = value
    return x


LINE = np.column_stack([np.arange(68.0), 2 * np.arange(68.0) + 1])


@pytest.mark.parametrize("distance", EVERY)
@pytest.mark.parametrize(
    "error, sets, where",
    [
        (LandmarkShapeError, (POINTS, GOAL[:2]), "every face"),
        (LandmarkShapeError, (POINTS[..., :1], GOAL[..., :1]), "every face"),
        (LandmarkShapeError, (POINTS[0, 0], GOAL[0, 0]), "every face"),
        (LandmarkShapeError, (POINTS, GOAL, WEIGHTS[:, :5]), "every face"),
        (LandmarkShapeError, (POINTS, GOAL, WEIGHTS[:2]), "every face"),
        (TooFewLandmarksError, (POINTS[:, :0], GOAL[:, :0]), "every face"),
        (LandmarkValueError, (spoilt(POINTS, (1, 5, 0), np.nan), GOAL), "restored points: face 1"),
        (LandmarkValueError, (POINTS, spoilt(GOAL, (2, 5, 1), np.inf)), "ground truth points: face 2"),
        (LandmarkValueError, (spoilt(POINTS[0], (0, 0), np.nan), GOAL[0]), "the only face"),
        (LandmarkValueError, (POINTS[None], spoilt(GOAL, (2, 5, 1), -np.inf)[None]), r"face \(0, 2\)"),
        *(
            (LandmarkWeightError, (POINTS, GOAL, spoilt(WEIGHTS, (1, 7), bad)), "face 1")
            for bad in (0, -1, np.nan, np.inf)
        ),
    ],
)
def test_bad_input_is_named_with_its_face(distance, error, sets, where):
    with pytest.raises(error, match=f"{where}.*Remedy") as caught:
        distance(*sets)
    assert isinstance(caught.value, LandmarkError)


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        LINE.astype(np.float32) * np.float32(0.1),
        LINE * [1, 0],
        LINE * 0 + 64.1,
        LINE * 0,
        LINE + np.random.default_rng(0).normal(0, 1e-6, LINE.shape),
    ],
)
def test_points_on_a_line_or_all_at_one_place_are_refused(line):
    with pytest.raises(DegenerateLandmarksError, match="face 2.*Remedy"):
        affine_landmark_distance(spoilt(POINTS, 2, line), GOAL)
    assert affine_landmark_distance(POINTS, spoilt(GOAL, 2, line)).isfinite().all()  # the truth may be anything


def test_a_line_is_enough_for_a_similarity_but_not_one_place():
    assert similarity_landmark_distance(LINE, 2 * LINE[:, ::-1]) > 0
    for place, weights in [
        (64.1, None),
        *((place, WEIGHTS) for place in np.linspace(0.1, 99.7, 20)),
    ]:  # some means are rounded
        with pytest.raises(DegenerateLandmarksError, match="face 2.*Remedy"):
            similarity_landmark_distance(spoilt(POINTS, 2, place), GOAL, weights)


def test_each_alignment_has_its_least_number_of_points():
    for distance, least in zip(ALIGNED, (3, 2, 1)):
        assert distance(POINTS[:, :least], GOAL[:, :least]).shape == (3,)
        with pytest.raises(TooFewLandmarksError, match=f"every face.*at least {least}"):
            distance(POINTS[:, : least - 1], GOAL[:, : least - 1])


@pytest.mark.parametrize(
    "goal, references", [(GOAL[0], POINTS[:0]), (GOAL[0], POINTS[0]), (GOAL[0, :5], POINTS), (GOAL[0, 0], POINTS)]
)
def test_references_that_fit_no_input(goal, references):
    with pytest.raises(LandmarkShapeError, match="every face.*Remedy"):
        nearest_reference(goal, references)


def test_a_degenerate_reference_is_named():
    with pytest.raises(DegenerateLandmarksError, match="face 1"):
        nearest_reference(GOAL[0], spoilt(POINTS, 1, LINE))


# ---- one pass over a batch ----


def test_a_batch_is_solved_in_one_call_as_each_of_its_faces_is(monkeypatch):
    points, goal, _ = draw(10, 200)
    calls, solve = [], torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda m, c, **how: calls.append(m.shape) or solve(m, c, **how))
    found = affine_landmark_distance(points, goal)
    assert calls == [(200, 2, 2)]
    assert np.allclose(found, [by_lstsq(p, g)[0] for p, g in zip(points, goal)], rtol=1e-9)
