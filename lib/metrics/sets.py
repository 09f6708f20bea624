"""Metrics of sets of pictures, not of one: FID and KID between two crowds, the spread of restorations across seeds."""

import itertools

import pandas as pd
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lib.errors import PictureSizeError
from lib.metrics import identity, pyiqa_metrics

INCEPTION = 2048  # dimensions of its last pooled layer


class _Features(torch.nn.Identity):
    """Stands where torchmetrics expects Inception: what is given to it are features already."""

    def __init__(self, count):
        super().__init__()
        self.num_features = count


def distribution(restored, truth, pack=None, inception=False):
    """FID and KID of two sets of pictures, on the recogniser's embeddings (torchmetrics): compare those within this workbook only.

    restored (N, 3, S, S), truth (M, 3, S, S) in [-1, 1]; pack as of `identity.embeddings`; inception: on Inception's features
    instead, as papers report them (pyiqa, the optional `full`). Returns a table with columns metric, value, pictures, warning:
    FID is biased where there are fewer pictures than dimensions. Raises PictureSizeError for fewer than two pictures, PackError,
    WeightsError. Source: Heusel et al. 2017; Binkowski et al. 2018.
    """
    count = min(len(restored), len(truth))
    if count < 2:
        raise PictureSizeError(
            f"{count} pictures have no distribution. Remedy: give at least two of each, better hundreds."
        )
    values, dimensions = (
        (pyiqa_metrics.inception(restored, truth), INCEPTION) if inception else _on_embeddings(restored, truth, pack)
    )
    few = f"{count} pictures for {dimensions} dimensions: too high by chance" if count <= dimensions else ""
    return pd.DataFrame(
        [
            {"metric": name, "value": value, "pictures": count, "warning": few if name == "FID" else ""}
            for name, value in values.items()
        ]
    )


def _on_embeddings(restored, truth, pack):
    """{"FID": ..., "KID": ...} and the number of dimensions of the embeddings."""
    sets = [(identity.embeddings(x, pack), real) for x, real in ((restored, False), (truth, True))]
    features = _Features(sets[0][0].shape[1])
    fid = FrechetInceptionDistance(features)
    kid = KernelInceptionDistance(features, subsets=1, subset_size=min(len(restored), len(truth)))
    for embedded, real in sets:
        fid.update(embedded, real=real)
        kid.update(embedded, real=real)
    with torch.random.fork_rng(devices=[]):  # of the larger set, KID draws as many as the smaller has
        torch.manual_seed(0)
        return {"FID": float(fid.compute()), "KID": float(kid.compute()[0])}, features.num_features


def spread(restored, pack=None):
    """How far restorations of one input from several seeds lie apart: (pixels, identity), each (N,).

    restored: (K, N, 3, S, S) in [-1, 1], K >= 2 seeds of N inputs. Pixels: standard deviation over seeds, mean over the
    picture, in units of the range 2; identity: mean angle between the embeddings of two seeds, degrees. Raises PictureSizeError.
    """
    if restored.ndim != 5 or len(restored) < 2:
        raise PictureSizeError(
            f"No seeds to compare: {tuple(restored.shape)}. Remedy: give (K, N, 3, S, S) with K >= 2."
        )
    embedded = identity.embeddings(restored.flatten(0, 1), pack).unflatten(0, restored.shape[:2])  # (K, N, D)
    angles = [identity.degrees(a, b) for a, b in itertools.combinations(embedded, 2)]
    return restored.std(0).mean((1, 2, 3)) / 2, torch.stack(angles).mean(0)
