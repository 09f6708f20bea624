"""One person of a study, opened: references, degraded inputs and their ground truth; generic people for prior preservation."""

from dataclasses import dataclass
from urllib.parse import quote

import torch
from tqdm.auto import tqdm

from lib import paths
from lib.degradation.degrade import degrade
from lib.errors import PackError
from lib.images import to_tensor
from lib.metrics import identity
from lib.models.precision import move_to_device
from lib.people import procedural
from lib.people.person import open_person
from lib.people.picture_files import load_picture, save_picture
from lib.restoration.sampling import generate
from lib.training.pivots import class_prompt, pivot_prompt, prepare


@dataclass
class Case:
    """One person's pictures: references to learn from, and degraded pictures whose truth (if known) is never tuned on."""

    name: str
    prompt: str
    references: torch.Tensor  # (R, 3, H, W)
    degraded: torch.Tensor  # (S, 3, H, W)
    truth: torch.Tensor | None  # (S, 3, H, W)
    stems: list
    scorer: str | None = None  # the recogniser that knows such faces; people-r without it
    photographs: list | None = None  # where they were aligned: file and matrix of each degraded picture


def case(name, plan, size=128, pack=None, scorer=None):
    """The case of "people:SEED", whose test shots are degraded here, each with its own seed, or of a person folder.

    pack: the insightface pack that aligns whole photographs, among whose faces the scorer finds the person; scorer: the
    recogniser of real faces, opened here, because it is needed only after the tuning. Raises the errors of `person.open_person`
    and `identity.recogniser`, SplitError for a training person, on whom nothing may be measured.
    """
    if scorer:
        identity.recogniser(scorer)
    who = open_person(
        name,
        size,
        pack=pack or None,
        references=plan.references,
        inputs=plan.shots,
        choose="person",
        scorer=scorer or None,
    )
    if who.real and not scorer:
        raise PackError(
            f"No recogniser of real faces: {who.name} is real, and people-r knows drawn people only. Remedy: give SCORER "
            "an insightface pack (buffalo_l) or a recogniser's .onnx file."
        )
    degraded = who.inputs
    if degraded is None:
        person = procedural.parse(name)
        procedural.require([person], person.split if person.split != "train" else "test")
        degraded = degrade(who.targets, plan.recipe, [person.seed * 100 + k for k in range(plan.shots)])
    return Case(
        who.name,
        pivot_prompt(who.class_noun),
        who.references,
        degraded,
        who.targets,
        who.stems,
        scorer or None,
        who.photographs,
    )


def prior_pictures(count, size=128):
    """Pictures of `count` training people, for prior preservation (eq. 2) and generic model pivots."""
    crowd = procedural.people_of("train", count)
    return to_tensor(procedural.render([(p, p.shot(0)) for p in crowd], size).pictures)


def prior(B, case, plan):
    """`prepare`d pictures of generic people for eq. 2's second term, or None where the plan has none.

    For a drawn person they are drawn; for a real one, whom a scorer comes with, G itself imagines them from the prompt of the
    class, as in DreamBooth: it is G's own idea of the class that is to be kept.
    """
    if not plan.prior:
        return None
    pictures = imagined(B, class_prompt(case.prompt), plan) if case.scorer else prior_pictures(plan.prior, B.size)
    return prepare(B, pictures, plan.recipe, degradations=1)  # there are many of them


def imagined(B, prompt, plan):
    """`plan.prior` pictures (N, 3, H, W) that G makes of a prompt, kept in `runs/imagined`: made once for all people of a class.

    At full size 200 of them take twice the arithmetic of both pivots; an interruption keeps those that are done.
    """
    folder = (
        paths.RUNS
        / "imagined"
        / f"{B.fingerprint()} {quote(prompt, safe=' ')} {plan.steps}{' bf16' * plan.textual.levers.bf16}"
    )
    files = [folder / f"{seed}.png" for seed in range(plan.prior)]
    move_to_device(B)
    missing = [seed for seed, file in enumerate(files) if not file.is_file()]
    for seeds in tqdm([missing[i : i + 4] for i in range(0, len(missing), 4)], desc=prompt, disable=plan.textual.quiet):
        for seed, picture in zip(seeds, generate(B, prompt, seeds, plan.steps, levers=plan.textual.levers)):
            save_picture(files[seed], picture)
    return to_tensor([load_picture(file) for file in files])
