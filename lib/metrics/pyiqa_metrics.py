"""The published metrics that need downloaded networks, by pyiqa: imported, and its weights fetched, only when one is asked for."""

import functools
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F

from lib.errors import PictureError, WeightsError
from lib.people.picture_files import save_picture

BATCH = 8  # pictures at once: DISTS keeps a quarter of a GB of features of each pair at 512 px
LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])


def score(name, restored, truth=None):
    """One metric of pyiqa, or "ea_dists", on pictures (N, 3, S, S) in [-1, 1]: values (N,), on the CPU; NaN where pyiqa gives none.

    truth only for metrics that compare. Raises WeightsError (pyiqa or its weights are not there), PictureError (it refuses the pictures).
    """
    compute, batch = (
        ea_dists if name == "ea_dists" else _network(name),
        1 if name == "qalign" else BATCH,
    )  # Q-Align takes no batch
    parts = zip(*(((x + 1) / 2).split(batch) for x in (restored, truth) if x is not None))  # pyiqa reads [0, 1]
    return torch.cat([_asked(name, compute, *part).reshape(-1).float().cpu() for part in parts])


def ea_dists(x, y):
    """Edge-aware DISTS of pictures (N, 3, S, S) in [0, 1]: DISTS of the pictures plus DISTS of their Sobel edges, (N,).

    Source: HonestFace, eq. 9, after Li et al. 2024 (arXiv 2410.04224).
    """
    dists = _network("dists", check_input_range=False)  # edges go beyond 1
    return dists(x, y).reshape(-1) + dists(edges(x), edges(y)).reshape(-1)


def edges(x):
    """Sobel's gradient magnitude of the luminance, three times over: (N, 3, S, S), from 0 to about 4.5 for pictures in [0, 1].

    The papers say "Sobel operator", no more: luminance and the unscaled kernel are as in public code, the repeated border is ours
    (zeros would draw a frame).
    """
    grey = F.pad((x * LUMINANCE.to(x)).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across, down = (F.conv2d(grey, kernel[None, None].to(x)) for kernel in (SOBEL, SOBEL.T))
    return (across**2 + down**2).sqrt().expand_as(x)


def inception(restored, truth):
    """{"FID": ..., "KID": ...} of two sets of pictures on the features of Inception, by pyiqa, as the papers report FID.

    restored (N, 3, S, S), truth (M, 3, S, S) in [-1, 1]. Raises WeightsError, PictureError.
    """
    network = _network("fid")
    with tempfile.TemporaryDirectory() as folder:  # pyiqa reads folders
        for name, pictures in (("restored", restored), ("truth", truth)):
            for n, picture in enumerate(pictures):
                save_picture(Path(folder, name, f"{n:06d}.png"), picture)
        both = [str(Path(folder, name)) for name in ("restored", "truth")]
        return {
            name: float(_asked("fid", network, *both, distance_type=kind, num_workers=0, verbose=False))
            for name, kind in (("FID", "frechet"), ("KID", "mmd"))
        }


def ready(name):
    """Raises WeightsError where that metric of pyiqa cannot be computed on this machine."""
    _network(name)


@functools.cache
def _network(name, **options):
    """pyiqa's network of that name, made once."""
    if find_spec("pyiqa") is None:
        raise WeightsError(
            f"{name} is computed by pyiqa, which is not installed. "
            "Remedy: pip install -e '.[full]' (it brings torchvision, and fetches weights when first used)."
        )
    try:
        return import_module("pyiqa").create_metric(name, **options)  # torchvision, which the default path cannot have
    except Exception as error:  # no connection, a hub in offline mode, a torchvision of another torch...
        raise WeightsError(
            f"{name} cannot be made by pyiqa ({_said(error)}). Remedy: let it fetch its weights once "
            "while online and with HF_HUB_OFFLINE=0; torch and torchvision must be of one release."
        ) from error


def _asked(name, network, *pictures, **options):
    try:
        return network(*pictures, **options)
    except WeightsError:
        raise
    except Exception as error:  # bare assertions and shape errors, according to what pyiqa met
        raise PictureError(
            f"{name}: pyiqa refuses the pictures ({_said(error)}). Remedy: give larger ones, or leave this metric out."
        ) from error


def _said(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no text'}"
