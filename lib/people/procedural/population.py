"""Procedural people by name: the seed of a person decides the genes, and its last digit the split."""

import re
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from lib.errors import BadPersonError, BadSizeError, SplitError
from lib.people.procedural import portrait
from lib.people.procedural.captions import caption
from lib.people.procedural.genes import KINDS, Genes
from lib.people.procedural.shots import draw_shot

SPLITS = ("train", "development", "test")
SMALLEST = 32


def _natural(value, what):
    """`value` as an int. Raises BadPersonError unless it is a whole number from 0 to 2**63 - 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise BadPersonError(f"{what} is not a whole number >= 0: {value!r}. Remedy: give an int such as 1234")
    return int(value)


@dataclass(frozen=True)
class ProceduralPerson:
    """A drawn person, known exactly by a seed (int >= 0). Raises BadPersonError for another seed."""

    seed: int

    def __post_init__(self):
        object.__setattr__(self, "seed", _natural(self.seed, "person seed"))

    @property
    def name(self):
        """The person's name, such as "people:1234", which `parse` reads."""
        return f"people:{self.seed}"

    @property
    def split(self):
        """The split by the last digit of the seed: "train" for 0-7, "development" for 8, "test" for 9."""
        return {8: "development", 9: "test"}.get(self.seed % 10, "train")

    @cached_property
    def genes(self):
        """The person's `Genes`."""
        return Genes.draw(self.seed)

    def gene_vector(self):
        """All genes as float32 (K,) in [-1, 1]: floats, then one-hot kinds, then up to four moles (x, y, present)."""
        numbers = [v for v in astuple(self.genes) if isinstance(v, float)]
        for name, kinds in KINDS.items():
            numbers += [float(kind == getattr(self.genes, name)) for kind in dict.fromkeys(kinds)]
        moles = [v for x, y, _ in self.genes.moles for v in (x, (y - 0.35) / 1.2, 1.0)]
        return np.array(numbers + moles + [0.0] * (12 - len(moles)), np.float32)

    def shot(self, k):
        """The k-th shot (k >= 0) of this person, always the same. Raises BadPersonError for another k."""
        return draw_shot(self.seed, _natural(k, "shot number"))


def parse(name):
    """The ProceduralPerson called "people:<digits>". Raises BadPersonError for any other text."""
    if not isinstance(name, str) or not re.fullmatch(r"people:[0-9]{1,18}", name):
        raise BadPersonError(f"not a procedural person: {name!r}. Remedy: write people:<digits>, such as people:1234")
    return ProceduralPerson(int(name[7:]))


def _check_split(split):
    if split not in SPLITS:
        raise SplitError(f"unknown split: {split!r}. Remedy: use one of {', '.join(SPLITS)}")


def people_of(split, count, start=0):
    """A list of `count` people of one split, without its first `start`. Raises SplitError, BadPersonError."""
    _check_split(split)
    digits = [d for d in range(10) if ProceduralPerson(d).split == split]
    first = _natural(start, "start")
    numbers = range(first, first + _natural(count, "count"))
    return [ProceduralPerson(10 * (i // len(digits)) + digits[i % len(digits)]) for i in numbers]


def require(people, split):
    """The people unchanged, if each is of `split`. Raises SplitError with the first who is not."""
    _check_split(split)
    for person in people:
        if person.split != split:
            raise SplitError(
                f"{person.name} is of the {person.split} split, not {split}: the splits never mix. "
                f"Remedy: take people from people_of({split!r}, count)"
            )
    return people


@dataclass(frozen=True)
class Portraits:
    """A batch of drawn pictures, with the landmarks, captions and region masks that belong to them."""

    pictures: np.ndarray  # uint8 (N, S, S, 3), RGB
    landmarks: np.ndarray  # float32 (N, 68, 2), x and y in pixels, iBUG order; pixel (0, 0) covers 0..1
    captions: list  # N texts
    masks: dict | None  # region -> uint8 (N, S, S)


def render(pairs, size=128, masks=False):
    """Draw people in shots. Each picture depends on its own pair only, so batches do not change it.

    Args: pairs of (ProceduralPerson, Shot); size, pixels, at least SMALLEST; masks, whether the six region masks are
    drawn, too. Returns Portraits. Raises BadSizeError.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < SMALLEST:
        raise BadSizeError(f"picture size is not a whole number >= {SMALLEST}: {size!r}. Remedy: use 128")
    pictures = np.zeros((len(pairs), size, size, 3), np.uint8)
    points = np.zeros((len(pairs), 68, 2), np.float32)
    regions = {name: np.zeros((len(pairs), size, size), np.uint8) for name in portrait.REGIONS} if masks else None
    for n, (person, shot) in enumerate(pairs):
        pictures[n], points[n], drawn = portrait.draw(person.genes, shot, int(size), masks)
        for name in regions or ():
            regions[name][n] = drawn[name]
    return Portraits(pictures, points, [caption(person, shot) for person, shot in pairs], regions)
