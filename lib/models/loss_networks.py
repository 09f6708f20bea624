"""Networks that the losses and the embedder of the one-step restorer read: two recognisers, features, a tokenizer.

They are trained on procedural people, apart from the networks that evaluate (lib.models.evaluation_networks): no loss
has a gradient through what scores a restoration.
"""

import numpy as np
import torch.nn.functional as F
from diffusers import VQModel
from torch import nn

from lib.models.evaluation_networks import ARCFACE_SIZE, Features, Recogniser

WIDTHS = (16, 32, 48, 64), (24, 32, 48, 56)  # of the two recognisers of eq. 8's ensemble
ALIGNED = np.eye(2, 3)  # they read aligned pictures, so nothing lies between the crop and the picture
FOLD = 4  # pixels: factor of the unshuffle before the tokenizer


class LossNetworks(nn.Module):
    """The ensemble F of eq. 8 and the features of eqs 9 and 13, for aligned pictures (N, 3, S, S) in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.recognisers = nn.ModuleList(Recogniser(ALIGNED, widths) for widths in WIDTHS)
        self.stages = Features(1).stages

    def embeddings(self, pictures, which=(0, 1)):
        """Embeddings (N, 128) by each recogniser, not normalised; a list."""
        faces = F.interpolate(pictures, (ARCFACE_SIZE, ARCFACE_SIZE), mode="bilinear")
        return [self.recognisers[k](faces) for k in which]

    def features(self, pictures):
        """Four stages of features, (N, C, S/2, S/2) to (N, C, S/16, S/16); a list."""
        found = []
        for stage in self.stages:
            pictures = stage(pictures)
            found.append(pictures)
        return found


def tiny_vq(codes=256, channels=32):
    """diffusers' VQModel of the tiny scale, untrained: 8 x 8 features of pictures of 128 px."""
    return VQModel(
        in_channels=3 * FOLD**2,
        out_channels=3 * FOLD**2,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        latent_channels=channels,
        num_vq_embeddings=codes,
        norm_num_groups=8,
    )


class VisualTokenizer(nn.Module):
    """E_VRE of eq. 7: the encoder of a VQ autoencoder that was trained to read degraded pictures."""

    def __init__(self, vq, fold=FOLD):
        super().__init__()
        self.fold, self.encoder, self.quant_conv = fold, vq.encoder, vq.quant_conv

    def forward(self, degraded):
        """Features (N, P, C) at the P places of degraded pictures (N, 3, S, S) in [-1, 1]."""
        features = self.quant_conv(self.encoder(F.pixel_unshuffle(degraded, self.fold)))
        return features.flatten(2).transpose(1, 2)
