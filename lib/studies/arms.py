"""The six arms of Figs 2 and 9: how each is tuned, and how all of them restore the same pictures."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lib import checks
from lib.degradation.recipes import recipe_named
from lib.errors import RangeError
from lib.models.precision import move_to_device
from lib.models.system import GAMMA, MAX_PIXELS
from lib.people.picture_files import load_picture
from lib.restoration import photographs
from lib.restoration.sampling import restore
from lib.training.pivots import TINY, model_pivot, prepare, textual_pivot
from lib.training.trainer import Training
from lib.training.tunable import check_trained

ARMS = {
    "blind": "base G, base E",
    "swap": "G tuned alone, base E (eq. 5)",
    "in-context": "G tuned inside B, base E (eq. 6)",
    "encoder-only": "base G, E tuned on the person",
    "swap + model pivot": "swap, then E tuned around it",
    "dual pivot": "in-context, then E tuned around it (eq. 7)",
}
BLIND, SWAP, IN_CONTEXT, ENCODER, SWAP_MODEL, DUAL = ARMS


@dataclass(frozen=True)
class Plan:
    """One study: how many pictures, which degradation, and how both pivots are tuned.

    Args: references and inputs, at most so many of each person; seeds, restorations of each input; recipe; steps of
    sampling; gamma, of tuning and restoring; w, guidance; prior, pictures of other people for eq. 2, 0 for none;
    degradations of each reference; trained, "all" of E or "repo150"; textual and model, a Training each.
    Raises RangeError, RecipeError.
    """

    references: int = 10
    inputs: int = 4
    seeds: int = 2
    recipe: str = "tiny"
    steps: int = 50
    gamma: float = GAMMA
    w: float = 1.0
    prior: int = 0
    degradations: int = 8
    trained: str = "all"
    textual: Training = field(default=TINY[0])
    model: Training = field(default=TINY[1])

    def __post_init__(self):
        for name in ("references", "inputs", "seeds", "degradations"):
            checks.whole(name, getattr(self, name), least=1)
        checks.whole("prior", self.prior)
        checks.whole("steps", self.steps, least=2)
        checks.fraction("gamma", self.gamma)
        checks.finite("w", self.w)
        recipe_named(self.recipe)
        check_trained(self.trained, self.model.lora)

    def key(self):
        """The settings that decide a result, as JSON text."""
        without = ("folder", "every", "quiet")
        plan = asdict(self)
        for part in ("textual", "model"):
            plan[part] = {name: value for name, value in plan[part].items() if name not in without}
        return json.dumps(plan, sort_keys=True)


def check_arms(arms, needed=()):
    """Raises RangeError for an unknown arm, or without one of those needed."""
    wrong = [arm for arm in arms if arm not in ARMS] or [f"no {arm}" for arm in needed if arm not in arms]
    if wrong:
        raise RangeError(f"arms out of range: {wrong[0]!r}. Remedy: give some of {', '.join(ARMS)}.")


def tune_arms(B, person, plan, arms=tuple(ARMS), prior=None, folder=None):
    """arm -> System, for the wanted arms; what two arms share is tuned once.

    Args: B, the blind system; person; plan; arms; prior, `prepare`d pictures of other people, or None; folder, where an
    interrupted tuning keeps its checkpoints, None for that of the plan's trainings.
    Raises RangeError for an unknown arm, and the errors of the pivots.
    """
    check_arms(arms)
    if set(arms) <= {BLIND}:
        return dict.fromkeys(arms, B)
    data = prepare(B, person.references, plan.recipe, plan.degradations, plan.textual.seed)
    tuned = {BLIND: B}
    for arm, second, in_context in ((SWAP, SWAP_MODEL, False), (IN_CONTEXT, DUAL, True)):
        if arm in arms or second in arms:
            move_to_device(B, tuned.values())
            settings = dict(gamma=plan.gamma, in_context=in_context, prior=prior)
            tuned[arm] = textual_pivot(B, data, person.class_noun, checkpointed(plan.textual, folder, arm), **settings)
        if second in arms:
            tuned[second] = _model_pivot(tuned[arm], data, plan, tuned, folder, second)
    if ENCODER in arms:
        tuned[ENCODER] = _model_pivot(B, data, plan, tuned, folder, ENCODER)
    return {arm: tuned[arm] for arm in arms}


def _model_pivot(B_p, data, plan, tuned, folder, arm):
    move_to_device(B_p, tuned.values())  # a GPU need not hold the networks of every arm
    return model_pivot(B_p, data, checkpointed(plan.model, folder, arm), trained=plan.trained)


def checkpointed(training, folder, arm):
    """The training with checkpoints in a folder of its arm; at most four, because at full size each has 10 GB."""
    folder = folder or training.folder
    if not folder:
        return training
    return replace(training, folder=str(Path(folder) / arm), every=max(training.every, training.steps // 4))


def batch_size(B):
    """How many pictures of the system's size a batch holds: 8 of 128 px, 4 of 512 px."""
    return max(1, min(8, 4 * MAX_PIXELS // B.size**2))


def restore_arms(tuned, degraded, plan, beside=()):
    """arm -> restorations (K, N, 3, S, S) of degraded pictures (N, 3, S, S); every arm starts from the same noise.

    Args: tuned, arm -> System; plan, whose `seeds` is K; beside, further systems, which make room on a GPU.
    """
    N, K = len(degraded), plan.seeds
    systems = [*tuned.values(), *beside]
    seeds = [1000 * k + n for k in range(K) for n in range(N)]
    options = dict(seeds=seeds, steps=plan.steps, w=plan.w, batch=batch_size(systems[0]))
    restored = {}
    for arm, system in tuned.items():
        move_to_device(system, systems)
        pictures = restore(system, degraded.repeat(K, 1, 1, 1), precision=plan.textual.precision, **options)
        restored[arm] = pictures.unflatten(0, (K, N))
    return restored


def restored_photographs(B, person, crops, plan, others="leave", pack=None, beside=()):
    """stem -> photograph, uint8 (H, W, 3), with the person's restored crop pasted in; empty for a person of crops.

    Args: B, the blind system; crops, (N, 3, S, S); others, "leave" other people or restore them "blind" with B; pack,
    which finds them; beside, as of `restore_arms`.
    """

    def blind(crop):
        return restore_arms({BLIND: B}, crop, plan, beside)[BLIND][0]

    photographs.check_others(others)
    whole = {}
    for n, (stem, (file, matrix)) in enumerate(zip(person.stems, person.photographs or [])):
        restore_other = blind if others == "blind" else None
        whole[stem] = photographs.paste_person(load_picture(file), crops[n : n + 1], matrix, restore_other, pack)
    return whole
