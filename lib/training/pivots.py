"""Dual-pivot tuning: `textual_pivot` personalises G (eqs 2, 5, 6), `model_pivot` retargets E around it (eq. 7)."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

from lib.degradation.degrade import degrade
from lib.errors import PersonalWeightsError
from lib.models.personal_weights import hash_of
from lib.models.precision import offloaded
from lib.models.system import RARE_TOKEN
from lib.training.trainer import tune

AWAY = ("vae", "cleaner", "text_encoder")  # of no use to tuning once `prepare` and `embed` have been asked
ADAPTED = [
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "net.0.proj",
    "net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv",
    "time_emb_proj",
]
PUBLISHED_SHARE = 150 / 324  # the published code hands the first 150 of E's 324 tensors to its optimiser


def pivot_prompt(class_noun="person", token=RARE_TOKEN):
    """The text pivot p: "a photo of a sks person"."""
    return f"a photo of a {token} {class_noun}"


def class_prompt(prompt, token=RARE_TOKEN):
    """p^pr of eq. 2: the text pivot without its rare token, "a photo of a person"."""
    return prompt.replace(f"{token} ", "")


@dataclass
class Prepared:
    """Pictures made ready for tuning, once: clean latents and, for each, hints of several degradations of it."""

    latents: torch.Tensor  # (N, C, h, w)
    hints: torch.Tensor  # (N, K, C, h, w)
    source: str = (
        ""  # what they were made of, by which checkpoints know them: a GPU need not encode to the same bytes twice
    )

    def known_by(self):
        """What a checkpoint knows these shots by: their source, or the tensors themselves."""
        return (self.source,) if self.source else (self.latents, self.hints)

    def draw(self, count, g):
        """Latents and hints (count, C, h, w) of pictures and degradations drawn by generator `g`."""
        i = torch.randint(len(self.latents), (count,), generator=g)
        k = torch.randint(self.hints.shape[1], (count,), generator=g)
        return self.latents[i], self.hints[i, k]


def prepare(B, pictures, recipe="tiny", degradations=8, seed=0):
    """Caches what tuning needs of pictures (N, 3, H, W) in [-1, 1]: their latents, and hints of `degradations` draws each."""
    seeds = lambda k: [seed + 1000 * k + n for n in range(len(pictures))]  # noqa: E731
    hints = [
        B.in_parts(lambda x: B.encode(B.clean(x)), degrade(pictures, recipe, seeds(k))) for k in range(degradations)
    ]
    source = f"{hash_of(pictures)} {recipe} {degradations} {seed} {B.fingerprint('vae', 'cleaner')}"
    return Prepared(B.in_parts(B.encode, pictures), torch.stack(hints, 1), source)


def textual_pivot(B, shots, prompt, tuning, *, in_context=True, prior=None, prior_weight=1.0):
    """Step 1: G tuned around the text pivot. In context, eq. 6: E steers from the degraded references while G learns;
    out of context, eq. 5: G alone. With `prior` shots of other people, eq. 2's second term keeps the class.

    B: the frozen system; shots: the person's `prepare`d references; prompt: the text pivot; tuning: steps and the like,
    whose gamma leaves steps t >= (1 - gamma) T untrained (section IV-C). Returns the system with G_p in place of G.
    """
    G = tunable(B.G, tuning)
    null, text, plain = B.embed(["", prompt, class_prompt(prompt)])
    t_end = max(1, B.prompted_below(tuning.gamma))
    inside = B.with_(G=G, E=tuning.levers.frozen(B.E))

    def loss_of(g):
        loss = _eps_loss(inside, *shots.draw(tuning.batch, g), text, null, in_context, t_end, g)
        if prior is not None:
            loss = loss + prior_weight * _eps_loss(
                inside, *prior.draw(tuning.batch, g), plain, null, in_context, t_end, g
            )
        return loss

    others = () if prior is None else (*prior.known_by(), str(prior_weight))
    around = *shots.known_by(), prompt, *others, *_weights(B, *(("G", "E") if in_context else "G"))
    with offloaded(B, *AWAY, *(["G", "E"] if inside.E is not B.E else ["G"])):
        tune(G, loss_of, tuning, "G in context" if in_context else "G alone", around)
    return B.with_(G=settled(G))


def model_pivot(B_p, shots, prompt, tuning, *, trained="all"):
    """Step 2, eq. 7: E tuned around the fixed G_p. E has the empty prompt; G_p has `prompt` where eq. 8 will give it.

    Above (1 - gamma) T, G_p is asked without the prompt here as in eq. 8; the paper gives it the prompt at every step
    (so does gamma = 0). Otherwise E would be fitted to a G_p that restoration never asks.
    B_p: the system around the pivot; shots: `prepare`d pictures, the person's own or generic people; prompt: as in
    step 1, or "" to tune E around a G that was never personalised; trained: "all" of E or "repo150", the tensors that
    the published code trains (tuning.lora trains adapters instead). Returns the system with E_pr in place of E.
    Raises PersonalWeightsError for another `trained`.
    """
    check_part(trained, tuning.lora)
    E = tunable(B_p.E, tuning)
    if trained == "repo150":
        names = published_tensors(E)
        for name, weight in E.named_parameters():
            weight.requires_grad_(name in names)
    null, text = B_p.embed(["", prompt])
    t_prompt = B_p.prompted_below(tuning.gamma)
    inside = B_p.with_(E=E, G=tuning.levers.frozen(B_p.G))
    around = *shots.known_by(), prompt, *_weights(B_p, "G", "E")
    with offloaded(B_p, *AWAY, *(["G", "E"] if inside.G is not B_p.G else ["E"])):
        tune(
            E,
            lambda g: _eps_loss(inside, *shots.draw(tuning.batch, g), text, null, True, None, g, t_prompt),
            tuning,
            "E",
            around,
        )
    return B_p.with_(E=settled(E))


def _weights(B, *fields):
    """What a checkpoint knows the base by: an adapter's own weights do not tell."""
    return [weight for field in (*fields, "text_encoder") for weight in getattr(B, field).parameters()]


def check_part(trained, lora):
    """Raises PersonalWeightsError unless `trained` names a part of E that can be tuned, by adapters of rank `lora` if that is not 0."""
    if trained not in ("all", "repo150") or (lora and trained != "all"):
        raise PersonalWeightsError(
            f"no such part of E: {trained!r} with lora {lora}. Remedy: choose 'all' or, without lora, 'repo150'."
        )


def _eps_loss(B, x0, hint, text, null, in_context, t_end, g, t_prompt=None):
    """Mean squared error of eps (eqs 2, 5, 6, 7) at steps t < t_end; from `t_prompt` on, G too has the empty prompt."""
    t = torch.randint(t_end or B.scheduler.config.num_train_timesteps, (len(x0),), generator=g).to(x0.device)
    eps = torch.randn(x0.shape, generator=g).to(x0)
    x_t = B.scheduler.add_noise(x0, eps, t)  # (N, C, h, w)
    null = null.expand(len(x0), -1, -1)
    prompt = text.expand(len(x0), -1, -1)
    if t_prompt is not None:
        prompt = torch.where((t < t_prompt)[:, None, None], prompt, null)
    predicted = B.predict(x_t, t, prompt, hint if in_context else None, null)
    return F.mse_loss(predicted, eps)


def tunable(network, tuning):
    """A copy of G or E as a pivot tunes it: all weights requiring gradients, or adapters of rank `tuning.lora`, levers pulled.

    Adapters lie on every layer of the blocks: on attention alone they bring little of the identity, even at a rank as large on disk.
    """
    network, rank = copy.deepcopy(network).requires_grad_(True), tuning.lora
    if not rank:
        return tuning.levers.tuned(network)
    with torch.random.fork_rng():  # peft draws adapters from the global generator
        torch.manual_seed(tuning.seed)
        adapters = LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED, init_lora_weights="gaussian")
        return tuning.levers.tuned(get_peft_model(network, adapters))


def settled(network):
    """A tuned network whose adapters, if it has some, are rounded to the half precision in which they are kept; in place."""
    for name, weight in network.named_parameters():
        if "lora_" in name:
            weight.data = weight.half().to(weight.dtype)
    return network


def published_tensors(E):
    """Names of the tensors of E that the published code trains: the first 150 of 324, in its own order, or that share.

    At full size they end inside the fourth transformer: time embedding, first convolutions, the first level, and the
    second up to the last attention's second norm (systems.md section 1).
    """
    names = sorted((name for name, _ in E.named_parameters()), key=_published_order)
    return set(names[: round(PUBLISHED_SHARE * (len(names) - 1)) + 1])  # one more: our first convolution is two


def _published_order(name):
    part = name.split(".")
    if part[0] != "down_blocks":
        order = ["time_embedding", "conv_in", "controlnet_cond_embedding", None, "controlnet_down_blocks", "mid_block"]
        return (order.index(part[0]) if part[0] in order else len(order),)
    inside = ["norm", "proj_in", "attn1", "ff", "attn2", "norm1", "norm2", "norm3", "proj_out"]
    piece = part[6] if part[4] == "transformer_blocks" else part[4]
    kind = ["resnets", "attentions"].index(part[2]) if part[2] != "downsamplers" else 0
    layer = int(part[3]) if part[2] != "downsamplers" else 99
    return 3, int(part[1]), layer, kind, inside.index(piece) if kind else 0
