"""Metrics of sets of pictures: FID and KID between two sets, and the spread of restorations over seeds."""

import itertools

import pandas as pd
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lib.errors import PictureSizeError
from lib.metrics import identity, pyiqa_metrics

INCEPTION = 2048  # dimensions of Inception's last pooled layer


class _Features(torch.nn.Identity):
    """Replaces Inception in torchmetrics' classes, which are given features instead of pictures."""

    def __init__(self, count):
        super().__init__()
        self.num_features = count


def distribution(restored, ground_truth, scorer=None, inception=False):
    """FID and KID of two sets of pictures, on the recogniser's embeddings (torchmetrics).

    Such values compare within this workbook only.
    Args: restored (N, 3, S, S) and ground_truth (M, 3, S, S) in [-1, 1]; scorer, as of `identity.embed`; inception,
    whether Inception's features are used instead, as in papers (pyiqa, the optional `full`).
    Returns a DataFrame with the columns metric, value, pictures and warning: FID is biased if there are fewer pictures
    than dimensions. Raises PictureSizeError for fewer than two pictures, PackError, WeightsError.
    Source: Heusel et al. 2017; Binkowski et al. 2018.
    """
    count = min(len(restored), len(ground_truth))
    if count < 2:
        raise PictureSizeError(
            f"{count} pictures have no distribution. Remedy: give at least two of each, better hundreds."
        )
    if inception:
        values, dimensions = pyiqa_metrics.inception(restored, ground_truth), INCEPTION
    else:
        values, dimensions = _on_embeddings(restored, ground_truth, scorer)
    few = f"{count} pictures for {dimensions} dimensions: too high by chance" if count <= dimensions else ""
    return pd.DataFrame(
        [
            {"metric": name, "value": value, "pictures": count, "warning": few if name == "FID" else ""}
            for name, value in values.items()
        ]
    )


def _on_embeddings(restored, ground_truth, scorer):
    """{"FID": ..., "KID": ...}, and the number of dimensions of the embeddings."""
    sets = [(identity.embed(x, scorer), real) for x, real in ((restored, False), (ground_truth, True))]
    features = _Features(sets[0][0].shape[1])
    fid = FrechetInceptionDistance(features)
    kid = KernelInceptionDistance(features, subsets=1, subset_size=min(len(restored), len(ground_truth)))
    for embedded, real in sets:
        fid.update(embedded, real=real)
        kid.update(embedded, real=real)
    with torch.random.fork_rng(devices=[]):  # KID draws a subset of the larger set
        torch.manual_seed(0)
        return {"FID": float(fid.compute()), "KID": float(kid.compute()[0])}, features.num_features


def spread(restored, scorer=None):
    """How much restorations of one input differ between seeds.

    Args: restored, (K, N, 3, S, S) in [-1, 1], K >= 2 seeds of N inputs; scorer, as of `identity.embed`.
    Returns two tensors (N,): the standard deviation over seeds, mean over the picture, as a fraction of the range; and
    the mean angle between the embeddings of two seeds, degrees. Raises PictureSizeError.
    """
    if restored.ndim != 5 or len(restored) < 2:
        raise PictureSizeError(
            f"No seeds to compare: {tuple(restored.shape)}. Remedy: give (K, N, 3, S, S) with K >= 2."
        )
    embedded = identity.embed(restored.flatten(0, 1), scorer).unflatten(0, restored.shape[:2])  # (K, N, D)
    angles = [identity.degrees(a, b) for a, b in itertools.combinations(embedded, 2)]
    return restored.std(0).mean((1, 2, 3)) / 2, torch.stack(angles).mean(0)
