"""The prompt p of HonestFace (section 3.2): tokens of references (eyes, identity) and of the degraded picture."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

PARTS = ("FFE", "FIE", "VRE")  # facial feature extractor, face identity encoder, visual representation embedder
EYES = (slice(36, 42), slice(42, 48))  # of the 68 landmarks
EYE_SIZE = 32  # pixels: H_e = W_e, which the paper leaves open
EYE_HALF = 0.17  # of an aligned picture in [-1, 1]: half a side of an eye's patch, with its lids


@dataclass(frozen=True)
class Shape:
    """Numbers of an embedder; the defaults are those of the tiny scale.

    Args: dimension, k, of a token; tokens, n, of the prompt; eyes, n_1, and identity, n_2, tokens; early and middle,
    channels of the eyes' features; embedding, of the recogniser; codes of the codebook, and their channels.
    """

    dimension: int = 128
    tokens: int = 40
    eyes: int = 4
    identity: int = 7
    early: int = 24
    middle: int = 64
    embedding: int = 128
    codes: int = 256
    code: int = 32

    @property
    def visual(self):
        """n_3, tokens of the degraded picture: those that the others leave. The paper's 4 + 7 + 77 are more than 77."""
        return self.tokens - self.eyes - self.identity


# Section 4.1 with ArcFace and OSDFace's codebook; "layers 0 and 2" of VGG16 read as its first and third block.
PAPER = Shape(1024, 77, 4, 7, 64, 256, 512, 1024, 512)


class FacialFeatureExtractor(nn.Module):
    """p_F, (N, n_1, k): colour from early and structure from middle features of both eyes of one reference (Fig. 2).

    Colour and structure of both eyes are four vectors. Each has its own projection to n_1 / 4 tokens (n_1 a multiple of
    4), where the paper concatenates the four before it projects them.
    """

    def __init__(self, shape, side=4):
        super().__init__()
        self.side, width = side, shape.dimension * shape.eyes // 4
        self.colour = nn.Sequential(nn.Linear(shape.early * side**2, shape.dimension), nn.SiLU())
        self.structure = nn.Sequential(nn.Linear(shape.middle * side**2, shape.dimension), nn.SiLU())
        self.out = nn.ModuleList(nn.Linear(shape.dimension, width) for _ in range(4))
        self.dimension = shape.dimension

    def forward(self, early, middle):
        """Of features of left and right eyes, (N, 2, C, h, w) each; returns (N, n_1, k)."""
        pooled = [F.adaptive_avg_pool2d(f.flatten(0, 1), self.side).flatten(1) for f in (early, middle)]
        found = [head(f).unflatten(0, (-1, 2)) for head, f in zip((self.colour, self.structure), pooled)]  # (N, 2, D)
        four = [f[:, eye] for f in found for eye in (0, 1)]
        return torch.cat([out(f).unflatten(1, (-1, self.dimension)) for out, f in zip(self.out, four)], 1)


class FaceIdentityEncoder(nn.Module):
    """p_I, (N, n_2, k): a set of embeddings, pooled by attention of n_2 learned queries (Fig. 3)."""

    def __init__(self, shape, heads=4):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(shape.identity, shape.dimension))
        self.project = nn.Linear(shape.embedding, shape.dimension)
        self.attend = nn.MultiheadAttention(shape.dimension, heads, batch_first=True)
        self.out = nn.Sequential(nn.Linear(shape.dimension, shape.dimension), nn.SiLU())
        self.last = nn.Linear(shape.dimension, shape.dimension)

    def forward(self, embeddings, present):
        """Of embeddings (N, R, D) and which of them exist, (N, R) bool; returns (N, n_2, k), in any order of the R."""
        words = self.project(F.normalize(embeddings, dim=2) * embeddings.shape[2] ** 0.5)  # (N, R, k)
        queries = self.queries.expand(len(words), -1, -1)
        pooled, _ = self.attend(queries, words, words, key_padding_mask=~present, need_weights=False)
        return self.last(self.out(pooled))


class VisualRepresentationEmbedder(nn.Module):
    """p_L of eq. 7, (N, n_3, k): the n_3 codes of a codebook that are nearest to the degraded picture's features."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("codebook", torch.zeros(shape.codes, shape.code))  # Dict_LQ
        self.out = nn.Sequential(nn.Linear(shape.code, shape.dimension), nn.SiLU())
        self.last = nn.Linear(shape.dimension, shape.dimension)

    def forward(self, codes):
        """Of numbers of codes (N, n_3); returns (N, n_3, k)."""
        return self.last(self.out(F.normalize(self.codebook[codes], dim=2) * self.codebook.shape[1] ** 0.5))


def nearest_codes(features, codebook, count):
    """The `count` distinct codes that lie nearest to any of a picture's features, nearest first.

    Args: features (N, P, C); codebook (K, C); count <= K. Returns int64 (N, count). Source: OSDFace, whose 77 tokens
    are the nearest distinct codes of 256 features.
    """
    distance = torch.cdist(features, codebook.expand(len(features), -1, -1))  # (N, P, K)
    return distance.amin(1).topk(count, largest=False).indices


class IdentityEmbedder(nn.Module):
    """The prompt p, (N, n, k): the empty prompt's embedding, to which each part adds its tokens.

    Without a part, its tokens stay those of the empty prompt: so one network restores with and without references.
    """

    def __init__(self, shape=Shape(), null=None):
        super().__init__()
        self.shape = shape
        self.FFE, self.FIE = FacialFeatureExtractor(shape), FaceIdentityEncoder(shape)
        self.VRE = VisualRepresentationEmbedder(shape)
        null = torch.zeros(shape.tokens, shape.dimension) if null is None else null.reshape(-1, shape.dimension)
        self.null = nn.Parameter(null[: shape.tokens].clone())  # (n, k)
        for last in (*self.FFE.out, self.FIE.last, self.VRE.last):  # training begins at the empty prompt
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, evidence, keep=None):
        """Fuse the parts: p_F, p_I and p_L one after the other.

        Args: evidence, Evidence of N pictures; keep, (N, 3) bool, which of PARTS each picture has; None for all.
        Returns (N, n, k).
        """
        tokens = [
            self.FFE(evidence.early, evidence.middle),
            self.FIE(evidence.embeddings, evidence.present),
            self.VRE(evidence.codes),
        ]
        if keep is not None:
            tokens = [torch.where(keep[:, part, None, None], t, 0.0) for part, t in enumerate(tokens)]
        return self.null + torch.cat(tokens, 1)

    def config(self):
        """The numbers of `Shape`, as a dictionary."""
        return asdict(self.shape)


@dataclass
class Evidence:
    """What the embedder reads of N pictures and their references."""

    early: torch.Tensor  # (N, 2, C, h, w), features of the eyes of the nearest reference
    middle: torch.Tensor  # (N, 2, C, h, w)
    embeddings: torch.Tensor  # (N, R, D) of the references
    present: torch.Tensor  # (N, R) bool
    codes: torch.Tensor  # (N, n_3) of the degraded picture


def eye_patches(pictures, landmarks, size=EYE_SIZE):
    """Patches of both eyes, that at the left of the picture first.

    Args: pictures (N, 3, S, S); landmarks (N, 68, 2) in [-1, 1]; size, pixels. Returns (N, 2, 3, size, size).
    """
    patches = []
    for eye in EYES:
        centre = landmarks[:, eye].mean(1).to(pictures)  # (N, 2)
        window = torch.cat([EYE_HALF * torch.eye(2).to(centre).expand(len(centre), 2, 2), centre[..., None]], 2)
        grid = F.affine_grid(window, [len(centre), 3, size, size], align_corners=False)
        patches.append(F.grid_sample(pictures, grid, align_corners=False, padding_mode="border"))
    return torch.stack(patches, 1)
