"""What the photo system was to reach, beside what was recorded: notebooks 12 (quality) and 13 (people)."""

import pandas as pd

from lib.studies.held_out_tables import kind_of_identity
from lib.studies.statistics import interval

AUTOENCODER, CLEANER = 28.0, 1.5  # dB: through the autoencoder; of the cleaner over its input
LPIPS = 0.5  # of blind restoration, as a fraction of the degraded photograph's
IDENTITY, PSNR = 0.15, -0.6  # dual pivot over blind; PSNR in dB


def table(quality, people):
    """Every aim with the range that was measured, and whether all of it reaches the aim.

    Args: quality, rows of notebook 12's record; people, rows of notebook 13's. Identity is measured by every
    recogniser, and each interval must lie above zero too. Tunings of other lengths are left out. Returns a DataFrame
    indexed by what is measured, and on whom.
    """
    return (
        pd.DataFrame([*_quality(quality), *_people(people)])
        .set_index(["what", "measured on"])
        .sort_index(level="what", sort_remaining=False)
    )


def _quality(rows):
    known = pd.DataFrame([row for row in rows if "PSNR (dB)" in row])
    for photographs, part in known.groupby("photographs", sort=False):
        wide = part.pivot(index="recipe", columns="picture", values=["PSNR (dB)", "gain", "LPIPS"])
        yield _line("autoencoder (dB)", photographs, wide["PSNR (dB)"].autoencoder, least=AUTOENCODER)
        yield _line("cleaner over its input (dB)", photographs, wide["gain"].cleaned, least=CLEANER)
        yield _line("LPIPS, blind / degraded", photographs, wide["LPIPS"].blind / wide["LPIPS"].degraded, most=LPIPS)


def _people(rows):
    known = pd.DataFrame([row for row in rows if "arm" in row and not row["person"].endswith("the steps")])
    for person, part in known.groupby("person", sort=False):
        wide = part.pivot_table(index=["metric", "fold", "image"], columns="arm", values="value")
        metrics = wide.index.unique("metric")
        kind = kind_of_identity(metrics)
        gains = [wide.loc[m, "dual pivot"] - wide.loc[m, "blind"] for m in metrics if m.startswith(kind)]
        yield _line("identity, dual pivot - blind", person, *_means_and_lows(gains), least=IDENTITY)
        if kind == "identity ":  # degraded heavily, with a ground truth
            over = [wide.loc[m, "dual pivot"] - wide.loc[m, "input"] for m in metrics if m.startswith(kind)]
            yield _line("identity, dual pivot - degraded", person, *_means_and_lows(over), least=0.0)
            loss = (wide.loc["psnr", "dual pivot"] - wide.loc["psnr", "blind"]).mean()
            yield _line("PSNR, dual pivot - blind (dB)", person, [loss], least=PSNR)


def _means_and_lows(differences):
    found = [interval(one) for one in differences]
    return [one["mean"] for one in found], [one["low"] for one in found]


def _line(what, where, values, lows=(), *, least=None, most=None):
    low, high = min(values), max(values)
    met = (low >= least if least is not None else high <= most) and all(bound > 0 for bound in lows)
    aim = f"at least {least:g}" if least is not None else f"at most {most:g}"
    measured = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    aim += ", intervals above 0" if len(lows) else ""
    return {"what": what, "measured on": where, "aim": aim, "measured": measured, "met": "yes" if met else "no"}
