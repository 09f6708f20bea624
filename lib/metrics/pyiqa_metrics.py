"""Published metrics by pyiqa, which is imported and fetches weights at the first use of a metric."""

import functools
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from lib.errors import PictureError, WeightsError
from lib.people.picture_files import save_picture

BATCH = 8  # pictures per call: DISTS needs a quarter of a GB for each pair at 512 px
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def score(name, restored, ground_truth=None):
    """One metric of pyiqa, or "ea_dists".

    Args: name; restored, (N, 3, S, S) in [-1, 1]; ground_truth, the same shape, only for metrics that compare.
    Returns float32 (N,) on the CPU, NaN where pyiqa returns NaN. Raises WeightsError (pyiqa or its weights are
    missing), PictureError (pyiqa refuses the pictures).
    """
    compute = ea_dists if name == "ea_dists" else _network(name)
    batch = 1 if name == "qalign" else BATCH  # Q-Align takes one picture at a time
    given = [(pictures + 1) / 2 for pictures in (restored, ground_truth) if pictures is not None]  # pyiqa reads [0, 1]
    parts = zip(*(pictures.split(batch) for pictures in given))
    return torch.cat([_call(name, compute, *part).reshape(-1).float().cpu() for part in parts])


def ea_dists(x, y):
    """Edge-aware DISTS: DISTS of the pictures plus DISTS of their Sobel edges.

    Args: x and y, (N, 3, S, S) in [0, 1]. Returns (N,).
    Source: HonestFace, eq. 9, after Li et al. 2024 (arXiv 2410.04224).
    """
    dists = _network("dists", check_input_range=False)  # edges go beyond 1
    return dists(x, y).reshape(-1) + dists(edges(x), edges(y)).reshape(-1)


def edges(x):
    """Sobel's gradient magnitude of the luminance, repeated in three channels.

    The papers say "Sobel operator" only. Luminance and the unscaled kernel are as in public code. The border is
    repeated, because zeros would add a frame of edges.
    Args: x, (N, 3, S, S) in [0, 1]. Returns (N, 3, S, S), from 0 to about 4.5.
    """
    grey = F.pad((x * LUMINANCE.to(x)).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(grey, kernel[None, None].to(x)) for kernel in (SOBEL, SOBEL.T))
    return (across**2 + down**2).sqrt().expand_as(x)


def inception(restored, ground_truth):
    """FID and KID of two sets of pictures on the features of Inception, by pyiqa, as the papers report FID.

    Args: restored (N, 3, S, S) and ground_truth (M, 3, S, S) in [-1, 1]. Returns {"FID": float, "KID": float}.
    Raises WeightsError, PictureError.
    """
    network = _network("fid")
    with tempfile.TemporaryDirectory() as folder:  # pyiqa reads folders
        for name, pictures in (("restored", restored), ("ground_truth", ground_truth)):
            for n, picture in enumerate(pictures):
                save_picture(Path(folder, name, f"{n:06d}.png"), picture)
        both = [str(Path(folder, name)) for name in ("restored", "ground_truth")]
        return {
            name: float(_call("fid", network, *both, distance_type=kind, num_workers=0, verbose=False))
            for name, kind in (("FID", "frechet"), ("KID", "mmd"))
        }


def check_available(name):
    """Raises WeightsError if that metric of pyiqa cannot be computed on this machine."""
    _network(name)


@functools.cache
def _network(name, **options):
    """pyiqa's network of that name, created once."""
    if find_spec("pyiqa") is None:
        raise WeightsError(
            f"{name} is computed by pyiqa, which is not installed. "
            "Remedy: pip install -e '.[full]' (it brings torchvision, and fetches weights when first used)."
        )
    try:
        return import_module("pyiqa").create_metric(
            name, **options
        )  # torchvision, which the default installation lacks
    except Exception as error:  # no connection, a hub in offline mode, a torchvision of another torch...
        raise WeightsError(
            f"{name} cannot be made by pyiqa ({_first_line(error)}). Remedy: let it fetch its weights once "
            "while online and with HF_HUB_OFFLINE=0; torch and torchvision must be of one release."
        ) from error


def _call(name, network, *pictures, **options):
    try:
        return network(*pictures, **options)
    except WeightsError:
        raise
    except Exception as error:  # bare assertions and shape errors
        raise PictureError(
            f"{name}: pyiqa refuses the pictures ({_first_line(error)}). "
            "Remedy: give larger ones, or leave this metric out."
        ) from error


def _first_line(error):
    lines = str(error).strip().splitlines() or ["no text"]
    return f"{type(error).__name__}: {lines[0]}"
