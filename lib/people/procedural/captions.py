"""Captions of procedural people: what is true of a person in a shot, in a vocabulary of fewer than 100 words."""

from lib.people.procedural.genes import KINDS
from lib.people.procedural.hair import LENGTHS

PLAIN_WORDS = (
    "a photo of person with , eyes hair glasses smiling serious frowning open mouth freckles scar stubble moustache "
    "goatee beard round square oval earrings looking left right"
)
WORDS = tuple(dict.fromkeys((*PLAIN_WORDS.split(), *KINDS["iris"], *KINDS["hair"], *KINDS["hair_colour"])))


def caption(person, shot):
    """What is true of this person in this shot, in words of WORDS (str)."""
    genes = person.genes
    hair = "bald" if genes.hair == "bald" else f"{genes.hair} {genes.hair_colour} hair"
    parts = [f"a photo of a person with {genes.iris} eyes", hair]
    if genes.beard != "none":
        parts.append(genes.beard if genes.beard == "stubble" else f"a {genes.beard}")
    if genes.glasses != "none":
        parts.append(f"{genes.glasses} glasses")
    if genes.freckles != "none":
        parts.append("freckles")
    if genes.scar != "none":
        parts.append("a scar")
    if genes.earring != "none" and genes.hair not in LENGTHS:  # long hair may hide them
        parts.append("earrings")
    parts.append("smiling" if shot.smile > 0.4 else "frowning" if shot.smile < -0.4 else "serious")
    if shot.mouth_open > 0:
        parts.append("open mouth")
    if abs(shot.yaw) > 12:
        parts.append("looking right" if shot.yaw > 0 else "looking left")
    return ", ".join(parts)
