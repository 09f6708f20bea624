"""Simulated observers, to test the analysis before anybody is asked. Their choices are never people's.

An observer gives each option of a trial a utility: what the arm is worth on average, how well it came out on this item,
how much this observer likes it, and noise. A lazy moment, or an observer with a habit, chooses a side without looking.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.user_study import answers, design


@dataclass(frozen=True)
class Crowd:
    """A population of observers, and of items.

    Args: worth, dict of arm to mean utility; observer and item, standard deviations of an arm's utility between
    observers and between items; lazy, share of choices made without looking; side, standard deviation over observers
    of a habit towards the first place (in utility); careless, share of observers who never look, and are fast; speed,
    median seconds of a choice. Noise is Gumbel's of scale 1, so choices follow Luce's rule.
    """

    worth: dict
    observer: float = 0.5
    item: float = 0.7
    lazy: float = 0.03
    side: float = 0.2
    careless: float = 0.0
    speed: float = 3.0


def answered(study, items, crowd, participants, seed=0, worth=None):
    """The answers of simulated participants to every trial of a study, as `answers.read_csv` returns them.

    Args: study; items, names; crowd; participants, how many; seed; worth, dict of (item, arm) to utility that comes on
    top, such as one made from metrics.
    """
    rng = np.random.default_rng(seed)
    arms = list(crowd.worth)
    on_item = {item: dict(zip(arms, crowd.item * rng.standard_normal(len(arms)))) for item in sorted(items)}
    known = {
        (item, arm): own[arm] + (worth or {}).get((item, arm), 0.0) for item, own in on_item.items() for arm in arms
    }
    rows = []
    for number in range(participants):
        likes = dict(zip(arms, crowd.observer * rng.standard_normal(len(arms))))
        habit, careless = crowd.side * rng.standard_normal(), rng.random() < crowd.careless
        lazy, speed = (1.0, 0.2 * crowd.speed) if careless else (crowd.lazy, crowd.speed)
        for index, trial in enumerate(design.trials_of(study, items, number)):
            utility = [crowd.worth[arm] + known[trial.item, arm] + likes[arm] if arm else -8.0 for arm in trial.options]
            rows.append(_row(number, index, trial, _choice(utility, habit, lazy, rng), speed, rng))
    return answers.checked(pd.DataFrame(rows), "simulated answers")


def _choice(utility, habit, lazy, rng):
    """The place that is chosen: the largest of utility and noise, or any place in a lazy moment."""
    noisy = np.array(utility) * (rng.random() >= lazy) + rng.gumbel(size=len(utility))
    noisy[0] += habit
    return int(noisy.argmax())


def _row(number, index, trial, position, speed, rng):
    seconds = round(float(speed * rng.lognormal(0, 0.4)), 2)
    row = dict(
        origin=answers.SIMULATED, participant=number, trial=index, part=trial.part, kind=trial.kind, item=trial.item
    )
    row |= dict(options=answers.joined(trial.options), position=position, seconds=seconds)
    correct = None if trial.right is None else int(position == trial.right)
    return row | dict(chosen=answers.named(trial.options[position]), correct=correct)


def pairs(rng, studies, participants, items, crowd):
    """Whole simulated studies of pairs at once: choices (studies, participants, items), True for the second arm.

    Sides are balanced as `design` balances them, and everybody sees every item.
    """
    first, second = crowd.worth.values()
    shape = studies, participants, items
    likes = crowd.observer * np.sqrt(2) * rng.standard_normal((studies, participants, 1))  # of a difference of two
    on_item = crowd.item * np.sqrt(2) * rng.standard_normal((studies, 1, items))
    sides = np.where((np.arange(items) + np.arange(participants)[:, None]) % 2, 1.0, -1.0)
    habit = crowd.side * rng.standard_normal((studies, participants, 1)) * sides
    looks = rng.random(shape) >= crowd.lazy
    difference = (second - first + likes + on_item) * looks + habit
    return difference + rng.logistic(size=shape) > 0


def share(crowd):
    """The share of the second of two arms in the whole population of observers and items, by Gauss-Hermite quadrature.

    It is what `pairs` estimates, closer to one half than the logistic of the worths' difference.
    """
    first, second = crowd.worth.values()
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    weights = weights / weights.sum()
    spread = np.sqrt(2 * (crowd.observer**2 + crowd.item**2) + crowd.side**2)
    lazy = 0.5  # habits are as often towards one side as the other
    return float(
        (1 - crowd.lazy) * (weights / (1 + np.exp(-(second - first + spread * nodes)))).sum() + crowd.lazy * lazy
    )


def with_share(crowd, wanted):
    """The crowd with its second arm's worth moved so that `share` is the wanted one."""
    from scipy.optimize import brentq

    (first, low), second = list(crowd.worth.items())[0], list(crowd.worth)[1]

    def moved(x):
        return replace(crowd, worth={first: low, second: low + x})

    return moved(brentq(lambda x: share(moved(x)) - wanted, -12, 12))


def sets(rng, studies, participants, items, crowd):
    """Whole simulated studies of part B at once: chosen arms (studies, participants, items), by their place in `worth`.

    Everybody sees every item; the place of an arm moves on as in `design`.
    """
    worth = np.array(list(crowd.worth.values()))
    shape = studies, participants, items, len(worth)
    likes = crowd.observer * rng.standard_normal((studies, participants, 1, len(worth)))
    utility = worth + likes + crowd.item * rng.standard_normal((studies, 1, items, len(worth)))
    utility = utility * (rng.random((*shape[:3], 1)) >= crowd.lazy)
    places = (np.arange(participants)[:, None, None] + np.arange(items)[:, None] + np.arange(len(worth))) % len(worth)
    habit = crowd.side * rng.standard_normal((studies, participants, 1, 1)) * (places == 0)
    return (utility + habit + rng.gumbel(size=shape)).argmax(-1)


def arm_shares(crowd, seed=0):
    """The arms' shares in the whole population, by three million simulated choices (standard error 0.0003)."""
    rng = np.random.default_rng([seed, 99])
    chosen = np.concatenate([sets(rng, 1000, 300, 1, crowd).ravel() for _ in range(10)])
    return np.bincount(chosen, minlength=len(crowd.worth)) / len(chosen)
