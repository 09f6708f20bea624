"""The blind restorer B = {G, E} of eq. 4 and the parts around it.

G is a latent diffusion UNet with text cross-attention. E is a control network; its hint is the latent of the cleaned
photograph. The same diffusers and transformers classes serve at every scale.
"""

import copy
import functools
import hashlib
import json
import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from peft import PeftModel
from transformers import CLIPTextModel, CLIPTokenizer

from lib.errors import RecipeError, WeightsError
from lib.models.swinir import SwinIR
from lib.paths import atomic_write

MAX_PIXELS = 2**18  # of one pass through the autoencoder: one picture of 512 px; more needs memory and saves no time
RARE_TOKEN = "sks"  # in no caption of the training data, so its meaning is free
GAMMA = 0.5  # section IV-C: share of the schedule, from the noisy end, in which G has no prompt
CLASS_PROMPT = "a photo of a person"


class LatentControlNet(ControlNetModel):
    """E: a control network whose hint is a latent, as DiffBIR's IRControlNet.

    A first convolution over [x_t, hint] is the sum of two convolutions. So one bias-free 3x3 convolution on the hint
    replaces the image embedding of diffusers. Source: DiffBIR, cldm.yaml (hint_channels 4).
    """

    @functools.wraps(ControlNetModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hint = torch.nn.Conv2d(self.config.in_channels, self.config.block_out_channels[0], 3, padding=1, bias=False)
        torch.nn.init.zeros_(hint.weight)
        self.controlnet_cond_embedding = hint


class Cleaner(UNet2DModel):
    """The stage-1 cleaner of the tiny scale: a regression to the clean picture, on pixels unshuffled by 4.

    It estimates the mean of the clean pictures that fit, so at heavy degradation it can draw what is not there.
    """

    def clean(self, pictures):
        """Clean pictures (N, 3, H, W) in [-1, 1], H and W multiples of 16; returns the same shape."""
        folded = F.pixel_unshuffle(pictures, 4)  # (N, 48, H/4, W/4)
        residual = F.pixel_shuffle(self(folded, 0).sample, 4)  # (N, 3, H, W)
        return (pictures + residual).clamp(-1, 1)


PARTS = {
    "unet": UNet2DConditionModel,
    "control": LatentControlNet,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "cleaner": Cleaner,
}
OTHERS = {"SwinIR": SwinIR}  # classes that a part's config.json may name instead
FIELD = {"unet": "G", "control": "E"}  # a folder has diffusers' names, the object the paper's


@dataclass
class System:
    """B of eq. 4: the generative prior `G`, the guiding encoder `E`, and the parts around them.

    A personalised system also has `personal` (lib.models.personal_weights.Personal) and its `base`.
    """

    G: UNet2DConditionModel
    E: LatentControlNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    cleaner: Cleaner | SwinIR
    provenance: dict = field(default_factory=dict)
    personal: object = None  # Personal: prompt, gamma and what else belongs to the tuned weights
    base: "System | None" = None  # the blind system that was tuned
    home: torch.device | None = None  # where the system works, also while some of its parts wait on the CPU

    @property
    def device(self):
        """The device that the system works on."""
        return self.home or self.G.device

    @property
    def fold(self):
        """Factor of the pixel unshuffle before the autoencoder: 4 at the tiny scale, for speed on a CPU; 1 at full."""
        return math.isqrt(self.vae.config.in_channels // 3)

    @property
    def size(self):
        """Side of a picture in pixels."""
        return self.vae.config.sample_size * self.fold

    @property
    def recipe(self):
        """Name of the degradation that tuning and restoring use where no other is given. Raises RecipeError."""
        if name := self.provenance.get("recipe"):
            return name
        raise RecipeError("The system has no recipe of its own. Remedy: name one (RECIPE in a notebook).")

    def modules(self):
        """The networks by the names of a system folder."""
        return {name: getattr(self, FIELD.get(name, name)) for name in PARTS}

    def to(self, device):
        """Move every part to `device`; returns the system."""
        self.home = torch.device(device)
        for module in self.modules().values():
            module.to(device)
        return self

    def freeze(self):
        """Turn gradients off and set evaluation mode for every part; returns the system."""
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        return self

    def with_(self, **parts):
        """The same system with other parts, as in eq. 5: `B.with_(G=G_p)` is {G_p, E}."""
        return replace(self, **parts)

    def personalised(self, personal, **parts):
        """This system with tuned parts and the `personal` settings that belong to them; remembers its base."""
        return replace(self, personal=personal, base=self.base or self, **parts)

    def in_chunks(self, function, batch):
        """Apply `function` to a batch (N, ...) in chunks of at most MAX_PIXELS pixels; returns the joined results."""
        return torch.cat([function(chunk) for chunk in batch.split(max(1, MAX_PIXELS // self.size**2))])

    def posterior(self, pictures):
        """The autoencoder's distribution over unscaled latents of pictures (N, 3, H, W) in [-1, 1]."""
        return self.vae.encode(F.pixel_unshuffle(pictures.to(self.device), self.fold)).latent_dist

    def picture(self, unscaled):
        """Pictures (N, 3, H, W), not clamped, of unscaled latents (N, C, H/8, W/8)."""
        return F.pixel_shuffle(self.vae.decode(unscaled).sample, self.fold)

    @torch.no_grad()
    def encode(self, pictures):
        """Latents (N, C, H/8, W/8) of pictures (N, 3, H, W) in [-1, 1]: the posterior's mode at unit variance."""
        return self.posterior(pictures).mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents, clamp=True):
        """Pictures (N, 3, H, W) of latents (N, C, H/8, W/8), clamped to [-1, 1] unless told otherwise."""
        pictures = self.picture(latents / self.vae.config.scaling_factor)
        return pictures.clamp(-1, 1) if clamp else pictures

    @torch.no_grad()
    def clean(self, degraded):
        """Output (N, 3, H, W) of the stage-1 cleaner for degraded pictures (N, 3, H, W) in [-1, 1]."""
        return self.cleaner.clean(degraded.to(self.device))

    @torch.no_grad()
    def embed(self, prompts):
        """Text embeddings (N, L, D) of a list of prompts; "" is the empty prompt of eq. 1. L is 40, at full size 77."""
        length = self.tokenizer.model_max_length
        options = dict(padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        tokens = self.tokenizer(list(prompts), **options).input_ids  # (N, L)
        return self.text_encoder(tokens.to(self.device)).last_hidden_state

    def predict(self, x_t, t, prompt, hint=None, null=None):
        """The noise that B predicts: G(x_t, prompt) plus the residuals of E(x_t, hint) under the empty prompt.

        Args: x_t, hint, (N, C, h, w); t, (N,) steps of the schedule; prompt, null, (N, L, D) embeddings. Without a
        hint, G predicts alone, out of the context of B (eq. 5). Returns (N, C, h, w).
        """
        if hint is None:
            return self.G(x_t, t, prompt).sample
        down, mid = self.E(x_t, t, null, controlnet_cond=hint, return_dict=False)
        return self.G(x_t, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    def prompted_below(self, gamma):
        """The step below which G has its prompt, (1 - gamma) T: a threshold on t, in tuning and in sampling alike.

        Eq. 8 states gamma as a share of the sampling steps. The two differ by at most one step.
        """
        return round((1 - gamma) * self.scheduler.config.num_train_timesteps)

    def fingerprint(self, *parts):
        """16 hex digits of a SHA-256 over weights: of the named parts, or of everything that decides a prediction.

        The latter includes the autoencoder's scaling factor, the scheduler and the tokenizer. Personal weights and
        checkpoints record it. It is computed once, until a weight changes.
        """
        modules = {name: module for name, module in self.modules().items() if not parts or name in parts}
        settings = "" if parts else self._settings()
        seen = _versions(modules), settings
        cache = self.__dict__.setdefault("_fingerprints", {})
        if cache.get(parts, (None, None))[0] != seen:
            cache[parts] = seen, _digest(modules, settings)
        return cache[parts][1]

    def _settings(self):
        """The settings besides weights that decide a prediction, as text: the same before and after saving."""
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        names = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")  # padding is that of a call
        tokens = [tokenizer.get(name) for name in names], self.tokenizer.pad_token, self.tokenizer.model_max_length
        # names with an underscore are notes of diffusers, such as its version
        scheduler = {name: value for name, value in self.scheduler.config.items() if not name.startswith("_")}
        settings = [self.vae.config.scaling_factor, self.fold, scheduler, tokens]
        return json.dumps(settings, default=str, sort_keys=True)

    def save(self, folder, dtype=torch.float16):
        """Write a system folder in diffusers' layout, safetensors in `dtype`; whole or not at all.

        Raises WeightsError for a system with adapters, whose own format is that of `save_personal`.
        """
        if isinstance(self.G, PeftModel) or isinstance(self.E, PeftModel):
            raise WeightsError(f"adapters are no system: {folder}. Remedy: B_p.save_personal(folder) saves them.")
        with atomic_write(folder) as aside:
            for name, module in self.modules().items():
                copy.deepcopy(module).to(dtype).save_pretrained(aside / name)
            self.tokenizer.save_pretrained(aside / "tokenizer")
            self.scheduler.save_pretrained(aside / "scheduler")
            (aside / "provenance.json").write_text(json.dumps(self.provenance, indent=1) + "\n")

    def save_personal(self, folder):
        """Write the personal weights of this tuned system; see `lib.models.personal_weights.save`."""
        from lib.models import personal_weights  # which imports this module

        personal_weights.save(folder, self)


def _versions(modules):
    """What differs after any change of a weight, and is quick to compute."""
    weights = [weight for module in modules.values() for weight in module.state_dict().values()]
    # a change through `weight.data` keeps address and version, but hardly the sum
    return [(weight.data_ptr(), weight._version, float(weight.sum())) for weight in weights]


def _digest(modules, settings):
    digest = hashlib.sha256(settings.encode())
    for name, module in modules.items():
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}".encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def ddpm():
    """The noise schedule of SD 2.1 with DiffBIR's sampling: evenly spaced ancestral steps from 999 to 0.

    It predicts eps and has the fixed small variance of the respaced DDPM.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="linspace",
        variance_type="fixed_small",
        clip_sample=False,
    )


def encoder_from(G):
    """E before training: a copy of G's encoder whose hint convolution and output convolutions are zero."""
    return LatentControlNet.from_unet(G)


def clean_latent(B, x_t, t, eps):
    """Eq. 2: the x_0 that a prediction of the noise implies, (x_t - sqrt(1 - abar) eps) / sqrt(abar); (N, C, h, w)."""
    abar = B.scheduler.alphas_cumprod[t].to(x_t)
    return (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
