"""The colour distance: zero for the same colours, blind to small displacements, and growing with a shift of colour."""

import pytest
import tiny_system
import torch
from skimage.color import rgb2lab

from lib.errors import PictureSizeError
from lib.metrics.colour import colour_distance

PICTURES = tiny_system.pictures(2, 3) * 0.6


def test_the_same_picture_has_distance_zero():
    assert colour_distance(PICTURES, PICTURES).tolist() == [0, 0]


def test_it_grows_with_a_shift_of_colour():
    tint = torch.tensor([0.1, 0.0, -0.1])[:, None, None]
    small, large = (colour_distance((PICTURES + s * tint).clamp(-1, 1), PICTURES) for s in (0.5, 2))
    assert (small > 0).all() and (large > 2 * small).all()


def test_a_small_displacement_costs_less_than_a_small_tint_of_the_same_error():
    grain = 0.6 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.3
    moved = grain.roll(2, 3)
    tinted = grain + (moved - grain).abs().mean()
    assert (colour_distance(moved, grain) < 0.3 * colour_distance(tinted, grain)).all()


def test_it_is_the_mean_of_one_dimensional_distances_by_hand():
    """For grey pictures of one colour every patch is the same: |L1 - L2| times |sum of a direction's first plane|."""
    flat = [torch.full((1, 3, 64, 64), v) for v in (-0.2, 0.2)]
    light = [rgb2lab(torch.full((1, 1, 3), (v + 1) / 2).numpy())[0, 0, 0] for v in (-0.2, 0.2)]
    directions = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    directions /= directions.abs().sum((1, 2, 3), keepdim=True)
    expected = float(directions[:, 0].sum((1, 2)).abs().mean()) * abs(light[0] - light[1])
    assert float(colour_distance(*flat)) == pytest.approx(expected, rel=1e-2)


def test_other_shapes_are_refused():
    small = PICTURES[..., :32, :32]
    for a, b in ((PICTURES[:, :2], PICTURES[:, :2]), (PICTURES, PICTURES[:1]), (PICTURES, small), (small, small)):
        with pytest.raises(PictureSizeError):
            colour_distance(a, b)
