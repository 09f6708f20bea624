"""Dual-pivot tuning: `textual_pivot` personalises G (eqs 2, 5, 6), `model_pivot` retargets E around it (eq. 7)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from lib import checks
from lib.degradation.degrade import degrade
from lib.errors import PictureError, RangeError
from lib.images import check_pictures
from lib.models.personal_weights import Personal, picture_hash
from lib.models.precision import move_to_device, offloaded
from lib.models.system import GAMMA, RARE_TOKEN
from lib.training.trainer import Training, train
from lib.training.tunable import check_trained, restrict_to_published, settle, tunable

PARTS = ("vae", "cleaner", "text_encoder", "G", "E")  # latents, hints and text embeddings are computed before tuning
TINY = Training(steps=120, lr=2e-4), Training(steps=50, lr=1e-4)
PAPER = Training(steps=2500, lr=8e-6, batch=1), Training(steps=800, lr=5e-5, batch=1)  # appendix C


@dataclass
class Prepared:
    """Pictures prepared for tuning: their latents, and the hints of several degradations of each."""

    latents: torch.Tensor  # (N, C, h, w)
    hints: torch.Tensor  # (N, K, C, h, w)
    references: str = ""  # hash of the pictures
    source: str = ""  # hash of pictures, recipe and base, stored in checkpoints

    def sample(self, count, g):
        """Latents and hints (count, C, h, w) of random pictures and degradations, drawn with generator `g`."""
        i = torch.randint(len(self.latents), (count,), generator=g)
        k = torch.randint(self.hints.shape[1], (count,), generator=g)
        return self.latents[i], self.hints[i, k]


def default_trainings(B):
    """(textual, model) settings for a system: the paper's at 512 px, this workbook's below."""
    return PAPER if B.size >= 512 else TINY


def prepare(B, pictures, recipe=None, degradations=8, seed=0):
    """Compute once what tuning reads: latents of pictures, and hints of `degradations` random degradations of each.

    Args: B; pictures, (N, 3, S, S) in [-1, 1]; recipe, of lib.degradation.recipes, None for the system's own;
    degradations >= 1; seed. The paper degrades anew at each step: the more degradations, the nearer to it.
    Returns Prepared. Raises PictureError, RecipeError, RangeError.
    """
    pictures, degradations = check_pictures(pictures, B.size), checks.whole("degradations", degradations, least=1)
    recipe = B.recipe if recipe is None else recipe
    hints = []
    for k in range(degradations):
        seeds = [seed + 1000 * k + n for n in range(len(pictures))]
        hints.append(B.in_chunks(lambda x: B.encode(B.clean(x)), degrade(pictures, recipe, seeds)))
    base, references = B.fingerprint("vae", "cleaner"), picture_hash(pictures)
    source = f"{references} {recipe} {degradations} {seed} {base}"
    return Prepared(B.in_chunks(B.encode, pictures), torch.stack(hints, 1), references, source)


def textual_pivot(
    B,
    data,
    class_noun="person",
    training=None,
    *,
    token=RARE_TOKEN,
    gamma=GAMMA,
    in_context=True,
    prior=None,
    weight=1.0,
):
    """Step 1: tune G around the text pivot "a photo of a sks person". The text stays fixed.

    In context (eq. 6), E conditions G on the degraded references while G is tuned. Out of context (eq. 5), G is tuned
    alone. With `prior`, eq. 2's second term preserves the class.
    Args: B, the blind system; data, the person's `prepare`d references; class_noun; training, None for
    `default_trainings`; token; gamma in [0, 1]: only steps t < (1 - gamma) T are tuned (section IV-C); prior,
    `prepare`d pictures of other people; weight of the prior's term. B is frozen.
    Returns the system {G_p, E}, frozen, with its `personal` settings. Raises PictureError when data or prior is not
    prepared, RangeError, CheckpointError, TrainingError, PersonalWeightsError (adapters of another rank in B).
    """
    training = training or default_trainings(B)[0]
    personal = Personal(token, class_noun, checks.fraction("gamma", gamma), _steps(B, textual=training.steps))
    personal = replace(personal, seed=training.seed, references=_prepared(data).references)
    prior, weight = None if prior is None else _prepared(prior), checks.finite("weight", weight)
    if not token.strip():
        raise RangeError(f"token out of range: {token!r}. Remedy: give a rare word, such as {RARE_TOKEN!r}.")
    move_to_device(B, [B.base] if B.base else [])
    G = tunable(B.freeze().G, training)
    E = training.precision.frozen(B.E) if in_context else B.E
    loss = TextualLoss(B.with_(G=G, E=E), data, personal, training.batch, in_context, prior, weight)
    name = "G in context" if in_context else "G alone"
    known_by = [*data_known_by(data, prior, weight), *_settings(personal), *_weights(B, in_context)]
    with offloaded(B, *_waiting(B, G, *([E] if in_context else []))):
        train(name, [G], loss, training, known_by)
    return B.personalised(personal, G=settle(G, training))


def model_pivot(B_p, data, training=None, *, trained="all"):
    """Step 2, eq. 7: tune E around the model pivot, the personalised G_p, which stays fixed.

    E has the empty prompt. G_p has the person's prompt at t < (1 - gamma) T and the empty prompt above, as it will have
    in restoration (eq. 8). The paper gives it the prompt at every step; gamma = 0 does.
    Args: B_p, what `textual_pivot` returned, or a blind system, whose G then has the empty prompt; data, `prepare`d
    pictures, of the person or of generic people; training, None for `default_trainings`; trained, "all" of E or
    "repo150", the tensors that the published code trains.
    Returns the system {G_p, E_pr}, frozen. Raises as `textual_pivot`.
    """
    training = training or default_trainings(B_p)[1]
    check_trained(trained, training.lora)
    blind = Personal(token="", seed=training.seed, references=_prepared(data).references)
    personal = replace(B_p.personal or blind, steps=_steps(B_p, model=training.steps))
    move_to_device(B_p, [B_p.base] if B_p.base else [])  # the base's own networks are not needed
    E = tunable(B_p.freeze().E, training)
    if trained == "repo150":
        restrict_to_published(E)
    G = training.precision.frozen(B_p.G)
    loss = ModelLoss(B_p.with_(E=E, G=G), data, personal, training.batch)
    known_by = [*data_known_by(data), *_settings(personal), trained, *_weights(B_p, True)]
    with offloaded(B_p, *_waiting(B_p, G, E)):
        train("E", [E], loss, training, known_by)
    return B_p.personalised(personal, E=settle(E, training))


def dual_pivot(
    B,
    references,
    class_noun="person",
    *,
    recipe=None,
    textual=None,
    model=None,
    degradations=8,
    trained="all",
    **options,
):
    """Both steps of the paper: the textual pivot, then the model pivot.

    Args: B, the blind system; references, pictures (N, 3, S, S) in [-1, 1]; recipe by which they are degraded, None
    for the system's own; textual and model, a Training each, None for `default_trainings`; degradations as of
    `prepare`; trained as of `model_pivot`; options as of `textual_pivot`: token, gamma, in_context, prior, weight.
    Returns the personalised system {G_p, E_pr}: restore with it, `save_personal` it. Raises as both steps.
    """
    textual = textual or default_trainings(B)[0]
    data = prepare(B, references, recipe, degradations, textual.seed)
    return model_pivot(textual_pivot(B, data, class_noun, textual, **options), data, model, trained=trained)


def eps_loss(B, x0, hint, prompt, null, t, eps):
    """Mean squared error of the predicted noise: the loss of eqs 2, 5, 6 and 7.

    Args: B, whose G or E requires gradients; x0, latents (N, C, h, w); hint, (N, C, h, w), or None out of context;
    prompt, of G, and null, of E, (N, L, D); t, (N,) steps; eps, (N, C, h, w) noise. Returns a scalar.
    """
    x_t = B.scheduler.add_noise(x0, eps, t)  # (N, C, h, w)
    return F.mse_loss(B.predict(x_t, t, prompt, hint, null), eps)


def sample_noise(x0, t_end, g):
    """Random steps t < t_end, (N,), and noise eps, (N, C, h, w), drawn with generator `g`."""
    t = torch.randint(t_end, (len(x0),), generator=g).to(x0.device)
    return t, torch.randn(x0.shape, generator=g).to(x0)


class TextualLoss:
    """The terms of eq. 2 for tuning G: the person's pictures with p, other people's with the class prompt."""

    def __init__(self, B, data, personal, batch, in_context, prior=None, weight=1.0):
        self.B, self.batch, self.in_context = B, batch, in_context
        self.null, self.prompt, self.class_prompt = B.embed(["", personal.prompt, personal.class_prompt])  # (L, D)
        self.t_end = max(1, B.prompted_below(personal.gamma))
        self.terms = [(data, self.prompt, 1.0)] + ([(prior, self.class_prompt, weight)] if prior is not None else [])

    def __call__(self, g):
        for data, prompt, weight in self.terms:
            x0, hint = data.sample(self.batch, g)
            t, eps = sample_noise(x0, self.t_end, g)
            null, text = (words.expand(len(x0), -1, -1) for words in (self.null, prompt))  # (N, L, D)
            yield weight * eps_loss(self.B, x0, hint if self.in_context else None, text, null, t, eps)


class ModelLoss:
    """The loss of eq. 7 for tuning E around G_p: G_p has the prompt below (1 - gamma) T, the empty one above."""

    def __init__(self, B, data, personal, batch):
        self.B, self.data, self.batch = B, data, batch
        self.null, self.prompt = B.embed(["", personal.prompt])  # (L, D)
        self.t_prompt, self.t_end = B.prompted_below(personal.gamma), B.scheduler.config.num_train_timesteps

    def __call__(self, g):
        x0, hint = self.data.sample(self.batch, g)
        t, eps = sample_noise(x0, self.t_end, g)
        null, text = (words.expand(len(x0), -1, -1) for words in (self.null, self.prompt))  # (N, L, D)
        text = torch.where((t < self.t_prompt)[:, None, None], text, null)
        return eps_loss(self.B, x0, hint, text, null, t, eps)


def _prepared(data):
    if not isinstance(data, Prepared):
        raise PictureError(
            f"{type(data).__name__} where prepared pictures are wanted. Remedy: data = prepare(B, pictures, recipe)."
        )
    return data


def _steps(B, textual=0, model=0):
    """Steps of both pivots after further ones: those that the system was tuned for already count."""
    before = B.personal.steps if B.personal else (0, 0)
    return before[0] + textual, before[1] + model


def _waiting(B, *used):
    """Names of the parts that tuning does not use. A frozen copy may share its weights with one, which is used then."""
    held = {id(weight) for network in used for weight in network.parameters()}
    return [name for name in PARTS if not any(id(weight) in held for weight in getattr(B, name).parameters())]


def data_known_by(data, prior=None, weight=1.0):
    """By what a checkpoint recognises its data: hashes where there are some, else the tensors themselves."""
    known_by = []
    for one in (data, prior):
        if one is not None:
            known_by += [one.source] if one.source else [one.latents, one.hints]
    return [*known_by, str(weight)]


def _settings(personal):
    """What a checkpoint's personal settings are recognised by."""
    return personal.prompt, personal.class_prompt, str(personal.gamma)


def _weights(B, with_E):
    """The weights that a checkpoint's base consists of: those of an adapter alone do not tell."""
    networks = [B.G, B.E, B.text_encoder] if with_E else [B.G, B.text_encoder]
    return [weight for network in networks for weight in network.parameters()]
