"""Metrics of sets of pictures, not of one: FID and KID between two crowds, the spread of restorations across seeds."""
import itertools

import pandas as pd
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lib import metrics
from lib.errors import PictureSizeError


class _Features(torch.nn.Identity):
    """Stands where torchmetrics expects Inception: what is given to it are features already."""

    def __init__(self, count):
        super().__init__()
        self.num_features = count


def distribution(restored, truth, pack=None):
    """FID and KID (torchmetrics) of two sets of pictures, on the recogniser's embeddings, not Inception's: compare within this workbook only.

    restored (N, 3, S, S), truth (M, 3, S, S) in [-1, 1]; pack as of `metrics.embeddings`. Returns a table with columns
    metric, value, pictures, warning: FID is biased where there are fewer pictures than dimensions.
    Raises PictureSizeError for fewer than two pictures. Source: Heusel et al. 2017; Binkowski et al. 2018.
    """
    count = min(len(restored), len(truth))
    if count < 2:
        raise PictureSizeError(f"{count} pictures have no distribution. Remedy: give at least two of each, better hundreds.")
    sets = [(metrics.embeddings(x, pack), real) for x, real in ((restored, False), (truth, True))]
    features = _Features(sets[0][0].shape[1])
    few = f"{count} pictures for {features.num_features} dimensions: too high by chance" if count <= features.num_features else ""
    rows = []
    for name, ruler in {"FID": FrechetInceptionDistance(features), "KID": KernelInceptionDistance(features, subsets=1, subset_size=count)}.items():
        for embedded, real in sets:
            ruler.update(embedded, real=real)
        value = ruler.compute()
        rows.append({"metric": name, "value": float(value if name == "FID" else value[0]), "pictures": count,
                     "warning": few if name == "FID" else ""})
    return pd.DataFrame(rows)


def spread(restored, pack=None):
    """How far restorations of one input from several seeds lie apart: (pixels, identity), each (N,).

    restored: (K, N, 3, S, S) in [-1, 1], K >= 2 seeds of N inputs. Pixels: standard deviation over seeds, mean over the
    picture, in units of the range 2; identity: mean angle between the embeddings of two seeds, degrees. Raises PictureSizeError.
    """
    if restored.ndim != 5 or len(restored) < 2:
        raise PictureSizeError(f"No seeds to compare: {tuple(restored.shape)}. Remedy: give (K, N, 3, S, S) with K >= 2.")
    embedded = metrics.embeddings(restored.flatten(0, 1), pack).unflatten(0, restored.shape[:2])  # (K, N, D)
    angles = [metrics.degrees(a, b) for a, b in itertools.combinations(embedded, 2)]
    return restored.std(0).mean((1, 2, 3)) / 2, torch.stack(angles).mean(0)
