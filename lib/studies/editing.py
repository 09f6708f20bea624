"""Figs 10 and 11: edits by text and face swaps, measured against drawings of the edited person.

The true edited picture of a procedural person is known: the same person in the same shot, drawn with the other eyes or
the other mouth. Functions that a sweep computes take (study, person, settings, folder) and return rows of one person.
"""

import math
from dataclasses import dataclass, replace

import torch

from lib import checks
from lib.errors import RangeError
from lib.images import to_tensor
from lib.metrics import identity
from lib.metrics.landmark_detection import find_landmarks
from lib.metrics.landmark_distances import landmark_distance
from lib.people import procedural
from lib.people.person import FIRST_TARGET
from lib.studies.guidance import dual_pivot
from lib.studies.statistics import interval
from lib.studies.study import rows_of

EDITS = {  # caption words -> what they change of a drawing: genes of the person, values of the shot
    "smiling": ({}, {"smile": 0.8}),
    "blue eyes": ({"iris": "blue"}, {}),
    "grey hair": ({"hair_colour": "grey"}, {}),
    "round glasses": ({"glasses": "round"}, {}),
}


@dataclass(frozen=True)
class Drawn:
    """A person's test images with and without an edit; only those that the edit changes.

    Args: images, M numbers of the test images; before and after, (M, 3, S, S) in [-1, 1].
    """

    images: list
    before: torch.Tensor
    after: torch.Tensor

    @property
    def changed(self):
        """Where the edit changes the drawing, bool (M, 1, S, S)."""
        return ((self.after - self.before).abs() > 1e-6).any(1, keepdim=True)


@dataclass(frozen=True)
class _Redrawn:
    genes: object


def check_edits(B, edits):
    """The edits, each a text whose words G's captions know. Raises RangeError.

    A word that the tokenizer spells letter by letter was in no caption.
    """
    for edit in checks.distinct("edits", edits):
        for word in str(edit).split():
            if len(word) > 1 and len(B.tokenizer(word, add_special_tokens=False).input_ids) == len(word):
                raise RangeError(
                    f"Unknown to the text encoder: {word!r} in the edit {edit!r}. Remedy: use words of G's captions, "
                    f"such as {', '.join(EDITS)}."
                )
    return list(edits)


def check_drawn(names, edits):
    """People and edits of a study, which measures edits by drawings. Raises BadPersonError, RangeError."""
    for name in names:
        procedural.parse(name)
    for edit in edits:
        checks.choice("edit", edit, EDITS)


def draw_edit(name, edit, count, size=128):
    """What a procedural person's test images look like with an edit of EDITS. Returns a `Drawn`.

    Left out are images whose caption has the words already, or has them not after the edit (grey hair of the bald).
    Raises BadPersonError for another person, RangeError for another edit.
    """
    genes, values = EDITS[checks.choice("edit", edit, EDITS)]
    person = procedural.parse(name)
    shots = [person.shot(FIRST_TARGET + k) for k in range(count)]
    other = _Redrawn(replace(person.genes, **genes))
    before = procedural.render([(person, shot) for shot in shots], size)
    after = procedural.render([(other, replace(shot, **values)) for shot in shots], size)
    captions = zip(before.captions, after.captions)
    images = [k for k, (old, new) in enumerate(captions) if edit not in old and edit in new]
    return Drawn(images, to_tensor(before.pictures)[images], to_tensor(after.pictures)[images])


def edit_share(edited, unedited, drawn):
    """How much of an edit was made: 0 nothing, 1 as much as in the drawing; (M,).

    <x_edited - x_unedited, y_after - y_before> / |y_after - y_before|^2, where y are the drawings.
    Args: edited, unedited, restorations (M, 3, S, S) from the same noise; drawn, a `Drawn` of the same images.
    """
    true = (drawn.after - drawn.before).flatten(1)
    return ((edited - unedited).flatten(1) * true).sum(1) / true.square().sum(1)


def outcome(share):
    """ "made", "begun" or "not made": the 95 % interval of the share lies above one half, above zero, or neither."""
    low = interval(share).low
    return "made" if low > 0.5 else "begun" if low > 0 else "not made"


def psnr_where(a, b, mask):
    """PSNR (N,) in dB of pictures (N, 3, S, S) in [-1, 1] over the pixels of a mask, bool (N, 1, S, S)."""
    error = ((a - b).square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def edit_scores(person, edited, unedited, drawn):
    """name -> (M,): share of the edit, PSNR between the two outside it, identity to the references of both.

    Args as of `edit_share`; person, a Person.
    """
    known = identity.embed(person.references, person.scorer)
    of = {name: identity.embed(x, person.scorer) for name, x in {"edited": edited, "unedited": unedited}.items()}
    return {
        "share": edit_share(edited, unedited, drawn),
        "psnr outside": psnr_where(edited, unedited, ~drawn.changed),
        **{f"identity, {name}": identity.to_references(embedded, known) for name, embedded in of.items()},
    }


def edit_by_text(study, person, settings, folder):
    """Rows (edit, w, gamma, ...) of one person's dual pivot; settings: edits, and pairs (w, gamma) as "guidance"."""
    drawn = {edit: draw_edit(person.name, edit, len(person.inputs), study.B.size) for edit in settings["edits"]}
    pairs = [(checks.finite("w", w), checks.fraction("gamma", gamma)) for w, gamma in settings["guidance"]]
    tunings, B_p = dual_pivot(study, person, folder)
    p, rows = B_p.personal.prompt, []
    for w, gamma in pairs:
        how = dict(w=w, gamma=gamma, allow_untuned_steps=True)
        unedited = tunings.restored(B_p, **how)
        for edit, true in drawn.items():
            if true.images:
                inputs = person.inputs[true.images]
                edited = tunings.restored(B_p, inputs, prompt=f"{p}, {edit}", seeds=true.images, **how)
                scores = edit_scores(person, edited, unedited[true.images], true)
                rows += rows_of(scores, edit=edit, w=w, gamma=gamma)
    return rows


def background(name, count, size=128):
    """Where no part of a procedural person's face or hair is drawn in the test images, bool (N, 1, S, S)."""
    person = procedural.parse(name)
    pairs = [(person, person.shot(FIRST_TARGET + k)) for k in range(count)]
    masks = procedural.render(pairs, size, masks=True).masks
    return torch.from_numpy(sum(mask.astype(int) for mask in masks.values()) == 0)[:, None]


def swap_scores(restored, source, person):
    """name -> (N,): identity to the person and to the source, landmarks off those of the source, background PSNR.

    Args: restored, (N, 3, S, S), restorations of the source's inputs; source and person, a Person each.
    """
    who = {"identity to the person": person, "identity to the source": source}
    embedded = identity.embed(restored, person.scorer)
    scores = {name: identity.to_references(embedded, identity.embed(one.references)) for name, one in who.items()}
    scores |= _landmarks_off(restored, source.targets)
    behind = background(source.name, len(restored), restored.shape[-1])
    return scores | {"psnr of the background": psnr_where(restored, source.targets, behind)}


def _landmarks_off(restored, targets):
    """Mean distance of the landmarks in pixels, NaN where no face is found, and whether one is found."""
    points, goals = find_landmarks(restored), find_landmarks(targets)  # (N, 68, 2)
    found = ~(points.isnan() | goals.isnan()).flatten(1).any(1)
    off = torch.full((len(points),), torch.nan, dtype=torch.float64)
    if found.any():
        off[found] = landmark_distance(points[found], goals[found])
    return {"landmarks (px)": off, "face found": found.double()}


def _rows(scores, **labels):
    """`rows_of` scores without those that are not defined."""
    return [row for row in rows_of(scores, **labels) if not math.isnan(row["value"])]


def face_swap(study, person, settings, folder):
    """Rows (source, system, ...) of one person; settings: names of the sources, whose inputs the person's B_p restores.

    Beside the swap: the sources restored blind, and the person's own inputs.
    """
    sources = [study.open(name) for name in settings if name != person.name]
    tunings, B_p = dual_pivot(study, person, folder)
    own = swap_scores(tunings.restored(B_p), person, person)
    rows = _rows(own, source=person.name, system="own pictures")
    for source in sources:
        for name, system in {"blind": study.B, "swap": B_p}.items():
            restored = tunings.restored(system, source.inputs)
            rows += _rows(swap_scores(restored, source, person), source=source.name, system=name)
    return rows
