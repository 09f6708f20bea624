"""Appendix B: the guidance scale (Table IV, Fig. 18), several passes (Fig. 17), and samplers with fewer steps.

Every function that a sweep computes takes (study, person, settings, folder) and returns rows of one person.
"""

import copy
from dataclasses import replace

from lib import checks
from lib.metrics.image import sharpness, ssim
from lib.restoration.sampling import SAMPLERS, check_interval, scheduler_of
from lib.studies.study import rows_of
from lib.studies.sweep import Tunings, scored

PAPER = {  # Table IV: w -> PSNR (dB), SSIM, identity (ArcFace)
    1.0: (24.78, 0.70, 0.90),
    2.0: (24.54, 0.69, 0.89),
    3.0: (24.17, 0.68, 0.87),
    4.0: (23.73, 0.67, 0.85),
    5.0: (23.12, 0.65, 0.84),
}


def evaluations(B, steps, gamma, w, w_interval=(0, float("inf")), sampler="ddpm"):
    """How often one restoration evaluates E and G: a step with guidance other than 0 and 1 needs G twice.

    Args as of `restore`. Returns a dict, E and G -> a number.
    """
    scheduler = copy.copy(scheduler_of(B, sampler))
    scheduler.set_timesteps(steps)
    prompted = [t for t in scheduler.timesteps.tolist() if t < B.prompted_below(gamma)]
    guided = [t for t in prompted if w_interval[0] <= t < w_interval[1]] if w not in (0, 1) else []
    return {"E": steps, "G": steps + len(guided)}


def dual_pivot(study, person, folder):
    """The person's `Tunings`, and the system that both pivots of the plan make."""
    tunings = Tunings(study, person, folder)
    return tunings, tunings.model("E", tunings.textual("G"))


def _rows(person, restored, **labels):
    """`scored` rows, and those of SSIM and sharpness."""
    found = {"sharpness": sharpness(restored)}
    if person.targets is not None:
        found["ssim"] = ssim(restored, person.targets)
    return scored(person, restored, **labels) + rows_of(found, **labels)


def guidance_scale(study, person, settings, folder):
    """Rows (w, gamma, low, high, ...) of one person; settings: lists of (w, gamma, (low, high) of t)."""
    settings = [
        (checks.finite("w", w), checks.fraction("gamma", gamma), check_interval(interval))
        for w, gamma, interval in settings
    ]
    tunings, B_p = dual_pivot(study, person, folder)
    rows = _rows(person, tunings.restored(study.B), w=0.0, gamma=1.0, low=0, high=1000, system="blind")
    for w, gamma, (low, high) in settings:
        restored = tunings.restored(B_p, w=w, gamma=gamma, w_interval=(low, high), allow_untuned_steps=True)
        rows += _rows(person, restored, w=w, gamma=gamma, low=low, high=high, system="dual pivot")
    return rows


def fewer_steps(study, person, settings, folder):
    """Rows (system, sampler, steps, ...) of one person; settings: lists of (sampler, steps)."""
    settings = [(checks.choice("sampler", name, SAMPLERS), checks.whole("steps", n, least=2)) for name, n in settings]
    tunings, B_p = dual_pivot(study, person, folder)
    rows = []
    for sampler, steps in settings:
        for name, system in {"blind": study.B, "dual pivot": B_p}.items():
            restored = tunings.restored(system, sampler=sampler, steps=steps)
            rows += _rows(person, restored, system=name, sampler=sampler, steps=steps)
    return rows


def several_passes(study, person, settings, folder):
    """Rows (recipe, system, number, ...) of one person; settings: recipes, and the largest number of passes as "most".

    A pass restores what the pass before it made, from other noise. The person is tuned for each recipe.
    """
    most, rows = checks.whole("passes", settings["most"], least=1), []
    for recipe in settings["recipes"]:
        here = replace(study, plan=replace(study.plan, recipe=recipe))
        who = here.open(person.name)
        tunings, B_p = dual_pivot(here, who, folder / recipe)
        rows += _rows(who, who.inputs, recipe=recipe, system="input", number=0)
        for name, system in {"blind": study.B, "dual pivot": B_p}.items():
            restored = who.inputs
            for k in range(most):
                restored = tunings.restored(system, restored, seeds=10_000 * k)
                rows += _rows(who, restored, recipe=recipe, system=name, number=k + 1)
    return rows
