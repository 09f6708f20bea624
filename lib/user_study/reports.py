"""Recorded results of the user study in the words and the table that README shows."""

import pandas as pd

SIZE, SPREADS = (30, 11), (0.5, 0.7)  # participants and pairs of the paper; spreads between observers and items


def load_words(row):
    """One sentence about a recorded load test, the row of its record."""
    whole = row["participants"] * row["trials_each"]
    return (
        f"{row['participants']} simulated participants at once, the server killed {row['kills']} times: "
        f"{row['stored']} of {whole} answers kept, {row['doubled']} doubled, half of the replies within "
        f"{row['p50_ms']:.0f} ms and 99 % within {row['p99_ms']:.0f} ms"
    )


def promises(metrics):
    """What simulated studies of the paper's size say about the intervals, from the rows of notebook 08's record."""
    rows = pd.DataFrame(metrics)
    cover = rows[(rows.what == "coverage") & (rows.participants == SIZE[0]) & (rows["items"] == SIZE[1])]
    cover = cover[(cover.observer == SPREADS[0]) & (cover["item"] == SPREADS[1])]
    held = cover.groupby("method").coverage.agg(["min", "max"])
    false = rows[(rows.what == "false positives") & (rows.observer == SPREADS[0]) & (rows["item"] == SPREADS[1])]
    strengths = rows[rows.what == "part B"].groupby("method").coverage.agg(["min", "max"])
    found = {
        "coverage of t, participants and items": _range(held.loc["t"]),
        "coverage of the bootstrap, participants and items": _range(held.loc["bootstrap"]),
        "coverage of Wilson, answers taken for independent": _range(held.loc["Wilson"]),
        "false positives of t at 5 %": f"{false.value.iloc[0]:.1%}",
        "part B: coverage of shares by t": _range(strengths.loc["share, t"]),
        "part B: coverage of strengths by the bootstrap": _range(strengths.loc["strength, bootstrap"]),
        "preference that is found with 80 % power": f"{rows[rows.what == 'detectable'].value.iloc[0]:.0%}",
    }
    return pd.Series(found, name="measured").rename_axis("SIMULATED studies, 95 % intervals").to_frame()


def _range(row):
    low, high = f"{row['min']:.1%}", f"{row['max']:.1%}"
    return low if low == high else f"{low} to {high}"
