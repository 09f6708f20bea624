"""The six arms of Figs 2 and 9 on many people: tuned, restored, measured. `lib.studies.statistics` compares them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from lib import checks, paths
from lib.degradation.recipes import recipe_named
from lib.errors import RangeError
from lib.metrics import headline
from lib.models import personal_weights
from lib.models.precision import move_to_device
from lib.models.system import AT_ONCE, RARE_TOKEN
from lib.people import procedural
from lib.people.picture_files import load_picture
from lib.restoration import baselines, photographs
from lib.restoration.sampling import restore
from lib.runs.record import write_json
from lib.studies.person import case, prior
from lib.training.pivots import check_part, model_pivot, prepare, textual_pivot
from lib.training.trainer import Tuning

ARMS = {
    "blind": "base G, base E",
    "swap": "G tuned alone, base E (eq. 5)",
    "in-context": "G tuned inside B, base E (eq. 6)",
    "encoder-only": "base G, E tuned on the person",
    "swap + model pivot": "swap, then E retargeted around it",
    "dual pivot": "in-context, then E retargeted around it (eq. 7)",
}


@dataclass(frozen=True)
class Plan:
    """One study: how many pictures, which degradation, and how both pivots are tuned."""

    references: int = 10
    shots: int = 4  # degraded test pictures a person
    seeds: int = 2  # restorations of each
    recipe: str = "tiny"
    steps: int = 50  # of sampling
    gamma: float = 0.5
    w: float = 1.0
    prior: int = 0  # generic people of the prior-preservation term; 0 leaves it out
    trained: str = "all"  # of E; "repo150" for the part that the published code trains
    textual: Tuning = Tuning()
    model: Tuning = Tuning(steps=60)

    def __post_init__(self):
        for name in ("references", "shots", "seeds"):
            checks.whole(name, getattr(self, name), least=1)
        checks.whole("prior", self.prior)
        checks.whole("steps", self.steps, least=2)
        checks.fraction("gamma", self.gamma)
        checks.finite("w", self.w)
        recipe_named(self.recipe)
        check_part(self.trained, self.model.lora)


def check_arms(arms, needed=()):
    """Raises RangeError for an unknown arm, or without one of those needed."""
    if wrong := [arm for arm in arms if arm not in ARMS] or [f"no {arm}" for arm in needed if arm not in arms]:
        raise RangeError(
            f"arm out of range: {wrong[0]!r}. Remedy: give some of {', '.join(ARMS)}"
            f"{', among them ' * bool(needed)}{' and '.join(needed)}."
        )


def tune_arms(B, case, plan, arms=tuple(ARMS), prior=None, folder=None):
    """arm -> (system, prompt for G) of the wanted arms; what two arms share is tuned once.

    B: the blind system; case: the person; prior: `prepare`d generic people, or None; folder: where an interrupted
    tuning keeps what is done. Raises RangeError for an unknown arm.
    """
    check_arms(arms)

    def aside(tuning, arm):  # four checkpoints at most of a long tuning: at full size each is 10 GB
        return (
            replace(tuning, folder=str(Path(folder) / arm), every=max(tuning.every, tuning.steps // 4))
            if folder
            else tuning
        )

    shots, p = prepare(B, case.references, plan.recipe, seed=plan.textual.seed), case.prompt
    tuned = {"blind": (B, "")}

    def pivoted(work, around, *given, **how):  # a GPU that holds one person's networks need not hold those of every arm
        move_to_device(around, [system for system, _ in tuned.values()])
        return work(around, shots, *given, **how)

    for arm, second, context in (("swap", "swap + model pivot", False), ("in-context", "dual pivot", True)):
        if arm in arms or second in arms:
            tuned[arm] = pivoted(textual_pivot, B, p, aside(plan.textual, arm), in_context=context, prior=prior), p
        if second in arms:
            tuned[second] = pivoted(model_pivot, tuned[arm][0], p, aside(plan.model, second), trained=plan.trained), p
    if "encoder-only" in arms:
        tuned["encoder-only"] = pivoted(model_pivot, B, "", aside(plan.model, "encoder-only"), trained=plan.trained), ""
    return {arm: tuned[arm] for arm in arms}


def save_personal(folder, B_p, B, case, plan):
    """Writes a person's pivot, `B_p` against its base B, as a pivot folder with the facts of `case` and `plan`."""
    personal_weights.save(
        folder,
        B_p,
        B,
        {
            "token": RARE_TOKEN,
            "class_noun": case.prompt.rpartition(f"{RARE_TOKEN} ")[2],
            "prompt": case.prompt,
            "gamma": plan.textual.gamma,
            "steps": [plan.textual.steps, plan.model.steps],
            "seed": plan.textual.seed,
            "references": personal_weights.hash_of(case.references),
        },
    )


def batch_size(B):
    """How many pictures of the system's size a batch holds: 8 small ones, 4 of 512 px."""
    return max(1, min(8, 4 * AT_ONCE // B.size**2))


def restore_arms(tuned, degraded, plan, beside=()):
    """arm -> restorations (seeds, S, 3, H, W) of degraded pictures (S, 3, H, W); every arm starts from the same noise.

    beside: further systems, which make room on a GPU as the other arms do.
    """
    S, K = len(degraded), plan.seeds
    batch = batch_size(next(iter(tuned.values()))[0])
    seeds = [1000 * k + s for k in range(K) for s in range(S)]
    options = dict(seeds=seeds, steps=plan.steps, gamma=plan.gamma, w=plan.w, batch=batch, levers=plan.textual.levers)
    every = degraded.repeat(K, 1, 1, 1)
    restored, systems = {}, [*(system for system, _ in tuned.values()), *beside]
    for arm, (system, prompt) in tuned.items():
        move_to_device(system, systems)
        restored[arm] = restore(system, every, prompt, **options).unflatten(0, (K, S))
    return restored


def restored_photographs(B, case, crops, plan, others="leave", pack=None, beside=()):
    """stem -> photograph (H, W, 3), uint8, with the person's restored crop of `crops` (S, 3, H, W) back in it; none without photographs.

    others: "leave" other people in it, or restore them "blind" with B; pack finds them; beside: as of `restore_arms`.
    """
    photographs.check_others(others)
    blind = (lambda crop: restore_arms({"": (B, "")}, crop, plan, beside)[""][0]) if others == "blind" else None
    return {
        stem: photographs.paste_person(load_picture(file), crops[s : s + 1], matrix, blind, pack)
        for s, (stem, (file, matrix)) in enumerate(zip(case.stems, case.photographs or []))
    }


def score(case, restored):
    """Tidy rows (person, arm, shot, seed, metric, value) of `restore_arms`' pictures, with the degraded input as an arm."""
    rows = []
    for arm, pictures in {"input": case.degraded[None], **restored}.items():
        for seed, batch in enumerate(pictures):
            for metric, values in headline.headline_values(batch, case.truth, case.references, case.scorer).items():
                rows += [
                    dict(person=case.name, arm=arm, shot=s, seed=seed, metric=metric, value=float(v))
                    for s, v in enumerate(values)
                ]
    return rows


def run(B, names, plan, folder, record, arms=tuple(ARMS), pack=None, scorer=None, others=baselines.NONE):
    """The study: every person tuned, restored and scored, one file each in `folder`, so that a rerun goes on where it stopped.

    others: the baselines, `baselines.open_baselines`, whose restorations are further arms. Every person is opened before the first is
    tuned. What was kept with another system, plan, scorer, or of other pictures is measured anew.
    Returns the tidy rows of all, and (case, restored) of the person tuned last, to be looked at.
    Raises RangeError without people, SplitError for people of two splits.
    """
    rows, shown, cases = (
        [],
        None,
        [case(name, plan, B.size, pack, scorer) for name in checks.distinct("people", list(names))],
    )
    drawn = [procedural.parse(name) for name in names if name.startswith("people:")]
    procedural.require(drawn, drawn[0].split if drawn else "test")
    settings, priors = f"{B.fingerprint()} {plan} {list(arms)} {scorer} {others.files}", {}
    for name, who in zip(names, cases):
        around = " ".join(
            [
                settings,
                *(personal_weights.hash_of(x) for x in (who.references, who.degraded, who.truth) if x is not None),
            ]
        )
        kept = Path(folder) / "people" / f"{quote(name, safe='').replace('%3A', '-')}.json"
        found = json.loads(kept.read_text()) if kept.is_file() else {}
        if found.get("around") != around or name == names[-1]:
            if who.prompt not in priors:
                priors[who.prompt] = prior(B, who, plan)
            shown = who, run_person(B, who, plan, record, arms, kept.with_suffix(""), others, priors[who.prompt])
            write_json(kept, found := {"around": around, "rows": score(*shown)})
            paths.remove(kept.with_suffix(""))
        rows += found["rows"]
    return rows, shown


def run_person(B, who, plan, record, arms=tuple(ARMS), folder=None, others=baselines.NONE, prior=None):
    """One person's restorations by each arm, `who` being the case; the seconds of both stages go to the record."""
    with record.stage("tuning"):
        tuned = tune_arms(B, who, plan, arms, prior, folder)
    with record.stage("restoring"):
        return restore_arms(tuned, who.degraded, plan, [B]) | baselines.restore(
            others, who.degraded, plan.seeds, B.device
        )
