"""Fig. 6: one E for several people, tuned around the G of each of them in turn."""

import torch

from lib.errors import RangeError
from lib.models.precision import move_to_device
from lib.training.pivots import ModelLoss, data_known_by, default_trainings
from lib.training.trainer import train
from lib.training.tunable import settle, tunable


def shared_model_pivot(people, training=None):
    """Eq. 7 for several people at once (section IV-C): every step takes one person's G_p, prompt and pictures.

    Args: people, pairs of the system that `textual_pivot` returned and its `prepare`d references, all of one base;
    training, None for `default_trainings`.
    Returns E, frozen. Raises RangeError without people, CheckpointError, TrainingError.
    """
    people = list(people)
    if not people:
        raise RangeError("No people to share an E. Remedy: give pairs of a tuned system and its prepared references.")
    training = training or default_trainings(people[0][0])[1]
    for B_p, _ in people:
        move_to_device(B_p.freeze(), [B_p.base] if B_p.base else [])
    E = tunable(people[0][0].E, training)
    losses = [ModelLoss(B_p.with_(E=E), data, B_p.personal, training.batch) for B_p, data in people]
    known_by = [
        part
        for B_p, data in people
        for part in (*data_known_by(data), B_p.personal.prompt, str(B_p.personal.gamma), *B_p.G.parameters())
    ]
    train(
        "E of several", [E], lambda g: losses[int(torch.randint(len(losses), (), generator=g))](g), training, known_by
    )
    return settle(E, training)
