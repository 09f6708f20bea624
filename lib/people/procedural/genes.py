"""Genes: what stays the same in every picture of a procedural person, drawn from the seed of the person."""

from dataclasses import dataclass, fields

import numpy as np

GENE_STREAM = 11  # separates these random numbers from those of shots
KINDS = {
    "iris": "blue green brown hazel grey amber turquoise violet",
    "hair": "bald cropped short spiky parted curly frizzy medium long wavy tied fringed",
    "hair_colour": "black brown blond red grey white auburn",
    "beard": "none none none none stubble moustache goatee beard",  # repeated words are more probable
    "glasses": "none none none round square oval",
    "scar": "none none none none none brow cheek chin forehead nose",
    "freckles": "none none light strong",
    "earring": "none none none stud hoop",
}
KINDS = {gene: tuple(words.split()) for gene, words in KINDS.items()}
# places of moles away from eyes, nostrils and lips: x, y, face units
MOLE_PLACES = (
    (-0.62, 0.55),
    (0.62, 0.55),
    (-0.45, 0.95),
    (0.45, 0.95),
    (-0.2, -0.8),
    (0.25, -0.75),
    (0, -0.62),
    (-0.78, 0.15),
) + ((0.78, 0.15), (-0.3, 1.4), (0.28, 1.38), (0.33, 0.42), (-0.33, 0.42), (0.62, 1.1), (-0.62, 1.1))


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
        """The genes of a person: independent draws from the person's seed."""
        rng = np.random.default_rng([GENE_STREAM, seed])
        values = {f.name: float(rng.uniform(-1, 1)) for f in fields(Genes) if f.type in (float, "float")}
        values |= {name: kinds[int(rng.integers(len(kinds)))] for name, kinds in KINDS.items()}
        values["moles"] = _moles(rng)
        return Genes(**values, marks=int(rng.integers(2**31)))


def _moles(rng):
    """Up to four moles: a tuple of (x, y, radius), face units."""
    places = np.array(MOLE_PLACES)
    count = int(rng.choice(5, p=[0.12, 0.3, 0.28, 0.2, 0.1]))
    spots = places[rng.permutation(len(places))[:count]] + rng.uniform(-0.06, 0.06, (count, 2))
    return tuple((float(x), float(y), float(rng.uniform(0.044, 0.066))) for x, y in spots)
