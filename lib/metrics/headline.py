"""The headline metrics, in which the notebooks report: PSNR, a perceptual distance and identity."""

import functools
from pathlib import Path

import pandas as pd

from lib.errors import PictureError, WeightsError
from lib.metrics import pyiqa_metrics, registry
from lib.metrics.image import SIZE
from lib.metrics.registry import TABLE

HEADLINE = ("psnr", "perceptual", "identity")
NO_IDENTITY = "identity is not measured: a real person needs a SCORER, an insightface pack or a recogniser's .onnx file"
LABEL = {name: TABLE[name].label for name in HEADLINE}


@functools.cache
def headline_metrics(size):
    """The names of the headline metrics for pictures of `size` pixels.

    people-p reads SIZE pixels only; LPIPS replaces it at other sizes if pyiqa can compute it.
    Returns a tuple of names, and the reason why there is no perceptual metric, or "".
    """
    if size == SIZE:
        return HEADLINE, ""
    try:
        pyiqa_metrics.check_available("lpips")
        return ("psnr", "lpips", "identity"), ""
    except WeightsError as error:
        return ("psnr", "identity"), f"no perceptual metric: people-p reads {SIZE} px, not {size}; {error}"


def labels(scorer=None, size=SIZE):
    """name -> label of each headline metric in tables and figures; identity is labelled with its recogniser."""
    named = {"identity": f"identity ({Path(scorer).stem})"} if scorer else {}
    return {name: TABLE[name].label for name in headline_metrics(size)[0]} | named


def headline_values(restored, ground_truth=None, references=None, scorer=None, identity=True):
    """name -> (N,) of the headline metrics; arguments and errors as of `measure`.

    Without the ground truth it is identity alone, with the references; `identity` False leaves it out.
    """
    if ground_truth is None and references is None:
        raise PictureError("Nothing to compare with. Remedy: give the ground truth (targets), or references.")
    inputs = registry.metric_inputs(restored, ground_truth, None, references, scorer).checked()
    if ground_truth is None:
        return {"identity": registry.compute(TABLE["to_references"], inputs)}
    names = [name for name in headline_metrics(inputs.restored.shape[-1])[0] if identity or name != "identity"]
    return {name: registry.compute(TABLE[name], inputs) for name in names}


def measure(restored, targets=None, references=None, scorer=None):
    """The headline metrics of restored pictures, one row per picture.

    Args: restored, (N, 3, S, S) or one picture (3, S, S) in [-1, 1]; targets, their ground truth of the same shape, or
    None; references, (R, 3, S, S) of the person, with which identity is computed where there is no ground truth;
    scorer, the insightface pack or ONNX recogniser that knows such faces, people-r by default.
    Returns a DataFrame with the columns psnr (dB), perceptual or lpips (distance; neither if no perceptual metric is
    available at S pixels, see `headline_metrics`) and identity (cosine); identity alone without targets.
    Raises PictureError, PictureSizeError, PackError, WeightsError.
    """
    values = headline_values(restored, targets, references, scorer)
    table = pd.DataFrame({name: value.tolist() for name, value in values.items()})
    return table.rename_axis("picture")
