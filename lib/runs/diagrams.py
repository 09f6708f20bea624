"""Diagrams: the system B in both tuning steps, and the time line on which gamma decides about the prompt."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

DPI = 100
TRAINED, FROZEN, TEXT, LINE = "#f0a35e", "#d5dbe3", "#e8f0d8", "#444444"
BOXES = {  # name: (x, y, width, label)
    "input": (0.2, 1.6, 1.5, "degraded\nreference"),
    "cleaner": (2.2, 1.6, 1.3, "cleaner"),
    "vae": (4.0, 1.6, 1.5, "VAE encoder"),
    "E": (6.2, 1.6, 1.2, "E"),
    "G": (9.0, 1.6, 1.2, "G"),
    "noise": (9.0, 3.0, 1.2, "$x_t$"),
    "loss": (11.2, 1.6, 2.2, r"$\|\hat\epsilon-\epsilon\|^2$"),
}
ARROWS = (
    ("input", "cleaner", ""),
    ("cleaner", "vae", ""),
    ("vae", "E", "hint"),
    ("E", "G", "residuals"),
    ("G", "loss", r"$\hat\epsilon$"),
)


def tuning_steps(prompt, gamma):
    """B in step 1 (eq. 6) and in step 2 (eq. 7): what is trained, what is frozen, and which network has which prompt.

    Args: prompt, the text pivot; gamma in [0, 1]. Returns a matplotlib figure.
    """
    figure, axes = plt.subplots(3, 1, figsize=(9, 6.4), dpi=DPI, height_ratios=(4, 4, 2), layout="constrained")
    _system(axes[0], "Step 1, textual pivot (eq. 6): the text is fixed, G is trained", "G", f"“{prompt}”")
    second = f"“{prompt}” below $(1-\\gamma)T$,\nempty above"
    _system(axes[1], "Step 2, model pivot (eq. 7): the personalised G is fixed, E is trained", "E", second)
    _time_line(axes[2], gamma)
    plt.close(figure)  # or the notebook shows it twice
    return figure


def _system(axis, title, trained, text_of_G):
    axis.set(xlim=(0, 13.6), ylim=(-0.9, 4.1))
    axis.axis("off")
    axis.set_title(title, fontsize=9, loc="left")
    for name, (x, y, width, label) in BOXES.items():
        if name in ("noise", "loss", "input"):
            axis.text(x + width / 2, y + 0.45, label, ha="center", va="center", fontsize=9)
        else:
            colour = TRAINED if name == trained else FROZEN
            label = "$G_p$" if name == "G" and trained == "E" else label
            _box(axis, x, y, width, 0.9, label, colour)
    for start, end, label in ARROWS:
        _arrow(axis, start, end, label)
    axis.annotate("", (9.6, 2.6), (9.6, 3.2), arrowprops={"arrowstyle": "->", "color": LINE})
    axis.annotate("", (6.8, 2.6), (9.2, 3.4), arrowprops={"arrowstyle": "->", "color": LINE})
    for middle, x, side, label in ((6.8, 7.6, "right", "empty prompt, always"), (9.6, 8.3, "left", text_of_G)):
        axis.annotate("", (middle, 1.5), (middle, 0.75), arrowprops={"arrowstyle": "->", "color": LINE})
        axis.text(x, 0.25, label, ha=side, va="center", fontsize=8, bbox={"fc": TEXT, "ec": "none"})
    axis.text(0.2, -0.5, "orange: trained", fontsize=8, color="#b8651b")
    axis.text(2.4, -0.5, "grey: frozen", fontsize=8, color="#5b6470")


def _box(axis, x, y, width, height, label, colour):
    style = "round,pad=0.02,rounding_size=0.1"
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=colour, ec=LINE, lw=0.8))
    axis.text(x + width / 2, y + height / 2, label, ha="center", va="center", fontsize=9)


def _arrow(axis, start, end, label):
    x0, x1 = BOXES[start][0] + BOXES[start][2], BOXES[end][0]
    y = BOXES[start][1] + 0.45
    axis.annotate("", (x1, y), (x0, y), arrowprops={"arrowstyle": "->", "color": LINE})
    axis.text((x0 + x1) / 2, y + 0.12, label, ha="center", va="bottom", fontsize=8)


def _time_line(axis, gamma):
    """Steps t from noise (left) to the picture (right): where G is tuned and where it has the prompt."""
    end = (1 - gamma) * 1000
    axis.set(xlim=(1000, 0), ylim=(0, 3), yticks=(0.5, 1.5, 2.5), xlabel="step t, from noise to picture")
    axis.set_yticklabels(["restoration: prompt of G", "step 2: E trained on", "step 1: G trained on"], fontsize=8)
    for y, parts in ((2.15, [(0, end, TRAINED)]), (1.15, [(0, 1000, TRAINED)]), (0.15, [(0, end, TEXT)])):
        for low, high, colour in parts:
            axis.barh(y + 0.35, high - low, left=low, height=0.7, color=colour)
    axis.text(end / 2, 0.5, "the person's prompt", ha="center", va="center", fontsize=8)
    axis.text((end + 1000) / 2, 0.5, "empty prompt" if gamma else "", ha="center", va="center", fontsize=8)
    axis.axvline(end, color=LINE, lw=0.8, ls="--")
    title = rf"$\gamma$ = {gamma:g}: the dashed line is t = (1 $-$ $\gamma$) T = {end:.0f}"
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_size(8)
