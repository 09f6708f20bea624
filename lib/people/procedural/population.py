"""Procedural people: a person is a fixed draw of genes, a shot is a draw of circumstance, both from seeds.

No consent is needed, identity is known exactly, landmarks are exact. Drawing is in `lib.people.procedural.portrait`.
"""

import colorsys
import re
from dataclasses import astuple, dataclass, fields
from functools import cached_property

import numpy as np

from lib.errors import BadPersonError, BadSizeError, SplitError
from lib.people.procedural import hair, portrait

SPLITS = ("train", "development", "test")
SMALLEST = 32
GENE_STREAM, SHOT_STREAM = 11, 23
KINDS = {
    "iris": ("blue", "green", "brown", "hazel", "grey", "amber", "turquoise", "violet"),
    "hair": (
        "bald",
        "cropped",
        "short",
        "spiky",
        "parted",
        "curly",
        "frizzy",
        "medium",
        "long",
        "wavy",
        "tied",
        "fringed",
    ),
    "hair_colour": ("black", "brown", "blond", "red", "grey", "white", "auburn"),
    "beard": ("none", "none", "none", "none", "stubble", "moustache", "goatee", "beard"),
    "glasses": ("none", "none", "none", "round", "square", "oval"),
    "scar": ("none", "none", "none", "none", "none", "brow", "cheek", "chin", "forehead", "nose"),
    "freckles": ("none", "none", "light", "strong"),
    "earring": ("none", "none", "none", "stud", "hoop"),
}
WORDS = (
    (
        "a",
        "photo",
        "of",
        "person",
        "with",
        ",",
        "eyes",
        "hair",
        "glasses",
        "smiling",
        "serious",
        "frowning",
        "open",
        "mouth",
        "freckles",
        "scar",
        "stubble",
        "moustache",
        "goatee",
        "beard",
        "round",
        "square",
        "oval",
        "earrings",
        "looking",
        "left",
        "right",
    )
    + KINDS["iris"]
    + tuple(word for word in KINDS["hair"] + KINDS["hair_colour"] if word not in KINDS["iris"])
)
WORDS = tuple(dict.fromkeys(WORDS))


@dataclass(frozen=True)
class Genes:
    """What stays the same in every picture of a person: floats in [-1, 1], words from `KINDS`, and mark positions."""

    face_width: float
    jaw: float
    chin_width: float
    chin_length: float
    cheek: float
    forehead: float
    skin_tone: float
    undertone: float
    blush: float
    iris_shade: float
    iris_size: float
    limbal_ring: float
    eye_size: float
    eye_width: float
    eye_tilt: float
    eye_slant: float
    eye_spacing: float
    eye_crease: float
    lashes: float
    brow_thickness: float
    brow_taper: float
    brow_height: float
    brow_arch: float
    brow_tilt: float
    brow_length: float
    brow_shade: float
    nose_width: float
    nose_length: float
    nose_tip: float
    nose_bridge: float
    mouth_width: float
    mouth_height: float
    upper_lip: float
    lower_lip: float
    cupid: float
    lip_colour: float
    ears: float
    wrinkles: float
    hair_shade: float
    hair_volume: float
    hair_side: float
    hairline: float
    scar_place: float
    iris: str
    hair: str
    hair_colour: str
    beard: str
    glasses: str
    scar: str
    freckles: str
    earring: str
    moles: tuple  # of (x, y, radius), face units
    marks: int  # seed of strands and freckles

    @staticmethod
    def draw(seed):
        """Independent draws of every gene from the person's seed."""
        rng = np.random.default_rng([GENE_STREAM, seed])
        values = {f.name: float(rng.uniform(-1, 1)) for f in fields(Genes) if f.type in (float, "float")}
        values |= {name: kinds[int(rng.integers(len(kinds)))] for name, kinds in KINDS.items()}
        values["moles"] = _moles(rng)
        return Genes(**values, marks=int(rng.integers(2**31)))


def _moles(rng):
    """Up to four moles away from eyes, nostrils and lips: tuple of (x, y, radius), face units."""
    places = np.array(
        [
            (-0.62, 0.55),
            (0.62, 0.55),
            (-0.45, 0.95),
            (0.45, 0.95),
            (-0.2, -0.8),
            (0.25, -0.75),
            (0, -0.62),
            (-0.78, 0.15),
            (0.78, 0.15),
            (-0.3, 1.4),
            (0.28, 1.38),
            (0.33, 0.42),
            (-0.33, 0.42),
            (0.62, 1.1),
            (-0.62, 1.1),
        ]
    )
    count = int(rng.choice(5, p=[0.12, 0.3, 0.28, 0.2, 0.1]))
    spots = places[rng.permutation(len(places))[:count]] + rng.uniform(-0.06, 0.06, (count, 2))
    return tuple((float(x), float(y), float(rng.uniform(0.044, 0.066))) for x, y in spots)


@dataclass(frozen=True)
class Shot:
    """What changes between pictures of one person: degrees for the pose, fractions of the picture for shifts."""

    index: int
    yaw: float  # degrees, positive turns the face to the picture's right
    pitch: float  # degrees, positive looks up
    roll: float  # degrees
    scale: float
    shift_x: float
    shift_y: float
    smile: float  # -1 frown .. 1 smile
    mouth_open: float  # 0..1
    eye_open: float  # about 0.6..1.15
    gaze_x: float  # -1..1
    gaze_y: float
    light_x: float  # direction the light comes from, -1..1
    light_y: float
    light: float  # strength, 0..1
    warmth: float  # -1 cool .. 1 warm
    background: str
    background_colours: tuple
    clothing: str
    clothing_colour: tuple
    grain: int  # seed of the background's pattern


def _draw_shot(seed, k):
    """The k-th shot of the person `seed`; independent of the genes."""
    rng = np.random.default_rng([SHOT_STREAM, seed, k])

    def normal(width, limit):
        return float(np.clip(rng.normal(0, width), -limit, limit))

    mood = int(rng.integers(4))
    smile = (rng.uniform(0.55, 1), rng.uniform(0.55, 1), rng.uniform(-0.2, 0.2), rng.uniform(-1, -0.55))[mood]
    gap = rng.uniform(0.3, 1) if rng.random() < 0.4 else 0.0
    colours = tuple(
        tuple(int(255 * c) for c in colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.10, high), rng.uniform(0.35, 0.88)))
        for high in (0.45, 0.45, 0.65)
    )
    return Shot(
        index=k,
        yaw=normal(12, 25),
        pitch=normal(4.5, 11),
        roll=normal(3.5, 8),
        scale=1 + normal(0.025, 0.06),
        shift_x=normal(0.01, 0.03),
        shift_y=normal(0.01, 0.03),
        smile=float(smile),
        mouth_open=float(gap),
        eye_open=float(rng.uniform(0.72, 1.12)),
        gaze_x=normal(0.35, 0.9),
        gaze_y=normal(0.2, 0.5),
        light_x=float(rng.uniform(-1, 1)),
        light_y=float(rng.uniform(-0.9, 0.1)),
        light=float(rng.uniform(0.35, 1)),
        warmth=normal(0.5, 1),
        background=("plain", "glow", "blotches", "wall")[int(rng.integers(4))],
        background_colours=colours[:2],
        clothing=("round", "vee", "collar", "roll")[int(rng.integers(4))],
        clothing_colour=colours[2],
        grain=int(rng.integers(2**31)),
    )


def _natural(value, what):
    """`value` as an int, or BadPersonError if it is no whole number from 0 up to 2**63."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise BadPersonError(f"{what} is not a whole number >= 0: {value!r}. Remedy: give an int such as 1234")
    return int(value)


@dataclass(frozen=True)
class ProceduralPerson:
    """A person known exactly: `Person(seed)` for a seed >= 0 (int). Raises BadPersonError otherwise."""

    seed: int

    def __post_init__(self):
        object.__setattr__(self, "seed", _natural(self.seed, "person seed"))

    @property
    def name(self):
        """The person's name, such as "people:1234"; `parse` reads it back."""
        return f"people:{self.seed}"

    @property
    def split(self):
        """ "train", "development" or "test", by the last digit of the seed: 0-7, 8, 9."""
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
        return _draw_shot(self.seed, _natural(k, "shot number"))


def parse(name):
    """The `Person` called "people:<digits>". Raises BadPersonError for any other text."""
    if not isinstance(name, str) or not re.fullmatch(r"people:[0-9]{1,18}", name):
        raise BadPersonError(f"not a procedural person: {name!r}. Remedy: write people:<digits>, such as people:1234")
    return ProceduralPerson(int(name[7:]))


def _known(split):
    if split not in SPLITS:
        raise SplitError(f"unknown split: {split!r}. Remedy: use one of {', '.join(SPLITS)}")


def people_of(split, count, start=0):
    """`count` people of one split (list of Person), after skipping its first `start`. Raises SplitError, BadPersonError."""
    _known(split)
    digits = [d for d in range(10) if ProceduralPerson(d).split == split]
    first = _natural(start, "start")
    numbers = range(first, first + _natural(count, "count"))
    return [ProceduralPerson(10 * (i // len(digits)) + digits[i % len(digits)]) for i in numbers]


def require(people, split):
    """Return `people` unchanged if each is of `split`; raises SplitError naming the first that is not."""
    _known(split)
    for person in people:
        if person.split != split:
            raise SplitError(
                f"{person.name} is of the {person.split} split, not {split}: the splits never mix. "
                f"Remedy: take people from people_of({split!r}, count)"
            )
    return people


def caption(person, shot):
    """What is true of this person in this shot, in words of `WORDS` (str)."""
    genes = person.genes
    parts = [
        f"a photo of a person with {genes.iris} eyes",
        "bald" if genes.hair == "bald" else f"{genes.hair} {genes.hair_colour} hair",
    ]
    if genes.beard != "none":
        parts.append(genes.beard if genes.beard == "stubble" else f"a {genes.beard}")
    if genes.glasses != "none":
        parts.append(f"{genes.glasses} glasses")
    parts += ["freckles"] * (genes.freckles != "none") + ["a scar"] * (genes.scar != "none")
    parts += ["earrings"] * (genes.earring != "none" and genes.hair not in hair.LENGTHS)  # long hair may hide them
    parts.append("smiling" if shot.smile > 0.4 else "frowning" if shot.smile < -0.4 else "serious")
    parts += ["open mouth"] * (shot.mouth_open > 0)
    if abs(shot.yaw) > 12:
        parts.append("looking right" if shot.yaw > 0 else "looking left")
    return ", ".join(parts)


@dataclass(frozen=True)
class Portraits:
    """A batch: pictures uint8 (N, H, W, 3) RGB, landmarks float32 (N, 68, 2) pixels (x, y) iBUG order (pixel (0, 0)
    covers 0..1), captions list[str], masks None or dict of uint8 (N, H, W) in 0..255."""

    pictures: np.ndarray
    landmarks: np.ndarray
    captions: list
    masks: dict | None


def render(pairs, size=128, masks=False):
    """Draw (person, shot) `pairs` at `size` x `size` pixels (size >= 32): `Portraits`. Raises BadSizeError.

    Each picture depends on its own pair alone, so batches do not change it; masks=True adds the six region masks.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < SMALLEST:
        raise BadSizeError(f"picture size is not a whole number >= {SMALLEST}: {size!r}. Remedy: use 128")
    drawn = [portrait.draw(person.genes, shot, int(size), masks) for person, shot in pairs]
    pictures = np.stack([d[0] for d in drawn]) if drawn else np.zeros((0, size, size, 3), np.uint8)
    points = np.stack([d[1] for d in drawn]) if drawn else np.zeros((0, 68, 2), np.float32)
    regions = (
        {name: np.array([d[2][name] for d in drawn], np.uint8).reshape(-1, size, size) for name in portrait.REGIONS}
        if masks
        else None
    )
    return Portraits(pictures, points, [caption(*pair) for pair in pairs], regions)
