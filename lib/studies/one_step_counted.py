"""The one-step restorer at full size on the meta device: weights and arithmetic beside Table 3a of HonestFace."""

import pandas as pd
import torch
from diffusers import VQModel

from lib.models.identity_embedder import PAPER as SHAPE
from lib.models.identity_embedder import Evidence, IdentityEmbedder
from lib.models.loss_networks import VisualTokenizer
from lib.models.one_step import ADAPTER, RANK, adapted
from lib.studies.cost_counted import TOKENS, counted, full_size
from lib.training.distillation import RANK as PERSONAL_RANK

PAPER = {"weights (million)": 1059, "MACs (G)": 2282}  # Table 3a, HonestFace at 512 px
OSDFACE = {"weights (million)": 978.4, "MACs (G)": 2132}  # Table 3a
VGG16 = 14.71  # million, features without the classifier (Simonyan and Zisserman 2015)
ARCFACE = {"weights (million)": 65.16, "MACs (G)": 12.1}  # IResNet-100, as insightface's model zoo lists it
TOKENIZER = dict(
    block_out_channels=(64, 128, 128, 128, 256, 512),
    down_block_types=("DownEncoderBlock2D",) * 6,
    up_block_types=("UpDecoderBlock2D",) * 6,
    layers_per_block=2,
    latent_channels=SHAPE.code,
    num_vq_embeddings=SHAPE.codes,
)  # OSDFace: 64 channels times 1, 2, 2, 2, 4, 8, from 512 px to 16 x 16


def full_size_parts(rank=RANK):
    """The networks of a one-step restorer of full size, on the meta device, by name."""
    B = full_size()
    with torch.device("meta"):
        embedder, tokenizer = IdentityEmbedder(SHAPE), VisualTokenizer(VQModel(**TOKENIZER), fold=1)
    parts = {"G": adapted(B.G, rank), "autoencoder": B.vae, "tokenizer": tokenizer, "embedder": embedder}
    return B, {name: part.requires_grad_(False) for name, part in parts.items()}


def count(rank=RANK):
    """A table of weights in millions and multiply-adds in G of one restoration at 512 px with one reference.

    The recogniser and VGG16 are not built: their weights are published figures, as is the recogniser's arithmetic; that
    of VGG16 on two patches of 32 px is left out.
    """
    B, parts = full_size_parts(rank)
    x, z = torch.zeros(1, 3, 512, 512, device="meta"), torch.zeros(1, 4, 64, 64, device="meta")
    prompt = torch.zeros(1, TOKENS, SHAPE.dimension, device="meta")
    work = {
        "G": lambda: parts["G"](z, torch.zeros(1, device="meta"), prompt),
        "autoencoder": lambda: B.decode(B.encode(x)),
        "tokenizer": lambda: parts["tokenizer"](x),
        "embedder": lambda: parts["embedder"](example_evidence()),
    }
    table = {name: (_millions(parts[name]), 1000 * counted(run) / 2) for name, run in work.items()}
    table |= {"recogniser": tuple(ARCFACE.values()), "VGG16": (VGG16, 0.0)}
    found = pd.DataFrame(table, index=list(PAPER)).T
    found.loc["together"] = found.sum()
    found.loc["HonestFace, Table 3a"], found.loc["OSDFace, Table 3a"] = PAPER, OSDFACE
    return found


def example_evidence():
    """Evidence of one picture with one reference at full size: only shapes count."""
    eyes = [torch.zeros(1, 2, channels, 4, 4, device="meta") for channels in (SHAPE.early, SHAPE.middle)]
    embeddings = torch.zeros(1, 1, SHAPE.embedding, device="meta")
    present = torch.ones(1, 1, dtype=torch.bool, device="meta")
    return Evidence(*eyes, embeddings, present, torch.zeros(1, SHAPE.visual, dtype=torch.long, device="meta"))


def personal_megabytes(rank=PERSONAL_RANK):
    """MB on disk of a personal adapter of full size, in half precision."""
    G = adapted(full_size().G, rank, ADAPTER)
    return 2 * sum(weight.numel() for name, weight in G.named_parameters() if "lora_" in name) / 1e6


def _millions(module):
    return sum(weight.numel() for weight in module.parameters()) / 1e6
