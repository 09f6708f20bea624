"""Figures: a picture is shown dot for dot, in its place, and a forgotten name is an error."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lib.errors import RecordError
from lib.runs import figures, pages
from lib.runs.figures import grid
from lib.runs.gallery import gallery, runs
from lib.runs.record import Record
from lib.runs.slider import Slider


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


def alt(figure):
    """The alternative text that a notebook stores beside the figure."""
    return figure._repr_mimebundle_()[1]["image/png"]["alt"]


def test_every_figure_has_an_alternative_text(noise):
    pictures = grid([[noise[0], noise[1]]], ["ada"], ["degraded", "dual\npivot"], title="people:9")
    assert alt(pictures) == "people:9. Pictures, rows: ada; columns: degraded, dual pivot"
    assert alt(grid([[noise[0]]], [""], [""])) == "Pictures"
    table = pd.DataFrame({"plain": [1.0, 2.0]}, index=["a", "b"])
    assert alt(figures.bars(table, "seconds", {})) == "Bars, seconds: a 1; b 2"


def test_a_cell_grows_with_its_picture_and_captions_stand_below(noise):
    large = noise[0].repeat(2, 0).repeat(2, 1)[:200, :200]
    assert found(large, grid([[large]], [""], [""], cell=96)) == 1
    plain, told = (
        grid([[noise[0]]] * 2, ["", ""], [""]),
        grid([[noise[0]]] * 2, ["", ""], [""], captions=[["20.1"], [""]]),
    )
    assert found(noise[0], told) == 2  # nothing is drawn over a picture
    assert told.get_size_inches()[1] > plain.get_size_inches()[1]
    assert [axis.get_xlabel() for axis in told.axes] == ["20.1", ""]
    with pytest.raises(ValueError, match="Captions"):
        grid([[noise[0]]], [""], [""], captions=[["a", "b"]])


def test_a_forest_plot_has_a_panel_for_each_metric_and_a_colour_and_mark_for_each_outcome():
    rows = [
        ("identity gains", "identity", 0.2, 0.1, 0.3, "reproduced"),
        ("none", "psnr", 0.5, np.nan, np.nan, "inconclusive"),
    ]
    rows += [("PSNR is lost", "psnr", 1.0, 0.8, 1.2, "contradicted")]
    results = pd.DataFrame(rows, columns=["statement", "metric", "difference", "low", "high", "outcome"])
    figure = figures.forest(results)
    labels = [[text.get_text() for text in axis.get_yticklabels()] for axis in figure.axes]
    assert labels == [["identity gains"], ["PSNR is lost", "none"]]  # drawn from below
    marks = {
        (line.get_color(), line.get_marker())
        for axis in figure.axes
        for line in axis.lines
        if len(line.get_xdata()) == 1
    }
    assert marks == set(figures.OUTCOMES.values())
    assert "PSNR is lost (psnr): +1.000, contradicted" in alt(figure)
    with pytest.raises(ValueError, match="Unknown outcome: 'won'"):
        figures.forest(results.assign(outcome="won"))


def test_curves_have_a_band_as_wide_as_the_interval_over_people():
    table = pd.DataFrame([[1.0, 2.0], [2.0, 2.5], [3.0, 3.0]], columns=[0.1, 0.9])
    figure = figures.curves({"identity": {"a": table, "b": table + 1}, "PSNR": {"a": table}}, "gamma")
    axis, other = figure.axes
    line, band = axis.lines[0], axis.collections[0].get_paths()[0].vertices
    assert list(line.get_xdata()) == [0.1, 0.9] and list(line.get_ydata()) == [2.0, 2.5]
    half = 4.302652729 / np.sqrt(3)  # t of 2 degrees of freedom, deviation 1
    assert band[:, 1].min() == pytest.approx(2 - half) and band[:, 1].max() == pytest.approx(
        max(2 + half, 2.5 + half / 2)
    )
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"] and len(other.lines) == 1
    assert other.get_title() == "PSNR" and axis.get_xlabel() == "gamma"


def test_a_logarithmic_axis_is_marked_at_the_numbers_that_were_measured():
    table = pd.DataFrame([[1.0, 2.0, 3.0], [2.0, 2.5, 3.5]], columns=[5, 10, 40])
    axis = figures.curves({"identity": {"a": table, "b": table[[10, 40]]}}, "steps", log=True).axes[0]
    assert axis.get_xscale() == "log" and not axis.get_xticks(minor=True).size
    assert [label.get_text() for label in axis.get_xticklabels()] == ["5", "10", "40"]


def test_a_matrix_names_its_rows_and_columns():
    table = pd.DataFrame([[0.1, -0.2], [0.0, 0.3]], index=["G of a", "G of b"], columns=["E of a", "E of b"])
    figure = figures.matrix(table, "identity", 0.3)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == list(table.columns)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(table.index)
    assert np.array_equal(axis.images[0].get_array(), table) and axis.images[0].get_clim() == (-0.3, 0.3)
    words = figure._repr_mimebundle_()[1]["image/png"]["alt"]
    assert "E of b -0.200 to +0.300" in words


def test_intervals_name_their_reference_and_which_side_is_better():
    columns = {f"psnr {what}": [0.5, 1.0] for what in ("difference", "low", "high")}
    summary = pd.DataFrame({"psnr": [20.0, 21.0], "lpips": [0.1, 0.2], **columns}, index=["swap", "dual pivot"])
    summary[["lpips difference", "lpips low", "lpips high"]] = -0.1
    higher = {"psnr": True, "lpips": False}
    figure = figures.intervals(
        summary, ["swap"], {"psnr": "PSNR", "lpips": "LPIPS", "ssim": "SSIM"}, higher, "in-context"
    )
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ["PSNR, arm − in-context\nbetter →", "LPIPS, arm − in-context\n← better"]


def test_a_slider_moves_the_border_and_leaves_a_picture_where_no_kernel_runs(noise):
    made = Slider(noise[0], noise[1], ("blind", "dual pivot"))
    assert np.array_equal(made.at(0), noise[1]) and np.array_equal(made.at(1), noise[0])
    half = made.at(0.5)
    assert np.array_equal(half[:, :64], noise[0][:, :64]) and np.array_equal(half[:, 65:], noise[1][:, 65:])
    made.handle.value = 0.0
    shown = cv2.imdecode(np.frombuffer(made.picture.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(shown, noise[1])
    data, metadata = made._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == "Slider between blind and dual pivot"
    assert data["image/png"].startswith(b"\x89PNG") and pages.WIDGET in data
    with pytest.raises(ValueError, match="Not one size"):
        Slider(noise[0], noise[1][:64])


def test_the_gallery_shows_what_differs_with_thumbnails_and_escapes_the_rest(tmp_path, noise):
    for person, value in (("people:9", 0.5), ("<b>ada</b>", 0.7)):
        made = Record("00_x", {"PERSON": person, "STEPS": 5}, 0, "cpu", tmp_path / "00_x" / made_name(person))
        made.add(image="a", arm="blind", metric="identity", value=value)
        made.add(image="b", arm="blind", metric="identity", value=value)
        made.folder.mkdir(parents=True)
        cv2.imwrite(str(made.emptied("restored") / "a-blind.png"), noise[0])
        made.write()
    table = runs(tmp_path)
    assert list(table["run"]) == ["00_x/ada", "00_x/people"] and list(table["identity, blind"]) == [0.7, 0.5]
    assert "STEPS" not in table and "PERSON" in table
    page = gallery(tmp_path).data
    assert page.count('<img alt="a-blind"') == 2 and "<b>ada" not in page and "&lt;b&gt;ada" in page
    with pytest.raises(RecordError, match="No records"):
        gallery(tmp_path / "nothing")


def made_name(person):
    return "ada" if "ada" in person else "people"
