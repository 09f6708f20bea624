"""Which trials a participant sees, in which order and on which sides: drawn by the seed, and balanced by construction.

Participants come in groups as large as there are arms. A group sees the same items, those shown least so far. From one
member to the next every item's options move one place on, so within a group each arm is once in each place. Every
second member sees the items in the reverse order, so over such a pair all items come equally early.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

PRACTICE, TRIAL, REPEAT, ATTENTION = "practice", "trial", "repeat", "attention"


@dataclass(frozen=True)
class Trial:
    """One screen: a part's question about one item, the arms in the places in which they are shown.

    In practice and attention trials one option is as it was restored, and the others are None: spoiled.
    """

    part: str
    kind: str
    item: str
    options: tuple

    @property
    def right(self):
        """The place of the only intact option; None where there is no right answer."""
        return next(k for k, arm in enumerate(self.options) if arm) if None in self.options else None


def trials_of(study, items, participant):
    """The trials of a participant, in order.

    Args: study; items, names of all items; participant, whole number from 0, in the order in which they came.
    Returns a list of Trial. The same arguments give the same list, on every machine.
    """
    return [trial for part in study.parts for trial in _part_trials(study.seed, part, sorted(items), participant)]


def _part_trials(seed, part, items, participant):
    group, member = divmod(participant, len(part.arms))
    shown = _items_of_group(seed, part, items, group)
    own = _generator(seed, part, "own", participant)
    trials = [_trial(seed, part, item, group, place, member) for place, item in enumerate(shown)]
    again = [trials[int(k)] for k in own.permutation(len(trials))[: part.repeats]]
    trials = trials[::-1] if member % 2 else trials
    trials += [Trial(part.name, REPEAT, one.item, one.options[::-1]) for one in again]
    for k in range(part.attention):
        place = round((k + own.uniform(0.5, 1.0)) * len(trials) / part.attention)
        trials.insert(place, _obvious(part, ATTENTION, items, own, participant + k))
    return [_obvious(part, PRACTICE, items, own, participant + k + 1) for k in range(part.practice)] + trials


def _items_of_group(seed, part, items, group):
    """The items of a group in order: those shown least so far, equals in random order."""
    views = Counter()
    for g in range(group + 1):
        order = [items[k] for k in _generator(seed, part, "items", g).permutation(len(items))]
        chosen = sorted(order, key=lambda item: views[item])[: part.trials]
        views.update(chosen)
    return [chosen[k] for k in _generator(seed, part, "order", group).permutation(len(chosen))]


def _trial(seed, part, item, group, place, member):
    """One of a Latin square: in each block of items, every arm is once in every place, beside changing neighbours."""
    k, (block, row) = len(part.arms), divmod(place, len(part.arms))
    square = _generator(seed, part, f"square {block}", group)
    order, rows = square.permutation(k), square.permutation(k)
    turned = np.roll(order, int(rows[row]) + member)
    return Trial(part.name, TRIAL, item, tuple(part.arms[i] for i in turned))


def _obvious(part, kind, items, own, turn):
    """One intact restoration, the others spoiled; the intact one moves on with `turn`."""
    item, arm = items[int(own.integers(len(items)))], part.arms[int(own.integers(len(part.arms)))]
    right = turn % len(part.arms)
    return Trial(part.name, kind, item, tuple(arm if k == right else None for k in range(len(part.arms))))


def _generator(seed, part, what, number):
    """A generator of its own for each use, so that changing one draw moves no other."""
    return np.random.default_rng([seed, number, *f"{part.name} {what}".encode()])


def imbalance(study, items, participants):
    """How far the trials of so many participants are from balance: dict of part to worst differences.

    "own places": how often one participant sees an arm in one place and in another; "places": the same for an item over
    all participants; "views": how often one item is shown and another; "order": an item's mean place and the middle.
    "own places" and "places" are 1 at most; "places" is 0 after whole groups, and "order" if they are even; "views" is
    the size of a group at most, and 0 where everybody sees every item.
    """
    lists = [trials_of(study, items, participant) for participant in range(participants)]
    return {part.name: _part_imbalance(part, sorted(items), lists) for part in study.parts}


def _part_imbalance(part, items, lists):
    mine = [[trial for trial in some if (trial.part, trial.kind) == (part.name, TRIAL)] for some in lists]
    places = np.zeros((len(mine), len(items), len(part.arms), len(part.arms)), int)  # participant, item, arm, place
    order = np.full((len(mine), len(items)), np.nan)
    for i, trials in enumerate(mine):
        for when, trial in enumerate(trials):
            order[i, items.index(trial.item)] = when
            for place, arm in enumerate(trial.options):
                places[i, items.index(trial.item), part.arms.index(arm), place] += 1
    views = places.sum((0, 2, 3)) // len(part.arms)
    middle = (part.trials - 1) / 2
    means = [np.nanmean(column) for column in order.T if not np.isnan(column).all()]
    return {
        "own places": int(np.ptp(places.sum(1), axis=-1).max()),
        "places": int(np.ptp(places.sum(0), axis=-1).max()),
        "views": int(np.ptp(views)),
        "order": float(np.abs(np.array(means) - middle).max()),
    }
