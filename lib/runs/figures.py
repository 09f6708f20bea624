"""Figures: every picture of the workbook passes here, at a fixed size and 100 dots an inch."""

import cv2
import matplotlib.pyplot as plt
import numpy as np

from lib.metrics.registry import HIGHER_IS_BETTER

CELL = 128  # pixels a side of a picture in a grid
GAP, LINE, DPI = 6, 14, 100  # pixels, pixels, dots an inch


def as_bytes(picture) -> np.ndarray:
    """One picture as uint8 (H, W, 3): from uint8 RGB as it is, from a float tensor (3, H, W) in [-1, 1] rounded."""
    if isinstance(picture, np.ndarray):
        return picture
    return ((picture.detach().cpu().float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def grid(rows: list, row_names: list, column_names: list, title: str | None = None, cell: int = CELL):
    """Pictures in named rows and columns, dot for dot when they are `cell` pixels wide.

    rows: lists of pictures, uint8 (H, W, 3) or float tensors (3, H, W) in [-1, 1]; None leaves a place empty.
    row_names: as many as rows, column_names: as many as the longest row; "" for none. cell: width in pixels, the first
    picture gives the height; smaller pictures are enlarged unsmoothed, larger ones averaged. Shown at 6 bits a channel,
    which the eye does not miss and which keeps stored notebooks small.
    Returns a matplotlib figure: leave it last in a cell. Raises ValueError when a name is missing or one too many.
    """
    count, first = max(len(row) for row in rows), next(as_bytes(one) for row in rows for one in row if one is not None)
    if len(row_names) != len(rows) or len(column_names) != count:
        raise ValueError(
            f"{len(rows)} rows of {count} pictures came with {len(row_names)} row and {len(column_names)} column names."
        )
    tall, left = round(cell * first.shape[0] / first.shape[1]), _margin(row_names)
    top = LINE * (max(name.count("\n") for name in column_names) + 1 + 2 * bool(title))
    width, height = left + count * (cell + GAP), top + len(rows) * (tall + GAP)
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    for i, row in enumerate(rows):
        for j in range(count):
            x, y = left + j * (cell + GAP), height - top - i * (tall + GAP) - tall  # pixels, from below
            axis = figure.add_axes([x / width, y / height, cell / width, tall / height])
            _place(axis, row[j] if j < len(row) else None, cell)
            axis.set_title(column_names[j] if i == 0 else "", fontsize=8, pad=3)
            axis.set_ylabel(row_names[i] if j == 0 else "", fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=9, y=1 - 2 / height, va="top")
    plt.close(figure)  # or the notebook shows it twice
    return figure


def _margin(names):
    """Pixels that the longest line of the row names needs, at 8 points."""
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    return 7 * longest + 12 if longest else GAP


def _place(axis, picture, cell):
    axis.set(xticks=[], yticks=[], frame_on=False)
    if picture is not None:
        picture = as_bytes(picture)
        if picture.shape[1] > cell:
            tall = round(cell * picture.shape[0] / picture.shape[1])
            picture = cv2.resize(picture, (cell, tall), interpolation=cv2.INTER_AREA)
        axis.imshow(picture & 0xFC, interpolation="nearest")


def intervals(summary, arms, labels):
    """Paired differences to blind with their 95 % intervals, a panel a metric, a line an arm.

    summary: `statistics.summary`; arms: its rows to draw; labels: metric -> words. Returns a matplotlib figure.
    """
    labels = {metric: label for metric, label in labels.items() if metric in summary}  # without truth, identity alone
    figure, axes = plt.subplots(
        1, len(labels), figsize=(9, 0.3 * len(arms) + 0.9), dpi=DPI, sharey=True, layout="constrained", squeeze=False
    )
    axes = axes[0]
    for axis, (metric, label) in zip(axes, labels.items()):
        rows = summary.loc[arms[::-1]]
        middle, low, high = (rows[f"{metric} {what}"] for what in ("difference", "low", "high"))
        axis.errorbar(middle, range(len(rows)), xerr=[middle - low, high - middle], fmt="o", ms=4, capsize=2)
        axis.axvline(0, color="0.6", lw=0.8)
        better = "better →" if HIGHER_IS_BETTER[metric] else "← better"
        axis.set_xlabel(f"{label}, arm − blind\n{better}", fontsize=8)
    axes[0].set_yticks(range(len(rows)), rows.index, fontsize=8)
    plt.close(figure)
    return figure


def bars(table, label, lines):
    """A group of bars a row of a table, a colour a column, with named lines across them. Returns a matplotlib figure.

    table: numbers; label: of their axis; lines: name -> where.
    """
    figure, axis = plt.subplots(figsize=(9, 0.2 * table.size + 0.9), dpi=DPI, layout="constrained")
    table[::-1].plot.barh(ax=axis, width=0.75, legend=len(table.columns) > 1, fontsize=8)
    for name, x in lines.items():
        axis.axvline(x, color="0.3", lw=0.8, ls="--")
        axis.annotate(name, (x, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel("")
    if axis.get_legend():
        axis.legend(fontsize=8, reverse=True)
    plt.close(figure)
    return figure


def claim(words, holds, strict=True):
    """Prints a claim, or that it does not hold here; where `strict`, as in the committed run, that is an AssertionError."""
    assert holds or not strict, f"no longer holds: {words}"
    print(words if holds else f"does not hold here: {words}")


def markdown(table):
    """A pandas table, its index the first column, as Markdown."""
    table = table.reset_index().astype(str)
    return "\n".join(
        f"| {' | '.join(line)} |"
        for line in [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    )
