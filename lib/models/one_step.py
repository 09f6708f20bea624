"""The one-step restorer of HonestFace (eqs 2 to 4): G with adapters, called once, at a fixed timestep, on z_L."""

import copy
import re
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft import LoraConfig

from lib import checks
from lib.errors import PictureError
from lib.models.identity_embedder import PARTS, Evidence, IdentityEmbedder, Shape, eye_patches, nearest_codes
from lib.models.landmark_heatmaps import landmark_heatmaps
from lib.models.loss_networks import LossNetworks, VisualTokenizer
from lib.models.personal_weights import ADAPTED, adapter_config
from lib.models.system import System, clean_latent

T_L = 399  # of 1000: OSDFace's; HonestFace gives none
RANK = 16  # section 4.1: rank and alpha of the adapters
ADAPTER = "person"  # the name of a personal adapter beside the restorer's own
EARLY, MIDDLE = 0, 2  # stages of features that FFE reads
ENCODER_LAYERS = rf"encoder\..*\.({'|'.join(re.escape(name) for name in ADAPTED)})"


@dataclass
class Described:
    """What is computed once of R references."""

    landmarks: torch.Tensor  # (R, 68, 2) in [-1, 1]
    early: torch.Tensor  # (R, 2, C, 4, 4), features of both eyes
    middle: torch.Tensor  # (R, 2, C, 4, 4)
    embeddings: torch.Tensor  # (R, D)

    def take(self, i):
        """Those of the references `i`, a tensor of numbers."""
        return Described(self.landmarks[i], self.early[i], self.middle[i], self.embeddings[i])

    def to(self, device):
        """The same on a device."""
        return Described(*(value.to(device) for value in vars(self).values()))


@dataclass
class OneStep:
    """G_psi of eq. 4: the base `B`, `G` with adapters, and what makes the prompt p(x_L, R)."""

    B: System
    G: UNet2DConditionModel
    embedder: IdentityEmbedder
    tokenizer: VisualTokenizer
    networks: LossNetworks
    T_L: int = T_L
    cleaned: bool = False  # whether z_L is the latent of the stage-1 cleaner's picture, which is not the paper's
    provenance: dict = field(default_factory=dict)
    recogniser: int = 0  # of the ensemble: X_FR, whose embeddings FIE reads (Table 3c)
    vae: AutoencoderKL | None = None  # a copy with adapters in its encoder, which makes z_L; None: the base's

    def __post_init__(self):
        checks.whole("T_L", self.T_L, most=self.B.scheduler.config.num_train_timesteps - 1)
        checks.whole("recogniser", self.recogniser, most=len(self.networks.recognisers) - 1)

    def with_(self, **parts):
        """The same restorer with other parts."""
        return replace(self, **parts)

    def copied(self):
        """The same restorer with its own copies of what is trained: G, the embedder, the encoder's adapters."""
        return self.with_(**{name: copy.deepcopy(getattr(self, name)) for name in ("G", "embedder", "vae")})

    def to(self, device):
        """Move every part to `device`; returns the restorer."""
        self.B.to(device)
        for module in filter(None, (self.G, self.embedder, self.tokenizer, self.networks, self.vae)):
            module.to(device)
        return self

    def latent(self, degraded):
        """z_L of degraded pictures (N, 3, S, S) in [-1, 1]; (N, C, h, w). The encoder's adapters get gradients."""
        reader = self.B if self.vae is None else self.B.with_(vae=self.vae)
        pictures = self.B.clean(degraded) if self.cleaned else degraded
        return reader.posterior(pictures).mode() * reader.vae.config.scaling_factor

    @torch.no_grad()
    def codes(self, degraded):
        """Numbers of the codes of eq. 7 for degraded pictures (N, 3, S, S); (N, n_3)."""
        features = self.tokenizer(degraded.to(self.B.device))  # (N, P, C)
        return nearest_codes(features, self.embedder.VRE.codebook, self.embedder.shape.visual)

    @torch.no_grad()
    def describe(self, references):
        """Landmarks, features of the eyes, and embeddings of references (R, 3, S, S) in [-1, 1]; Described."""
        landmarks = landmark_heatmaps(references)[1]
        references = references.to(self.B.device)
        patches = eye_patches(references, landmarks)  # (R, 2, 3, 32, 32)
        features = self.networks.features(patches.flatten(0, 1))
        early, middle = (F.adaptive_avg_pool2d(features[k], 4).unflatten(0, (-1, 2)) for k in (EARLY, MIDDLE))
        return Described(landmarks, early, middle, self.networks.embeddings(references, (self.recogniser,))[0])

    def prompt(self, codes, described=None, nearest=None, parts=PARTS):
        """The prompt p of one person's pictures, (N, n, k).

        Args: codes, (N, n_3); described, the person's references, None for none; nearest, (N,), the reference whose
        eyes each picture gets (eq. 6), which FFE needs; parts, those that are used.
        """
        count, shape = len(codes), self.embedder.shape
        if described is None:
            parts = set(parts) - {"FFE", "FIE"}
            described = nobody(shape, codes.device)
        if nearest is None and "FFE" in parts:
            raise PictureError("FFE without a nearest reference. Remedy: lib.restoration.one_step.prompt_of finds it.")
        nearest = torch.zeros(count, dtype=torch.long) if nearest is None else nearest
        present = torch.ones(count, len(described.embeddings), dtype=torch.bool, device=codes.device)
        embeddings = described.embeddings.expand(count, -1, -1)
        evidence = Evidence(described.early[nearest], described.middle[nearest], embeddings, present, codes)
        keep = torch.tensor([part in parts for part in PARTS], device=codes.device)
        return self.embedder(evidence, keep.expand(count, 3))

    def generate(self, z_L, prompt):
        """Eq. 3: the latent z_H of one call of G, (N, C, h, w), from z_L and p, (N, n, k)."""
        eps = self.G(z_L, self.T_L, prompt).sample
        return clean_latent(self.B, z_L, self.T_L, eps)


def nobody(shape, device):
    """Described references that no part reads."""
    eyes = [torch.zeros(1, 2, channels, 4, 4, device=device) for channels in (shape.early, shape.middle)]
    return Described(torch.zeros(1, 68, 2), *eyes, torch.zeros(1, shape.embedding, device=device))


def untrained(B, tokenizer, codebook, networks, rank=RANK, seed=0, encoder_rank=0, **options):
    """A one-step restorer before training: the base's G with zero adapters, and the empty prompt.

    Args: B, the base; tokenizer; codebook (K, C); networks; rank of the adapters; seed; encoder_rank, of adapters in
    the autoencoder's encoder, 0 for none, as in the paper; options, of OneStep.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        length = B.tokenizer.model_max_length
        shape = Shape(B.G.config.cross_attention_dim, length, codes=len(codebook), code=codebook.shape[1])
        embedder = IdentityEmbedder(shape, B.embed([""]).cpu())
        embedder.VRE.codebook.copy_(codebook)
        G = adapted(B.G, rank)
        vae = adapted_encoder(B.vae, encoder_rank) if encoder_rank else None
    return OneStep(B, G, embedder, tokenizer, networks, vae=vae, **options).to(B.device)


def adapted(G, rank, name="default"):
    """A copy of G with new adapters of a rank on every layer of its blocks; only they require gradients."""
    G = copy.deepcopy(G).requires_grad_(False)
    G.add_adapter(adapter_config(rank), name)
    return G


def adapted_encoder(vae, rank):
    """A copy of an autoencoder with new adapters of a rank in its encoder; only they require gradients."""
    vae = copy.deepcopy(vae).requires_grad_(False)
    vae.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ENCODER_LAYERS, init_lora_weights="gaussian"))
    return vae
