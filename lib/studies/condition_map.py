"""Where the arms part: swap, in-context and dual pivot over tuning budget, degradation and strength of E.

The strength of E is the factor of its residuals, in tuning and in restoration.
"""

import copy
from dataclasses import replace

import torch

from lib import checks
from lib.degradation.recipes import recipe_named
from lib.studies.arms import BLIND, DUAL, IN_CONTEXT, SWAP
from lib.studies.sweep import Tunings

# Written before the map was computed: (label, value) -> (label, other), where dual pivot − swap should be larger.
HYPOTHESES = {
    "a strong E overrules a swapped G": ("factor", 2.0, 0.5),
    "small budgets favour tuning in context": ("budget", 20, 120),
    "the harder the input, the more tuning in context matters": ("recipe", "tiny-extreme", "tiny"),
}


@torch.no_grad()
def scaled(E, factor):
    """A copy of E whose residuals are `factor` times as large: its last convolutions are linear. Raises RangeError."""
    checks.positive("factor", factor)
    E = copy.deepcopy(E)
    for weight in [*E.controlnet_down_blocks.parameters(), *E.controlnet_mid_block.parameters()]:
        weight *= factor
    return E


def check_conditions(conditions):
    """The recipes, factors and budgets of a map, each named once. Raises RangeError, RecipeError."""
    for name in ("recipes", "factors", "budgets"):
        checks.distinct(name, conditions[name])
    for name in conditions["recipes"]:
        recipe_named(name)
    factors = [checks.positive("factor", factor) for factor in conditions["factors"]]
    budgets = sorted(checks.whole("budget", steps, least=1) for steps in conditions["budgets"])
    return conditions["recipes"], factors, budgets


def where_the_arms_part(study, person, settings, folder):
    """Rows (recipe, factor, budget, arm, ...) of one person; settings: recipes, factors, budgets (steps of step 1).

    Step 2 has as large a part of the plan's steps as step 1. A swapped G is tuned alone, so it is the same in every
    column of the map, and is tuned once for each budget.
    """
    recipes, factors, budgets = check_conditions(settings)
    alone, rows = Tunings(study, person, folder), []
    swapped = {steps: alone.textual("alone", steps, in_context=False) for steps in budgets}
    for recipe in recipes:
        here = replace(study, plan=replace(study.plan, recipe=recipe))
        who = here.open(person.name)
        for factor in factors:
            B = study.B.with_(E=scaled(study.B.E, factor))
            tunings = Tunings(replace(here, B=B), who, folder / f"{recipe}, {factor}")
            labels = dict(recipe=recipe, factor=factor)
            rows += tunings.rows(B, **labels, budget=0, arm=BLIND)
            for steps in budgets:
                for arm, system in _arms(tunings, swapped[steps], steps).items():
                    rows += tunings.rows(system, **labels, budget=steps, arm=arm)
    return rows


def _arms(tunings, swapped, steps):
    """arm -> system of one budget."""
    plan = tunings.plan
    inside = tunings.textual("in context", steps)
    second = max(1, round(steps * plan.model.steps / plan.textual.steps))
    around = tunings.model(f"around {steps}", inside, second)
    return {SWAP: swapped.with_(E=tunings.B.E), IN_CONTEXT: inside, DUAL: around}


def differences(rows, metric):
    """Dual pivot − swap of a metric: a row for each person, a column for each (recipe, factor, budget) of the map."""
    both = rows[(rows.metric == metric) & rows.arm.isin([DUAL, SWAP])]
    wide = both.pivot_table(index="person", columns=["arm", "recipe", "factor", "budget"], values="value", sort=False)
    return wide[DUAL] - wide[SWAP]


def contrast(cells, label, value, other):
    """How much larger `differences` are at one value of a label than at another, by person, over all other labels."""
    at = {x: cells.xs(x, axis=1, level=label).mean(axis=1) for x in (value, other)}
    return at[value] - at[other]
