"""Figures: every picture of the workbook is drawn here, at a fixed size, 100 dots an inch, with an alternative text."""

import cv2
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from lib.images import to_uint8

CELL, LARGEST = 128, 256  # pixels: least width of a cell in a grid; the width up to which a cell grows with its picture
GAP, LINE, DPI = 6, 14, 100  # pixels, pixels, dots an inch
# Outcomes of a statement: colours of Okabe and Ito, which colour-blind readers tell apart, and marks that need none.
OUTCOMES = {"reproduced": ("#0072B2", "o"), "contradicted": ("#D55E00", "X"), "inconclusive": ("#777777", "D")}


def as_bytes(picture) -> np.ndarray:
    """One picture as uint8 (H, W, 3): an array as it is, a float tensor (3, H, W) in [-1, 1] by `to_uint8`."""
    return picture if isinstance(picture, np.ndarray) else to_uint8(picture)[0]


def described(figure, words):
    """The figure with an alternative text, which a notebook stores beside its picture and a page reads out."""
    figure._repr_mimebundle_ = lambda include=None, exclude=None: ({}, {"image/png": {"alt": words}})
    plt.close(figure)  # or the notebook shows it twice
    return figure


def grid(rows: list, row_names: list, column_names: list, title=None, cell: int = CELL, captions=None):
    """Pictures in named rows and columns, dot for dot where they are as wide as their cells.

    Shown at 6 bits a channel, which the eye does not miss and which keeps stored notebooks small.

    Args: rows, lists of pictures, uint8 (H, W, 3) or float tensors (3, H, W) in [-1, 1]; None leaves a place empty;
    row_names, as many as rows, and column_names, as many as the longest row; "" for none; cell, width in pixels, raised
    to that of the widest picture up to LARGEST (the first picture gives the height; smaller pictures are enlarged
    unsmoothed, larger ones averaged); captions, lists of texts like rows, such as scores, shown under the pictures.
    Returns a matplotlib figure: leave it last in a cell. Raises ValueError when a name or caption is missing or one too
    many.
    """
    pictures = [[None if picture is None else as_bytes(picture) for picture in row] for row in rows]
    _check_names(pictures, row_names, column_names, captions)
    there = [picture for row in pictures for picture in row if picture is not None]
    cell = max(cell, min(LARGEST, max(picture.shape[1] for picture in there)))
    tall = round(cell * there[0].shape[0] / there[0].shape[1])
    below = LINE * max((text.count("\n") + 1 for row in captions or [] for text in row if text), default=0)
    left, top = _margin(row_names), LINE * (max(name.count("\n") for name in column_names) + 1 + 2 * bool(title))
    width = left + len(column_names) * (cell + GAP)
    height = top + len(rows) * (tall + below + GAP)
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    for i, row in enumerate(pictures):
        for j in range(len(column_names)):
            x, y = left + j * (cell + GAP), height - top - i * (tall + below + GAP) - tall  # pixels, from below
            axis = figure.add_axes([x / width, y / height, cell / width, tall / height])
            _place(axis, row[j] if j < len(row) else None, cell)
            axis.set_title(column_names[j] if i == 0 else "", fontsize=8, pad=3)
            axis.set_ylabel(row_names[i] if j == 0 else "", fontsize=8, rotation=0, ha="right", va="center")
            axis.set_xlabel(captions[i][j] if captions and j < len(row) else "", fontsize=8, labelpad=2)
    figure.suptitle(title, fontsize=9, y=1 - 2 / height, va="top")
    return described(figure, _grid_words(row_names, column_names, title))


def _check_names(rows, row_names, column_names, captions):
    count = max(len(row) for row in rows)
    if len(row_names) != len(rows) or len(column_names) != count:
        raise ValueError(
            f"{len(rows)} rows of {count} pictures came with {len(row_names)} row and {len(column_names)} column names."
        )
    if captions is not None and [len(row) for row in captions] != [len(row) for row in rows]:
        raise ValueError(f"Captions of {[len(row) for row in captions]}, pictures of {[len(row) for row in rows]}.")


def _grid_words(row_names, column_names, title):
    """What a grid shows, in words."""
    parts = [
        f"{what}: {', '.join(' '.join(name.split()) for name in names if name)}"
        for what, names in (("rows", row_names), ("columns", column_names))
        if any(names)
    ]
    words = f"Pictures{', ' if parts else ''}{'; '.join(parts)}"
    return f"{title}. {words}" if title else words


def _margin(names):
    """Pixels that the longest line of the row names needs, at 8 points."""
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    return 7 * longest + 12 if longest else GAP


def _place(axis, picture, cell):
    axis.set(xticks=[], yticks=[], frame_on=False)
    if picture is None:
        return
    if picture.shape[1] > cell:
        tall = round(cell * picture.shape[0] / picture.shape[1])
        picture = cv2.resize(picture, (cell, tall), interpolation=cv2.INTER_AREA)
    axis.imshow(picture & 0xFC, interpolation="nearest")


def intervals(summary, arms, labels, higher_is_better, reference="blind"):
    """Paired differences to a reference arm with their 95 % intervals: a panel for each metric, a line for each arm.

    Args: summary, `statistics.summary` against that reference; arms, its rows to draw; labels, metric -> words;
    higher_is_better, metric -> bool; reference, the arm subtracted. Returns a matplotlib figure.
    """
    labels = {metric: label for metric, label in labels.items() if metric in summary}  # without ground truth, identity
    size = (9, 0.3 * len(arms) + 0.9)
    figure, axes = plt.subplots(1, len(labels), figsize=size, dpi=DPI, sharey=True, layout="constrained", squeeze=False)
    rows = summary.loc[arms[::-1]]
    for axis, (metric, label) in zip(axes[0], labels.items()):
        middle, low, high = (rows[f"{metric} {what}"] for what in ("difference", "low", "high"))
        axis.errorbar(middle, range(len(rows)), xerr=[middle - low, high - middle], fmt="o", ms=4, capsize=2)
        axis.axvline(0, color="0.6", lw=0.8)
        better = "better →" if higher_is_better[metric] else "← better"
        axis.set_xlabel(f"{label}, arm − {reference}\n{better}", fontsize=8)
    axes[0][0].set_yticks(range(len(rows)), rows.index, fontsize=8)
    return described(figure, f"Differences to {reference} with 95 % intervals; arms: {', '.join(arms)}")


def forest(results):
    """A forest plot: paired differences with their 95 % intervals, coloured and marked by outcome, a panel per metric.

    Args: results, a table with the columns statement, metric, difference, low, high (numbers; NaN without an interval)
    and outcome, one of OUTCOMES. Returns a matplotlib figure. Raises ValueError for another outcome.
    """
    if other := sorted(set(results["outcome"]) - set(OUTCOMES)):
        raise ValueError(f"Unknown outcome: {other[0]!r}. Remedy: one of {', '.join(OUTCOMES)}.")
    panels = list(results.groupby("metric", sort=False))
    heights = [len(rows) + 1.5 for _, rows in panels]
    size = (9, 0.24 * sum(heights) + 0.5)
    ratios = {"height_ratios": heights}
    figure, axes = plt.subplots(
        len(panels), 1, figsize=size, dpi=DPI, layout="constrained", squeeze=False, gridspec_kw=ratios
    )
    for axis, (metric, rows) in zip(axes[:, 0], panels):
        _forest_panel(axis, metric, rows[::-1])
    marks = [plt.Line2D([], [], color=colour, marker=mark, label=name) for name, (colour, mark) in OUTCOMES.items()]
    figure.legend(handles=marks, fontsize=8, ncols=len(marks), loc="outside lower center")
    lines = [f"{row.statement} ({row.metric}): {row.difference:+.3f}, {row.outcome}" for row in results.itertuples()]
    return described(figure, f"Paired differences with 95 % intervals. {'; '.join(lines)}")


def _forest_panel(axis, metric, rows):
    for place, row in enumerate(rows.itertuples()):
        colour, mark = OUTCOMES[row.outcome]
        axis.plot([row.low, row.high], [place, place], color=colour, lw=1.5)
        axis.plot(row.difference, place, mark, color=colour, ms=6)
    axis.axvline(0, color="0.6", lw=0.8)
    axis.set_yticks(range(len(rows)), rows["statement"], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(f"difference in {metric}", fontsize=8)


def curves(panels, xlabel, log=False):
    """Means over people with their 95 % t intervals, a panel for each quantity, a curve for each table.

    Args: panels, label of the quantity -> {name of the curve: table, a row for each person and a column for each x};
    xlabel; log, whether the x axis is logarithmic. Without a second person no interval is drawn. Returns a figure.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(min(9, 4.6 * len(panels)), 2.9), dpi=DPI, layout="constrained", squeeze=False
    )
    words = []
    for axis, (label, tables) in zip(axes[0], panels.items()):
        for n, (name, table) in enumerate(tables.items()):
            mean, half = table.mean(), stats.sem(table) * stats.t.ppf(0.975, max(1, len(table) - 1))
            axis.plot(table.columns, mean, "osD^vX"[n % 6] + "-", ms=4, lw=1.2, color=f"C{n}", label=name)
            axis.fill_between(table.columns, mean - half, mean + half, alpha=0.2, lw=0, color=f"C{n}")
            words.append(f"{label}, {name}: {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}")
        if log:
            ticks = sorted({x for table in tables.values() for x in table.columns})
            axis.set_xscale("log")
            axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axis.minorticks_off()
        axis.set_xlabel(xlabel, fontsize=8)
        axis.set_title(label, fontsize=9)
        axis.tick_params(labelsize=8)
    axes[0][0].legend(fontsize=8)
    return described(figure, f"Curves over {xlabel}, means over people with 95 % intervals. {'; '.join(words)}")


def matrix(table, label, reach):
    """A table of differences as colours, blue above and red below zero. Returns a matplotlib figure.

    table: numbers, its index and columns the names; label: of the colour bar; reach: the difference of full colour.
    """
    size = (2.2 + 0.5 * table.shape[1], 1.4 + 0.24 * len(table))
    figure, axis = plt.subplots(figsize=size, dpi=DPI, layout="constrained")
    image = axis.imshow(table.to_numpy(float), cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
    axis.set_xticks(range(table.shape[1]), table.columns, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(table)), table.index, fontsize=8)
    figure.colorbar(image).set_label(label, fontsize=8)
    lines = [f"{name} {row.min():+.3f} to {row.max():+.3f}" for name, row in table.items()]
    return described(figure, f"Colours, {label}, least and most of each column: {'; '.join(lines)}")


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
    names = [f"{name} {', '.join(f'{value:.3g}' for value in row)}" for name, row in zip(table.index, table.values)]
    return described(figure, f"Bars, {label}: {'; '.join(names)}")


def per_person(table, label):
    """A line for each person over the columns of a table, and their means with 95 % t intervals. Returns a figure.

    table: numbers, a row a person, two or more columns in the order they are drawn; label: of the axis.
    """
    figure, axis = plt.subplots(figsize=(6, 3), dpi=DPI, layout="constrained")
    places = range(table.shape[1])
    gap, below = 0.06 * np.ptp(table.to_numpy()), -np.inf
    for name, row in table.sort_values(table.columns[-1]).iterrows():
        axis.plot(places, row, "o-", color="0.7", lw=0.8, ms=3)
        below = max(row.iloc[-1], below + gap)  # names do not lie on one another
        axis.annotate(name, (places[-1] + 0.06, below), fontsize=7, va="center")
    half = stats.sem(table) * stats.t.ppf(0.975, max(1, len(table) - 1))
    axis.errorbar(places, table.mean(), yerr=half, fmt="D", color="C0", capsize=4, label="mean, 95 % interval")
    axis.set_xticks(places, table.columns, fontsize=8)
    axis.set_xlim(-0.3, places[-1] + 0.6)
    axis.set_ylabel(label, fontsize=8)
    axis.legend(fontsize=8)
    ranges = [f"{name} {column.min():.3g} to {column.max():.3g}" for name, column in table.items()]
    return described(figure, f"A line for each person, {label}: {'; '.join(ranges)}")


def claim(words, holds, strict=True):
    """Prints a claim, or that it does not hold here; where `strict` (the committed run) that is an AssertionError."""
    assert holds or not strict, f"no longer holds: {words}"
    print(words if holds else f"does not hold here: {words}")


def markdown(table):
    """A pandas table, its index the first column, as Markdown."""
    table = table.reset_index().astype(str)
    return "\n".join(
        f"| {' | '.join(line)} |"
        for line in [list(table.columns), ["---"] * len(table.columns), *table.values.tolist()]
    )
