"""The blind restorer B = {G, E} and the parts around it: built, saved, loaded, called (eq. 4).

G is a latent diffusion UNet with text cross-attention; E a control network whose hint is the latent of the
cleaned photograph. The same diffusers and transformers classes serve at every scale.
"""

import copy
import functools
import hashlib
import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lib.errors import WeightsError
from lib.models.swinir import SwinIR
from lib.paths import atomic_write

AT_ONCE = 2**18  # pixels that the autoencoder holds together: one picture of 512 px
RARE_TOKEN = "sks"  # never in a caption, so its meaning is free
CLASS_PROMPT = "a photo of a person"


class LatentControlNet(ControlNetModel):
    """E: a control network that takes a latent as hint, as DiffBIR's IRControlNet does.

    A first convolution over [x_t, hint] is the sum of two, so the stock picture embedding of diffusers
    is replaced by one bias-free 3x3 convolution on the hint. Source: DiffBIR, cldm.yaml (hint_channels 4).
    """

    @functools.wraps(ControlNetModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hint = torch.nn.Conv2d(self.config.in_channels, self.config.block_out_channels[0], 3, padding=1, bias=False)
        torch.nn.init.zeros_(hint.weight)
        self.controlnet_cond_embedding = hint


class Cleaner(UNet2DModel):
    """Stage 1: removes noise and blur, invents nothing; a regression on pixels unshuffled by 4."""

    def clean(self, pictures):
        """The cleaned pictures; `pictures` (N, 3, H, W) in [-1, 1], H and W multiples of 16; the same shape."""
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
    """B of eq. 4: the generative prior `G`, the guiding encoder `E`, and what they need around them."""

    G: UNet2DConditionModel
    E: LatentControlNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    cleaner: Cleaner | SwinIR
    provenance: dict = field(default_factory=dict)

    @property
    def device(self):
        return self.vae.device

    @property
    def fold(self):
        """Pixels folded into channels before the autoencoder: 4 at the tiny scale, where a CPU trains it, 1 at full."""
        return math.isqrt(self.vae.config.in_channels // 3)

    @property
    def size(self):
        """Side of a picture in pixels."""
        return self.vae.config.sample_size * self.fold

    def modules(self):
        return {name: getattr(self, FIELD.get(name, name)) for name in PARTS}

    def to(self, device):
        """Moves every part to `device`; returns the system."""
        for module in self.modules().values():
            module.to(device)
        return self

    def freeze(self):
        """No gradients, evaluation mode: how every part stands but the one being tuned."""
        for module in self.modules().values():
            module.requires_grad_(False).eval()
        return self

    def with_(self, **parts):
        """The same system with other parts, as in eq. 5: `B.with_(G=G_p)` is {G_p, E}."""
        return replace(self, **parts)

    def in_parts(self, made, batch):
        """`made` of a batch, AT_ONCE pixels after the other: four pictures of 512 px at once take 3 GB in the autoencoder, and no less time."""
        return torch.cat([made(part) for part in batch.split(max(1, AT_ONCE // self.size**2))])

    def posterior(self, pictures):
        """The autoencoder's distribution over unscaled latents of pictures (N, 3, H, W) in [-1, 1]."""
        return self.vae.encode(F.pixel_unshuffle(pictures.to(self.device), self.fold)).latent_dist

    def picture(self, unscaled):
        """Pictures (N, 3, H, W), not clamped, of unscaled latents (N, C, H/8, W/8)."""
        return F.pixel_shuffle(self.vae.decode(unscaled).sample, self.fold)

    @torch.no_grad()
    def encode(self, pictures):
        """Latents of pictures: the mode of the posterior, scaled to unit variance (as DiffBIR takes its hint).

        pictures: (N, 3, H, W) RGB in [-1, 1]; returns (N, C, H/8, W/8).
        """
        return self.posterior(pictures).mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents):
        """Pictures (N, 3, H, W) in [-1, 1] of latents (N, C, H/8, W/8)."""
        return self.picture(latents / self.vae.config.scaling_factor).clamp(-1, 1)

    @torch.no_grad()
    def clean(self, degraded):
        """Stage 1 of degraded pictures, (N, 3, H, W) in [-1, 1]."""
        return self.cleaner.clean(degraded.to(self.device))

    @torch.no_grad()
    def embed(self, prompts):
        """Text embeddings (N, L, D) of a list of prompts, L = 40 or 77 at full size; "" is the empty prompt of eq. 1."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(tokens.to(self.device)).last_hidden_state

    def predict(self, x_t, t, prompt, hint=None, null=None):
        """The noise that B predicts: G(x_t, prompt) steered by E(x_t, hint) under the empty prompt.

        x_t, hint: (N, C, h, w); t: (N,) steps of the schedule; prompt, null: (N, L, D) embeddings.
        Without a hint it is G alone, out of the context of B (eq. 5). Returns (N, C, h, w).
        """
        if hint is None:
            return self.G(x_t, t, prompt).sample
        down, mid = self.E(x_t, t, null, controlnet_cond=hint, return_dict=False)
        return self.G(x_t, t, prompt, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    def prompted_below(self, gamma):
        """The step of the schedule below which G has its prompt, (1 - gamma) T: in tuning and in sampling alike (eq. 8)."""
        return round((1 - gamma) * self.scheduler.config.num_train_timesteps)

    def fingerprint(self, *parts):
        """First 16 hex digits of the SHA-256 of every weight, or of those of the named parts: what a pivot must find again."""
        digest = hashlib.sha256()
        for name, module in self.modules().items():
            if parts and name not in parts:
                continue
            for key, tensor in sorted(module.state_dict().items()):
                digest.update(f"{name}.{key}".encode() + tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder, dtype=torch.float16):
        """Writes a system folder in diffusers' own layout, safetensors, weights in `dtype`; whole or not at all."""
        with atomic_write(folder) as aside:
            for name, module in self.modules().items():
                copy.deepcopy(module).to(dtype).save_pretrained(aside / name)
            self.tokenizer.save_pretrained(aside / "tokenizer")
            self.scheduler.save_pretrained(aside / "scheduler")
            (aside / "provenance.json").write_text(json.dumps(self.provenance, indent=1) + "\n")


def load(folder, device="cpu"):
    """The system of a folder, frozen, in float32 on `device`.

    Raises WeightsError where a part is missing, truncated or of another architecture.
    """
    folder = Path(folder)
    parts = {FIELD.get(name, name): _load_part(cls, folder / name) for name, cls in PARTS.items()}
    for cls, file in ((CLIPTokenizer, "tokenizer/tokenizer.json"), (DDPMScheduler, "scheduler/scheduler_config.json")):
        with _reading(folder / file):
            parts[file.split("/")[0]] = cls.from_pretrained(folder / file.split("/")[0])
    with _reading(folder / "provenance.json") as file:
        provenance = json.loads(file.read_text())
    return System(provenance=provenance, **parts).to(device).freeze()


@contextmanager
def _reading(file):
    if not file.is_file():
        raise WeightsError(
            f"no weights: {file} is missing. Remedy: restore the folder with `git checkout -- data`, "
            "or point SYSTEM at a folder written by notebook 10 or by python -m lib.convert."
        )
    try:
        yield file
    except Exception as error:  # diffusers, transformers and tokenizers each raise their own, bare Exception included
        raise WeightsError(
            f"unreadable weights: {file} ({error}). Remedy: the file is truncated or damaged; fetch it again."
        ) from error


def _load_part(cls, folder):
    text = cls is CLIPTextModel
    with _reading(folder / "config.json"):
        config = CLIPTextConfig.from_pretrained(folder) if text else cls.load_config(folder)
        module = cls(config) if text else OTHERS.get(config.get("_class_name"), cls).from_config(config)
    state = {}
    for file in sorted(folder.glob("*.safetensors")) or [folder / "*.safetensors"]:
        with _reading(file):
            state |= {k: v.float() for k, v in load_file(file).items()}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights of another architecture: {folder} ({str(error).splitlines()[1].strip()[:160]}). "
            "Remedy: config.json and the safetensors file must come from the same system."
        ) from error
    return module


def ddpm():
    """The noise schedule of SD 2.1, sampled in evenly spaced ancestral steps, from 999 to 0: DiffBIR's respaced DDPM (eps, fixed small variance)."""
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
    """E as training begins: a copy of G's encoder, its hint convolution and its outgoing convolutions zero."""
    return LatentControlNet.from_unet(G)
