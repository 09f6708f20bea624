"""Procedural people: a person is a fixed draw of genes, an image of them a draw of pose, expression and light.

No consent is needed, and identity and landmarks are known exactly. Imports: the leaves.
"""

from lib.people.procedural.captions import WORDS, caption
from lib.people.procedural.genes import KINDS, Genes
from lib.people.procedural.population import SPLITS, Portraits, ProceduralPerson, parse, people_of, render, require
from lib.people.procedural.shots import Shot

__all__ = [
    "KINDS",
    "SPLITS",
    "WORDS",
    "Genes",
    "Portraits",
    "ProceduralPerson",
    "Shot",
    "caption",
    "parse",
    "people_of",
    "render",
    "require",
]
