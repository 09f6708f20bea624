"""Training of the networks that the one-step restorer's losses and embedder read, on procedural people.

`**options` of every function are those of `lib.training.pretraining.fit`.
"""

import torch
import torch.nn.functional as F

from lib.models.evaluation_networks import Recogniser
from lib.models.loss_networks import ALIGNED, FOLD, WIDTHS, LossNetworks, VisualTokenizer, tiny_vq
from lib.training.evaluation_pretraining import fit_perceptual, fit_recogniser
from lib.training.pretraining import fit

MARGINS = (0.2, 0.35)  # radians, of the two recognisers: they differ in width, margin and initial weights


def fit_loss_networks(pool, *, seed=0, recogniser_steps, feature_steps, folder=None, **options):
    """Train both recognisers of eq. 8 and the features of eqs 9 and 13. Returns LossNetworks and the losses."""
    networks, losses = LossNetworks(), {}
    folder = None if folder is None else str(folder)
    for k, (widths, margin) in enumerate(zip(WIDTHS, MARGINS)):
        torch.manual_seed(seed + k + 1)
        where = None if folder is None else f"{folder}/recogniser-{k}"
        settings = dict(net=Recogniser(ALIGNED, widths), matrix=ALIGNED, margin=margin, seed=seed + k + 1)
        rate = dict(steps=recogniser_steps, lr=1.5e-3, folder=where)
        networks.recognisers[k], losses[f"recogniser {k}"] = fit_recogniser(pool, **settings, **rate, **options)
    torch.manual_seed(seed)
    found, losses["features"] = fit_perceptual(
        pool, steps=feature_steps, lr=1e-3, seed=seed + 3, folder=folder, **options
    )
    networks.stages = found.features.stages
    return networks.requires_grad_(False).eval(), losses


def fit_tokenizer(pool, *, batch=24, seed=0, device="cpu", **options):
    """Train the VQ autoencoder of eq. 7 to draw the clean picture from the codes of the degraded one.

    Returns the tokenizer, the codebook (K, C), and the losses.
    """
    torch.manual_seed(seed)
    vq = tiny_vq().to(device)

    def loss_of(g):
        _, x, degraded = pool.degraded_batch(batch, g)
        features = vq.encode(F.pixel_unshuffle(degraded, FOLD)).latents  # (N, C, S/16, S/16)
        drawn, commitment = vq.decode(features, return_dict=False)
        return F.l1_loss(F.pixel_shuffle(drawn, FOLD), x) + commitment.mean()

    losses = fit("tokenizer", [vq], loss_of, seed=seed, device=device, **options)
    return VisualTokenizer(vq), vq.quantize.embedding.weight.detach().clone(), losses
