"""Section IV-C: at which timesteps identity forms, what gamma and low-noise tuning do, and how many steps tuning needs.

Every function that a sweep computes takes (study, person, settings, folder) and returns rows of one person.
"""

from dataclasses import replace

import torch

from lib import checks
from lib.errors import RangeError
from lib.metrics.headline import headline_values
from lib.restoration.sampling import clean_latent
from lib.studies.person import prior_data
from lib.studies.study import rows_of
from lib.studies.sweep import Tunings, scored, shared_folder
from lib.training.shared import shared_model_pivot

GENERIC = 32  # pictures of other people that a generic E is tuned on
WHOLE, EQUAL, PROPORTIONAL = "all timesteps", "low noise, equal steps", "low noise, steps in proportion"


# ---- when identity forms ----


@torch.no_grad()
def apart(one, other, data, timesteps, seed=0, with_E=True):
    """How far the predictions of two (system, prompt of G) lie apart, per timestep, on the same x_t and hints.

    Args: one, other, pairs of a System and a prompt; data, `prepare`d pictures; timesteps; seed of the noise; with_E,
    False for the predictions of G alone.
    Returns rows (t, eps, x_0, picture): norm of the difference of the predicted noise over the norm of the noise; of
    the clean latents over the norm of the true ones; root mean square of the decoded difference, pictures in [-1, 1].
    """
    B, x0, rows, hint = one[0], data.latents, [], data.hints[:, 0] if with_E else None
    for t in timesteps:
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + t)).to(x0)
        x_t = B.scheduler.add_noise(x0, eps, torch.full((len(x0),), t, device=x0.device))  # (N, C, h, w)
        predicted = [_predict(system, prompt, x_t, t, hint) for system, prompt in (one, other)]
        clean = [clean_latent(B, x_t, t, noise) for noise in predicted]
        pictures = [B.in_chunks(B.decode, z) for z in clean]
        rows.append(
            {
                "t": int(t),
                "eps": float((predicted[0] - predicted[1]).norm() / eps.norm()),
                "x_0": float((clean[0] - clean[1]).norm() / x0.norm()),
                "picture": float((pictures[0] - pictures[1]).square().mean().sqrt()),
            }
        )
    return rows


def _predict(B, prompt, x_t, t, hint):
    null, text = (words.expand(len(x_t), -1, -1) for words in B.embed(["", prompt]).split(1))  # (N, L, D)
    return B.predict(x_t, torch.full((len(x_t),), t, device=x_t.device), text, hint, null)


def chosen_gamma(curve, share=0.1):
    """The largest gamma, in tenths, whose steps without the prompt hold at most `share` of the difference in eps.

    Args: curve, a Series of the difference by t, evenly spaced over the schedule of 1000 steps; share in [0, 1].
    Returns a float. Raises RangeError.
    """
    share = checks.fraction("share", share)
    held = {k / 10: float(curve[curve.index >= 1000 - 100 * k].sum() / curve.sum()) for k in range(10)}
    return max(gamma for gamma, part in held.items() if part <= share)


def when_identity_forms(study, person, settings, folder):
    """Rows (pair, t, eps, x_0, picture) of one person; settings: the timesteps.

    Pairs: the person's prompt against the empty one in the tuned system, and the tuned system against the blind one.
    """
    tunings = Tunings(study, person, folder)
    B, B_p = study.B, tunings.textual("whole", gamma=0.0)
    p = B_p.personal.prompt
    pairs = {"prompt − no prompt": ((B_p, p), (B_p, "")), "tuned − blind": ((B_p, p), (B, ""))}
    return [
        {"pair": name, **row}
        for name, (one, other) in pairs.items()
        for row in apart(one, other, tunings.data, settings)
    ]


# ---- gamma, and which steps are tuned ----


def check_gammas(gammas):
    """The shares, each in [0, 1) so that a step is left to tune. Raises RangeError."""
    for gamma in checks.distinct("gammas", gammas):
        if checks.fraction("gamma", gamma) == 1:
            raise RangeError("gamma out of range: 1 leaves no step to tune. Remedy: give shares from 0 to below 1.")
    return list(gammas)


def gamma_and_training(study, person, settings, folder):
    """Rows (training, gamma, ...) of one person; settings: the gammas.

    G is tuned on all timesteps, or on t < (1 - gamma) T with as many steps, or with steps in proportion to the range.
    At gamma 0 the three are the same, and the first is computed.
    """
    gammas, all_steps, rows = check_gammas(settings), study.plan.textual.steps, []
    tunings = Tunings(study, person, folder)
    whole = tunings.textual("whole", gamma=0.0)
    for gamma in gammas:
        systems, name, fewer = {WHOLE: whole}, f"gamma {gamma}", max(1, round((1 - gamma) * all_steps))
        if gamma:
            systems |= {
                PROPORTIONAL: tunings.textual(name, fewer, gamma=gamma),
                EQUAL: tunings.textual(name, gamma=gamma),
            }
        for training, B_p in systems.items():
            rows += tunings.rows(B_p, dict(gamma=gamma), training=training, gamma=gamma)
    return rows + tunings.rows(study.B, training="blind", gamma=0.0)


# ---- steps to equal quality ----


def check_counts(counts):
    """Numbers of tuning steps, each a whole number of at least 1, in order. Raises RangeError."""
    return sorted(checks.whole("steps", steps, least=1) for steps in checks.distinct("steps", counts))


STEP_KINDS = {  # textual tunings of `quality_by_steps`
    "in context, low noise": dict(gamma=0.5, in_context=True),
    "in context, all timesteps": dict(gamma=0.0, in_context=True),
    "alone, low noise": dict(gamma=0.5, in_context=False),
}
PIVOTS_OF_E = "in context, low noise", "alone, low noise"  # around whose G the model pivot is tuned, too


def quality_by_steps(study, person, settings, folder):
    """Rows (pivot, kind, steps, ...) of one person; settings: numbers of steps, for `textual` and `model`.

    The model pivots are tuned around G of the plan's steps, tuned in context and alone.
    """
    tunings, rows = Tunings(study, person, folder), []
    budget = study.plan.textual.steps
    for kind, options in STEP_KINDS.items():
        for steps in sorted({*settings["textual"], budget}):
            B_p = tunings.textual(kind, steps, **options)
            rows += tunings.rows(B_p, pivot="textual", kind=kind, steps=steps)
            if steps == budget and kind in PIVOTS_OF_E:
                rows += tunings.rows(B_p, pivot="model", kind=kind, steps=0)
                for model_steps in sorted(settings["model"]):
                    B_2 = tunings.model(kind, B_p, model_steps)
                    rows += tunings.rows(B_2, pivot="model", kind=kind, steps=model_steps)
    return rows + tunings.rows(study.B, pivot="none", kind="blind", steps=0)


# ---- one E for everybody ----


def shared_encoder(study, person, settings, folder):
    """Rows (E, ...) of one person's G with the E of others; settings: names of the donors of E.

    E: the base's; the person's own; each donor's, tuned around the donor's G; one tuned on generic people around this
    person's G. Rows of the metric "identity to donor" say whether the donor leaks into the person.
    """
    donors, shared = [study.open(name) for name in settings], shared_folder(folder.parent.parent)
    names = [donor.name for donor in donors]

    def tuned(who):  # a donor's tunings serve all people
        place = shared / str(names.index(who.name)) if who.name in names else folder
        tunings = Tunings(study, who, place)
        B_p = tunings.textual("own")
        return tunings, B_p, tunings.model("own E", B_p).E

    tunings, B_p, own = tuned(person)
    generic = prior_data(study.B, person, GENERIC, study.plan.recipe, study.plan.steps, study.plan.textual.precision)
    encoders = {"base": study.B.E, "own": own, "generic": tunings.model("generic E", B_p, data=generic).E}
    restored = {name: tunings.restored(B_p.with_(E=E)) for name, E in encoders.items()}
    rows = [row for name, pictures in restored.items() for row in scored(person, pictures, E=name)]
    for donor in donors:
        if donor.name != person.name:
            lent = tunings.restored(B_p.with_(E=tuned(donor)[2]))
            rows += scored(person, lent, E=donor.name) + leak(donor, lent, E=donor.name)
            rows += leak(donor, restored["own"], E=f"own, beside {donor.name}")
    return rows


def encoder_of_several(study, person, settings, folder):
    """Rows of one person's G beside one E tuned on others, each with their own G; settings: the others' names.

    Each of them has as many steps as the plan gives to step 2.
    """
    shared = shared_folder(folder.parent.parent)
    others = {k: name for k, name in enumerate(settings) if name != person.name}
    people = []
    for k, name in others.items():
        tunings = Tunings(study, study.open(name), shared / f"of several {k}")
        people.append((tunings.textual("own"), tunings.data))
    together, model = shared / f"E of {'-'.join(map(str, others))}", study.plan.model
    E = shared_model_pivot(people, replace(model, steps=model.steps * len(people), folder=str(together)))
    tunings = Tunings(study, person, folder)
    return tunings.rows(tunings.textual("own").with_(E=E), E="several")


def leak(donor, restored, **labels):
    """Rows of the identity of restorations to another person's references."""
    found = headline_values(restored, None, donor.references, donor.scorer)
    return rows_of({"identity to donor": found["identity"]}, **labels)
