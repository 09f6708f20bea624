"""One step against fifty (Tables 1 and 3 of HonestFace), with references, without, and distilled to one person.

Every function that a sweep computes takes (study, person, settings, folder) and returns rows of one person.
"""

import math
import time
from dataclasses import replace

import pandas as pd

from lib import paths
from lib.errors import MissingPicturesError, RangeError, WeightsError
from lib.metrics import registry
from lib.metrics.colour import colour_distance
from lib.metrics.image import sharpness
from lib.metrics.landmark_detection import find_landmarks
from lib.metrics.landmark_distances import similarity_landmark_distance
from lib.models.identity_embedder import PARTS, eye_patches
from lib.models.landmark_heatmaps import landmark_heatmaps
from lib.models.one_step_folder import ADAPTERS, load_one_step, merged
from lib.models.weight_files import sha256
from lib.restoration.one_step import describe, restore_one_step
from lib.restoration.sampling import restore
from lib.runs.record import peak_during
from lib.studies.arms import batch_size
from lib.studies.guidance import dual_pivot
from lib.studies.statistics import interval
from lib.studies.study import rows_of
from lib.training import distillation

METRICS = "psnr", "perceptual", "identity", "degrees", "l2_ld", "ald_eyes", "ald_mouth"
BLIND, ONE_BLIND, ONE, DUAL, PERSONAL, TUNED = (
    "blind, 50 steps",
    "blind, one step",
    "references, one step",
    "dual pivot, 50 steps",
    "dual pivot, one step",
    "tuned on references, one step",
)
LIVE = {  # the same systems in notebook 06's rows of question "live"; the two personal ones differ in weights alone
    BLIND: "blind, many steps",
    ONE_BLIND: "blind, one step",
    ONE: "references, one step",
    DUAL: "dual pivot, many steps",
    PERSONAL: "personal, one step",
    TUNED: "personal, one step",
}
SHOWN = {
    "psnr": ("PSNR (dB)", 2),
    "perceptual": ("perceptual", 3),
    "identity": ("identity", 3),
    "colour": ("colour", 2),
}
TAUGHT = 2  # degradations of each reference that the teacher restores for the distillation
TEACHER_STEPS = 25  # sampling steps of the teacher then: equivalent to 50 in identity (notebook 09), half the time


def with_targets(person):
    """The person, who has the ground truth of the inputs; raises MissingPicturesError for one without."""
    if person.targets is None:
        raise MissingPicturesError(
            f"No ground truth: {person.name}. Remedy: put it into targets/, or restore with python -m lib.onestep."
        )
    return person


def scores(person, restored):
    """name -> (N,) of METRICS, similarity distance of landmarks, colour, eyes, sharpness; NaN where no face is found.

    "eyes" is the mean absolute error of the patches of both eyes, in levels of 255. Args: person, a Person with
    targets; restored, (N, 3, S, S).
    """
    table = registry.measure_all(restored, person.targets, scorer=person.scorer, only=METRICS)
    found = {name: rows.value.to_numpy() for name, rows in table.groupby("metric", sort=False)}
    points = [find_landmarks(x) for x in (restored, person.targets)]
    seen = ~(points[0].isnan() | points[1].isnan()).flatten(1).any(1)
    similarity = restored.new_full((len(restored),), math.nan).double()
    if seen.any():
        similarity[seen] = similarity_landmark_distance(*(p[seen] for p in points))
    places = landmark_heatmaps(person.targets)[1]
    eyes = eye_patches(restored, places) - eye_patches(person.targets, places)  # (N, 2, 3, 32, 32)
    return found | {
        "similarity_ld": similarity,
        "colour": colour_distance(restored, person.targets),
        "eyes": 127.5 * eyes.abs().flatten(1).mean(1),
        "sharpness": sharpness(restored),
    }


def rows(person, restored, **labels):
    """`scores` as rows, without those that have no value."""
    return [row for row in rows_of(scores(person, restored), **labels) if not math.isnan(row["value"])]


def timed(function, repeat=1):
    """What a function returns, and its seconds: the median of `repeat` calls."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - start)
    return value, sorted(seconds)[len(seconds) // 2]


def systems(study, person, settings, folder):
    """Rows (system, ...) of blind, one-step and dual-pivot restorers; metric "seconds" is per picture.

    Settings: "restorers", as of `restorers`, one; "training", fields of the distillation's Training.
    Raises RangeError for several restorers.
    """
    one, tunings, B_p = _only(study, settings["restorers"]), *dual_pivot(study, person, folder)
    training = replace(distillation.TRAINING, **settings.get("training", {}))
    known, fast, found = describe(one, person.references), merged(one), []
    arms = {
        BLIND: lambda: tunings.restored(study.B),
        ONE_BLIND: lambda: restore_one_step(fast, person.inputs),
        ONE: lambda: restore_one_step(fast, person.inputs, known),
        DUAL: lambda: tunings.restored(B_p),
    }
    for name, teacher in {PERSONAL: B_p, TUNED: None}.items():
        personal, seconds = timed(lambda: personal_one_step(one, person, study.plan, training, teacher))
        quick = merged(personal)
        arms[name] = lambda quick=quick: restore_one_step(quick, person.inputs, known)
        found += rows_of({"distillation": [seconds]}, system=name)
    return found + _restored_rows(person, arms)


def _only(study, found):
    """The only restorer of what `restorers` found."""
    if len(found) != 1:
        raise RangeError(f"{len(found)} restorers: {', '.join(found)}. Remedy: give the folder of one.")
    ((where, _),) = found.values()
    return load_one_step(where, study.B)


def _restored_rows(person, arms):
    """Rows of every arm's restorations, of their seconds and of the peak memory (GB) of a first, untimed call."""
    found = []
    for name, restored_by in arms.items():
        found += rows_of({"peak": [peak_during(restored_by) / 1e9]}, system=name)
        restored, seconds = timed(restored_by, 1 if name in (BLIND, DUAL) else 5)
        found += rows(person, restored, system=name)
        found += rows_of({"seconds": [seconds / len(person.inputs)]}, system=name)
    return found


def personal_one_step(one, person, plan, training=distillation.TRAINING, teacher=None):
    """The personal one-step restorer: distilled from a teacher, or tuned on the references alone.

    Args: one, a OneStep; person; plan, of recipe and degradations; training; teacher, the person's dual-pivot tuned
    system, which restores TAUGHT degradations of each reference in TEACHER_STEPS steps, or None.
    Returns a OneStep, frozen. Raises as `lib.training.distillation`.
    """
    references, taught = person.references, None
    degraded, which = distillation.degraded_references(references, plan.recipe, plan.degradations, training.seed)
    if teacher is not None:
        first = degraded[: TAUGHT * len(references)]
        taught = restore(teacher, first, seeds=0, steps=TEACHER_STEPS, batch=batch_size(teacher))
    return distillation.distil(one, distillation.person_examples(one, references, degraded, which, taught), training)


def restorers(folder):
    """name -> [folder, digest of its adapters] of a restorer's folder, or of every restorer in a folder of them.

    Raises WeightsError where there is none.
    """
    folder = paths.from_root(folder)
    found = [folder] if (folder / ADAPTERS).is_file() else sorted(file.parent for file in folder.glob(f"*/{ADAPTERS}"))
    if not found:
        raise WeightsError(f"no one-step restorer in {folder}. Remedy: train some with notebook 06, or check the path.")
    return {one.name: [paths.display_path(one), sha256(one / ADAPTERS)[:16]] for one in found}


def prompts(study, person, settings, folder):
    """Rows (restorer, parts, references, whose, ...): which parts, how many references, and another person's.

    Settings: "restorers", as of `restorers`; "parts", lists of PARTS; "counts" of references; "strangers", names of
    people whose references are given in place of the person's. Raises RangeError for more references than there are.
    """
    found, asked = [], list(_asked(study, person, settings))
    for name, (where, _) in settings["restorers"].items():
        one = load_one_step(where, study.B)
        one = merged(one)
        for parts, references, whose in asked:
            restored = restore_one_step(one, person.inputs, references, parts=parts)
            words = " + ".join(part for part in PARTS if part in parts) or "none"
            labels = dict(restorer=name, parts=words, references=len(references), whose=whose)
            found += rows(person, restored, **labels)
    return found


def _asked(study, person, settings):
    """Parts, references and their owner for each row of `prompts`."""
    own, known = "own", person.references
    for parts in settings.get("parts", [PARTS]):
        yield list(parts), known, own
    for count in settings.get("counts", []):
        if count > len(known):
            raise RangeError(f"{count} references of {len(known)}. Remedy: fewer, or a larger plan.")
        yield list(PARTS), known[:count], own
    for who in settings.get("strangers", []):
        if who != person.name:
            yield list(PARTS), study.open(who).references, "another person's"


def summary(metrics, against=DUAL):
    """A table of the systems of a record: means, and in brackets the paired 95 % interval of the difference to one.

    Args: metrics, rows of a record; against, the system that the others are compared with. The last column is how many
    times as fast as that system each one was in the rows of question "live", timed in one run on one person.
    """
    rows = pd.DataFrame(metrics)
    alone = rows[rows.question == "live"].set_index("system")["s a picture"]
    rows = rows[rows.question == "systems"]
    wide = {m: part.pivot_table(index="person", columns="system", values="value") for m, part in rows.groupby("metric")}
    found = {}
    for system in (BLIND, ONE_BLIND, ONE, DUAL, PERSONAL, TUNED):
        found[system] = {label: _cell(wide[m], system, against, digits) for m, (label, digits) in SHOWN.items()}
        speed = alone[LIVE[against]] / alone[LIVE[system]]
        found[system]["times as fast"] = f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
    return pd.DataFrame(found).T.rename_axis("system")


def _cell(table, system, against, digits):
    """A mean, with the interval of its difference to another system's."""
    mean = f"{table[system].mean():.{digits}f}"
    return mean if system == against else f"{mean} ({interval(table[system] - table[against], digits).words})"
