"""How often something was chosen, with intervals that know that participants and items are both samples.

Everything here works on a table of answers to one question (columns participant, item) and a column of numbers `y`,
such as 1 where an arm was chosen and 0 where not.
"""

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95


def wilson(y):
    """The share of ones and its 95 % Wilson interval, as if all answers were independent: (share, low, high)."""
    y = np.asarray(y)
    low, high = proportion_confint(y.sum(), len(y), alpha=1 - LEVEL, method="wilson")
    return float(y.mean()), float(low), float(high)


def binomial(y, chance=0.5):
    """The exact two-sided binomial p-value of the number of ones, as if all answers were independent."""
    y = np.asarray(y)
    return float(stats.binomtest(int(y.sum()), len(y), chance).pvalue)


def two_way(participant, item, y):
    """The mean of y and its standard error when participants and items are both random samples.

    Var(mean) = V_participants + V_items - V_answers: sums of squared residuals by participant, by item and by answer
    (Cameron, Gelbach and Miller 2011, eq. 2.4), the last of what neither explains, each with its small-sample factor.
    The degrees of freedom are Satterthwaite's (1946) for that sum. For a full crossing it is the two-way analysis of
    variance, (MS_participants + MS_items - MS_rest) / (N M). The variance is at least the larger of the first two:
    where their sum less the last falls below that, one of the effects is estimated as less than none.

    Args: participant, item, labels; y, numbers, one for each answer. Returns (mean, standard error, degrees).
    """
    rows, columns = pd.factorize(np.asarray(participant))[0], pd.factorize(np.asarray(item))[0]
    return _two_way(rows, columns, np.asarray(y, float))


def _two_way(rows, columns, y):
    n, (N, M) = len(y), (rows.max() + 1, columns.max() + 1)
    mean, e = y.mean(), y - y.mean()
    by_row, by_column = np.bincount(rows, e, N), np.bincount(columns, e, M)
    rest = (
        e - (by_row / np.bincount(rows, minlength=N))[rows] - (by_column / np.bincount(columns, minlength=M))[columns]
    )
    own = max(n - N - M + 1, 1)
    V = np.array([N / max(N - 1, 1) * (by_row**2).sum(), M / max(M - 1, 1) * (by_column**2).sum(),
                  n / own * (rest**2).sum()]) / n**2  # fmt: skip
    total = max(V[0] + V[1] - V[2], V[0], V[1])
    spread = V[0] ** 2 / max(N - 1, 1) + V[1] ** 2 / max(M - 1, 1) + V[2] ** 2 / own
    df = total**2 / spread if spread > 0 else 1.0
    return float(mean), float(np.sqrt(total)), float(max(df, 1.0))


def interval_of(rows, columns, y):
    """`interval` of labels that are numbers from 0 already."""
    share, error, df = _two_way(rows, columns, y)
    return _interval(share, error, df, min(rows.max(), columns.max()) + 1)


def crossed(y):
    """`interval_of` of many whole studies at once, in which every participant saw every item.

    Args: y, (studies, participants, items). Returns share, low and high, each (studies,).
    """
    y = np.asarray(y, float)
    _, N, M = y.shape
    n, own = N * M, max(N * M - N - M + 1, 1)
    share = y.mean((1, 2))
    e = y - share[:, None, None]
    by_row, by_column = e.sum(2), e.sum(1)  # (studies, participants), (studies, items)
    rest = e - by_row[:, :, None] / M - by_column[:, None, :] / N
    V = np.stack([N / max(N - 1, 1) * (by_row**2).sum(1), M / max(M - 1, 1) * (by_column**2).sum(1),
                  n / own * (rest**2).sum((1, 2))]) / n**2  # fmt: skip
    total = np.maximum(V[0] + V[1] - V[2], np.maximum(V[0], V[1]))
    spread = V[0] ** 2 / max(N - 1, 1) + V[1] ** 2 / max(M - 1, 1) + V[2] ** 2 / own
    df = np.maximum(1.0, total**2 / np.where(spread > 0, spread, 1.0))
    few = np.array(proportion_confint(share * min(N, M), min(N, M), alpha=1 - LEVEL, method="wilson"))
    flat = (total == 0) | (share <= 0) | (share >= 1)
    inner = np.where(flat, 0.5, share)
    half = stats.t.ppf(0.5 + LEVEL / 2, df) * np.sqrt(total) / (inner * (1 - inner))
    ends = [1 / (1 + np.exp(half * sign - np.log(inner / (1 - inner)))) for sign in (1, -1)]
    return share, *(np.where(flat, one, end) for one, end in zip(few, ends))


def crossed_bootstrap(y, draws, rng):
    """Resampled means (studies, draws) of `resampled`, for studies as of `crossed`; all have the same draws."""
    _, N, M = y.shape
    people, pictures = (rng.multinomial(k, np.full(k, 1 / k), draws) for k in (N, M))  # (draws, N), (draws, M)
    by_item = np.einsum("dn,snm->sdm", people, np.asarray(y, float), optimize=True)  # (studies, draws, items)
    return np.einsum("sdm,dm->sd", by_item, pictures) / (N * M)


def interval(participant, item, y):
    """A share and its 95 % interval over participants and items: (share, low, high).

    Student's t on the log-odds, with the standard error and degrees of freedom of `two_way`; so it stays in [0, 1] and
    is wider towards one half. A share of 0 or 1 has no spread to see: Wilson's interval for as many answers as there
    are participants or items, whichever are fewer.
    """
    rows, columns = pd.factorize(np.asarray(participant))[0], pd.factorize(np.asarray(item))[0]
    return interval_of(rows, columns, np.asarray(y, float))


def _interval(share, error, df, fewest):
    if not 0 < share < 1 or error == 0:
        return share, *map(float, proportion_confint(share * fewest, fewest, alpha=1 - LEVEL, method="wilson"))
    half = stats.t.ppf(0.5 + LEVEL / 2, df) * error / (share * (1 - share))  # d logit(p) = dp / (p (1 - p))
    odds = np.log(share / (1 - share))
    return float(share), *(float(1 / (1 + np.exp(-x))) for x in (odds - half, odds + half))


def p_value(participant, item, y, chance=0.5):
    """The two-sided p-value of a share against chance, by the t of `interval`: below 0.05 where that excludes it."""
    share, error, df = two_way(participant, item, y)
    if not 0 < share < 1 or error == 0:
        fewest = min(len(set(participant)), len(set(item)))
        return float(stats.binomtest(round(share * fewest), fewest, chance).pvalue)
    t = (np.log(share / (1 - share)) - np.log(chance / (1 - chance))) / (error / (share * (1 - share)))
    return float(2 * stats.t.sf(abs(t), df))


def resampled(participant, item, draws, rng):
    """Weights (draws, answers) of a bootstrap of participants and items: each answer counts as often as both are drawn.

    Owen (2007): the "pigeonhole" bootstrap, which draws participants and items independently.
    """
    rows, columns = pd.factorize(np.asarray(participant))[0], pd.factorize(np.asarray(item))[0]
    N, M = rows.max() + 1, columns.max() + 1
    drawn = rng.multinomial(N, np.full(N, 1 / N), draws)[:, rows]  # (draws, answers)
    return drawn * rng.multinomial(M, np.full(M, 1 / M), draws)[:, columns]


def bootstrap(participant, item, y, draws=2000, seed=0):
    """A share and its 95 % percentile interval of `resampled` means: (share, low, high)."""
    y = np.asarray(y, float)
    weights = resampled(participant, item, draws, np.random.default_rng(seed))
    means = weights @ y / weights.sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(y.mean()), float(low), float(high)
