"""Figures: a picture is shown dot for dot, in its place, and a forgotten name is an error."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lib.runs import figures
from lib.runs.figures import grid


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def found(picture, figure):
    """How often the picture stands in the figure, dot for dot."""
    page, picture = pixels(figure), picture & 0xFC
    height, width = picture.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], (1, width))[:, :, 0]
    rows, columns = np.nonzero((windows == picture[0, :, 0]).all(-1))
    return sum(np.array_equal(page[y : y + height, x : x + width], picture) for y, x in zip(rows, columns))


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)


def test_pictures_are_shown_dot_for_dot(noise):
    figure = grid(
        [[noise[0], noise[1]], [noise[2], None]], ["first\nrow", "second"], ["one", "two\nlines"], title="title"
    )
    assert [found(picture, figure) for picture in noise] == [1, 1, 1, 0, 0]


def test_tensors_are_shown_like_their_bytes(noise):
    tensor = torch.from_numpy(noise[0]).permute(2, 0, 1).float() / 127.5 - 1
    assert np.array_equal(pixels(grid([[tensor]], [""], [""])), pixels(grid([[noise[0]]], [""], [""])))


def test_small_pictures_are_enlarged_without_smoothing(noise):
    small = noise[0][:48, :64]
    assert found(small.repeat(2, 0).repeat(2, 1), grid([[small]], ["row"], ["column"])) == 1


def test_a_missing_name_is_an_error(noise):
    with pytest.raises(ValueError, match="1 row and 1 column names"):
        grid([[noise[0], noise[1]]], ["row"], ["one"])


def test_a_claim_stops_the_committed_run_and_is_only_told_in_another(capsys):
    figures.claim("a holds", True)
    figures.claim("b holds", False, strict=False)
    assert capsys.readouterr().out == "a holds\ndoes not hold here: b holds\n"
    with pytest.raises(AssertionError, match="no longer holds: c"):
        figures.claim("c", False)
