"""Figures of a user study: dot plots with intervals in place of pies, items side by side, power curves."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from PIL import Image

from lib.runs.figures import DPI, described, grid

SHOWN = 96  # pixels of a picture in a grid of items: many of them fit into a notebook


def dots(tables, label, lines=None, title=None):
    """A dot and its 95 % interval for each row: a colour for each table, and named lines across them.

    Args: tables, name -> table with the columns share (or strength), low and high, rows in the order to be read; label,
    of the axis; lines, name -> where, such as chance; title. Returns a matplotlib figure.
    """
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    size = (7, 0.34 * len(names) * (1 + 0.35 * (len(tables) - 1)) + 1.1 + 0.3 * (len(tables) > 1))
    figure, axis = plt.subplots(figsize=size, dpi=DPI, layout="constrained")
    words = []
    for k, (name, table) in enumerate(tables.items()):
        offset = (k - (len(tables) - 1) / 2) * 0.28
        places = [names.index(row) + offset for row in table.index]
        middle = table.iloc[:, 0]
        errors = [middle - table.low, table.high - middle]
        axis.errorbar(middle, places, xerr=errors, fmt="osD^"[k % 4], ms=5, capsize=3, color=f"C{k}", label=name)
        ends = zip(table.index, middle, table.low, table.high)
        words += [f"{row} {name}: {x:.2f} [{low:.2f}, {high:.2f}]" for row, x, low, high in ends]
    for name, where in (lines or {}).items():
        axis.axvline(where, color="0.4", lw=0.9, ls="--")
        axis.annotate(name, (where, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(label, fontsize=8)
    axis.set_title(title, fontsize=9, loc="left", pad=16 if lines else 6)
    if len(tables) > 1:
        figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=len(tables), loc="outside lower center")
    return described(figure, f"{title or label}, with 95 % intervals. {'; '.join(words)}")


def choices(rows, arms, title):
    """Who chose which of two arms where: a row for each item, a column for each participant, both sorted by share.

    Args: rows, as of `quality.choices` of the second arm; arms, two names; title. White: not shown to that participant.
    """
    table = rows.pivot(index="item", columns="participant", values="y")
    table = table.loc[table.mean(axis=1).sort_values().index, table.mean().sort_values().index]
    figure, axis = plt.subplots(figsize=(7, 0.2 * len(table) + 1.2), dpi=DPI, layout="constrained")
    axis.imshow(table.to_numpy(float), cmap=ListedColormap(["#E69F00", "#0072B2"]), vmin=0, vmax=1, aspect="auto")
    axis.set_yticks(range(len(table)), table.index, fontsize=8)
    axis.set_xticks([])
    axis.set_xlabel("participants, by how often they chose the second", fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    marks = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ("#E69F00", "#0072B2")]
    figure.legend(marks, arms, fontsize=8, ncols=2, loc="outside lower center")
    return described(
        figure, f"{title}: a coloured cell for each choice, {len(table)} items, {table.shape[1]} participants"
    )


def item_shares(table, arms, title):
    """The share of every arm on every item, a row of dots for each item, as given. Returns a matplotlib figure."""
    figure, axis = plt.subplots(figsize=(7, 0.24 * len(table) + 1.1), dpi=DPI, layout="constrained")
    for k, arm in enumerate(arms):
        axis.plot(table[arm], range(len(table)), "osD^vX"[k % 6], ms=5, color=f"C{k}", label=arm)
    axis.set_yticks(range(len(table)), table.index, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(-0.03, 1.03)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="y", lw=0.4)
    axis.set_xlabel("share of choices on this item", fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=len(arms), loc="outside lower center")
    return described(figure, f"{title}: shares of {', '.join(arms)} on {len(table)} items")


def sets(items, names, arms, captions, title, references=2):
    """Whole items side by side, as Fig. 15 and Fig. 16 (a) show them: input, references, restorations and their shares.

    Args: items, dict of name to Item; names of those to show; arms; captions, name -> {arm: text}; title.
    """
    rows = []
    for item in (items[name] for name in names):
        shown = [item.input, *item.references[:references], *(item.restored[arm] for arm in arms)]
        rows.append(
            [np.asarray(Image.fromarray(one).resize((SHOWN, SHOWN * one.shape[0] // one.shape[1]))) for one in shown]
        )
    under = [[""] * (1 + references) + [captions[name].get(arm, "") for arm in arms] for name in names]
    columns = ["input", *["reference"] * references, *(textwrap.fill(arm, 14) for arm in arms)]
    return grid(rows, names, columns, title=title, cell=SHOWN, captions=under)


def power_curves(table, title, wanted=0.8):
    """Power against the number of participants, a curve for each number of items. Returns a matplotlib figure."""
    figure, axis = plt.subplots(figsize=(6, 3.2), dpi=DPI, layout="constrained")
    for k, (items, row) in enumerate(table.iterrows()):
        axis.plot(row.index, row, "osD^vX"[k % 6] + "-", ms=4, lw=1.2, color=f"C{k}", label=f"{items} items")
    axis.axhline(wanted, color="0.4", lw=0.9, ls="--")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("participants", fontsize=8)
    axis.set_ylabel("power", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    lines = [f"{items} items {np.round(row.to_numpy(), 2).tolist()}" for items, row in table.iterrows()]
    return described(figure, f"{title}: power over participants. {'; '.join(lines)}")
