"""A personal one-step restorer: an adapter on the one-step restorer, trained on the person's references alone."""

from dataclasses import replace

import torch

from lib import checks
from lib.degradation.degrade import degrade
from lib.errors import MissingPicturesError, PersonalWeightsError, PictureError
from lib.images import check_pictures, to_uint8
from lib.models.one_step import ADAPTER, adapted
from lib.models.personal_one_step import fingerprint
from lib.training.one_step_training import OneStepLoss, Weights, examples
from lib.training.trainer import Training, train

RANK = 4
WEIGHTS = Weights(adversarial=0.0)
TRAINING = Training(steps=150, lr=1e-3, batch=4, schedule="cosine", clip=1.0)


def degraded_references(references, recipe, degradations, seed=0):
    """Every reference degraded `degradations` times, as `lib.training.pivots.prepare` does.

    Returns pictures (degradations * R, 3, S, S) in [-1, 1], and which reference is behind each, (degradations * R,).
    Raises PictureError, RecipeError, RangeError.
    """
    references, count = check_pictures(references), checks.whole("degradations", degradations, least=1)
    seeds = [[seed + 1000 * k + n for n in range(len(references))] for k in range(count)]
    return torch.cat([degrade(references, recipe, row) for row in seeds]), torch.arange(len(references)).repeat(count)


def person_examples(one, references, degraded, which, targets=None):
    """What the distillation reads: degraded references, and what they should become.

    Args: one, a OneStep; references (R, 3, S, S), R >= 2; degraded (N, 3, S, S) and which (N,), of
    `degraded_references`; targets (T, 3, S, S), T <= N, what a teacher made of the first T of them; the references
    themselves are the targets of the others. All in [-1, 1].
    Returns Examples. Raises PictureError, PictureSizeError, and MissingPicturesError for a single reference, whose eyes
    would be its own target.
    """
    size = one.B.size
    references, degraded = check_pictures(references, size, "references"), check_pictures(degraded, size, "degraded")
    if len(references) < 2:
        raise MissingPicturesError("One reference: the embedder needs another one beside it. Remedy: give two or more.")
    goal = references[which].clone()
    if targets is not None and len(check_pictures(targets, size, "targets")) > len(degraded):
        raise PictureError(
            f"{len(targets)} targets of {len(degraded)} degraded pictures. Remedy: give at most as many."
        )
    if targets is not None:
        goal[: len(targets)] = targets
    whole = [torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2) for x in (references, degraded, goal)]
    return examples(one, *whole[:2], torch.zeros(len(references)), which, whole[2])


def distil(one, data, training=TRAINING, weights=WEIGHTS, rank=RANK):
    """Train a personal adapter on top of the restorer's own adapters, which stay fixed, as does the embedder.

    Args: one, a OneStep; data, `person_examples`; training; weights, without the adversarial loss; rank, of the
    adapter. Returns the personal OneStep, frozen. Raises as `lib.training.trainer.train`.
    """
    personal = with_adapter(one, rank, training.seed)
    every = dict(absent=(0, 0, 0, 0), most=data.others.shape[1])
    loss = OneStepLoss(personal, None, data, replace(weights, adversarial=0.0), training.batch, **every)
    known_by = (str(weights), str(rank), fingerprint(one), data.pictures, *data.known_by())
    train("personal one step", [personal.G], loss, training, known_by)
    return personal


def with_adapter(one, rank=RANK, seed=0):
    """The restorer with a new personal adapter beside its own; only the new one requires gradients."""
    own = list(getattr(one.G, "peft_config", {}))
    if not own or ADAPTER in own:
        what = "is personal already" if own else "has its adapters merged"
        raise PersonalWeightsError(f"the restorer {what}. Remedy: distil on what load_one_step returned.")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        G = adapted(one.G, rank, ADAPTER)
    G.set_adapters([*own, ADAPTER])
    for name, weight in G.named_parameters():
        weight.requires_grad_(f".{ADAPTER}." in name)
    return one.with_(G=G)
