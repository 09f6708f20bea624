"""The table of metrics: what each one needs, its unit and direction, and the library that computes it.

`measure_all` computes every metric of the table that can be computed on this machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch

from lib.errors import FaceError, LandmarkError, PackError, RangeError, WorkbookError
from lib.metrics import identity, landmark_distances, pyiqa_metrics
from lib.metrics.image import SMALLEST_MS_SSIM, SMALLEST_SSIM, ms_ssim, perceptual, psnr, ssim
from lib.metrics.inputs import MetricInputs
from lib.metrics.landmark_detection import find_landmarks
from lib.people.insightface_packs import PEOPLE


@dataclass(frozen=True)
class Metric:
    """One row of the table; `of` computes (N,) from MetricInputs, and is None where pyiqa computes the metric."""

    name: str
    label: str
    needs: tuple  # of "ground_truth", "references", "inputs"
    higher: bool  # whether higher is better
    range: tuple  # lowest and highest value
    source: str
    library: str
    of: Callable | None = None
    package: str = ""  # what must be installed first
    accepts: str = "any size"  # which pictures (N, 3, S, S) in [-1, 1]
    tolerance: float | None = None  # against another implementation (data/calibration); None if there is none


def _by_pyiqa(name, label, needs, higher, range, source, accepts="any size"):
    return Metric(name, label, needs, higher, range, source, "pyiqa", package="pyiqa", accepts=accepts)


INF, CROPS = float("inf"), "aligned crops"
# fmt: off
TABLE = {metric.name: metric for metric in (
    Metric("psnr", "PSNR (dB)", ("ground_truth",), True, (-INF, INF), "10 log10(peak² / MSE), RGB", "torchmetrics",
        lambda p: psnr(p.restored, p.ground_truth), tolerance=1e-4),
    Metric("ssim", "SSIM", ("ground_truth",), True, (-1, 1), "Wang et al. 2004", "torchmetrics",
        lambda p: ssim(p.restored, p.ground_truth), accepts=f"S >= {SMALLEST_SSIM}", tolerance=1e-3),
    Metric("ms_ssim", "MS-SSIM", ("ground_truth",), True, (0, 1), "Wang et al. 2003", "torchmetrics",
        lambda p: ms_ssim(p.restored, p.ground_truth), accepts=f"S >= {SMALLEST_MS_SSIM}", tolerance=2e-3),
    Metric("perceptual", "perceptual (people-p)", ("ground_truth",), False, (0, INF),
        "form of LPIPS, features of this workbook", "onnxruntime", lambda p: perceptual(p.restored, p.ground_truth),
        accepts="S = 128", tolerance=1e-5),
    Metric("identity", "identity (people-r)", ("ground_truth",), True, (-1, 1),
        "cosine of embeddings, ArcFace (Deng et al. 2019)", "insightface",
        lambda p: identity.cosine(p.embedding("restored"), p.embedding("ground_truth")), accepts=CROPS),
    Metric("degrees", "Deg.", ("ground_truth",), False, (0, 180), "HonestFace, section 4: angle of embeddings",
        "insightface", lambda p: identity.degrees(p.embedding("restored"), p.embedding("ground_truth")),
        accepts=CROPS),
    Metric("embedding_distance", "FED", ("ground_truth",), False, (0, 2),
        "ISPL, section 4.1: L2 of embeddings (there of dlib, not unit)", "insightface",
        lambda p: (p.embedding("restored") - p.embedding("ground_truth")).norm(dim=1), accepts=CROPS),
    Metric("to_references", "identity to references", ("references",), True, (-1, 1),
        "cosine to the references' mean embedding", "insightface",
        lambda p: identity.to_references(p.embedding("restored"), p.embedding("references")), accepts=CROPS),
    Metric("gate", "identity gate", ("inputs",), True, (-1, 1),
        "NTIRE 2025, section 2.2: cosine of input and restored, there of AdaFace", "insightface",
        lambda p: identity.cosine(p.embedding("restored"), p.embedding("inputs")), accepts=CROPS),
    Metric("l2_ld", "L2-LD (px)", ("ground_truth",), False, (0, INF), "mean distance of 68 landmarks, pixels",
        "insightface",
        lambda p: landmark_distances.landmark_distance(p.points("restored"), p.points("ground_truth")),
        accepts=CROPS),
    Metric("lle", "LLE (px of 512)", ("ground_truth",), False, (0, INF),
        "ISPL, section 4.1: mean distance as if the picture had 512 px", "insightface",
        lambda p: landmark_distances.landmark_distance(p.points("restored"), p.points("ground_truth"))
        * (512 / p.ground_truth.shape[-1]),
        accepts=CROPS),
    Metric("ald_eyes", "ALD-e (px²)", ("ground_truth",), False, (0, INF),
        "HonestFace, eqs 14 and 15: eyes and brows", "lib.metrics.landmark_distances",
        lambda p: landmark_distances.ald_eyes(p.points("restored"), p.points("ground_truth")), accepts=CROPS),
    Metric("ald_mouth", "ALD-m (px²)", ("ground_truth",), False, (0, INF),
        "HonestFace, eqs 14 and 15: border of the mouth", "lib.metrics.landmark_distances",
        lambda p: landmark_distances.ald_mouth(p.points("restored"), p.points("ground_truth")), accepts=CROPS),
    _by_pyiqa("lpips", "LPIPS", ("ground_truth",), False, (0, INF), "Zhang et al. 2018"),
    _by_pyiqa("dists", "DISTS", ("ground_truth",), False, (0, 1), "Ding et al. 2020"),
    _by_pyiqa("ea_dists", "EA-DISTS", ("ground_truth",), False, (0, 2),
        "HonestFace, eq. 9: DISTS of the pictures plus DISTS of their Sobel edges"),
    _by_pyiqa("msswd", "MS-SWD", ("ground_truth",), False, (0, INF), "He et al. 2024: colour"),
    _by_pyiqa("niqe", "NIQE", (), False, (0, INF), "Mittal et al. 2013", accepts="S >= 96, better 192"),
    _by_pyiqa("musiq", "MUSIQ", (), True, (0, 100), "Ke et al. 2021"),
    _by_pyiqa("clipiqa", "CLIP-IQA", (), True, (0, 1), "Wang et al. 2023"),
    _by_pyiqa("maniqa", "MANIQA", (), True, (0, 1), "Yang et al. 2022"),
    _by_pyiqa("qalign", "Q-Align", (), True, (1, 5), "Wu et al. 2023"),
)}
# fmt: on
HIGHER_IS_BETTER = {name: metric.higher for name, metric in TABLE.items()}


def measure_all(
    restored, ground_truth=None, inputs=None, references=None, scorer=None, only=tuple(TABLE), landmarker=None
):
    """Every metric of `only` on every picture, as a tidy table.

    Args: restored, ground_truth and inputs, (N, 3, S, S) in [-1, 1]; references, (R, 3, S, S) of the same person;
    scorer, the insightface pack or ONNX recogniser for real faces, the one of procedural people by default; landmarker,
    a 68-point ONNX file in place of the pack's own, or a function from pictures to points (N, 68, 2); only, names of
    TABLE.
    Returns a DataFrame with the columns picture, metric, value and reason. A missing value is NaN and has its reason,
    such as a face that is not detected; the other rows keep their values.
    Raises PictureError and PictureSizeError with the index of the picture, and RangeError, before anything is computed.
    """
    unknown = sorted(set(only) - set(TABLE))
    if unknown:
        raise RangeError(f"only out of range: {', '.join(unknown)}. Remedy: names of {', '.join(TABLE)}.")
    checked = metric_inputs(restored, ground_truth, inputs, references, scorer, landmarker).checked()
    columns = {name: _values_and_reasons(TABLE[name], checked) for name in only}
    rows = [
        {"picture": n, "metric": name, "value": float(values[n]), "reason": reasons[n]}
        for name, (values, reasons) in columns.items()
        for n in range(len(values))
    ]
    return pd.DataFrame(rows, columns=["picture", "metric", "value", "reason"])


def metric_inputs(restored, ground_truth, inputs, references, scorer, landmarker=None):
    """MetricInputs, not checked yet, that embed and find landmarks by these models; arguments as of `measure_all`."""
    return MetricInputs(
        restored,
        ground_truth,
        inputs,
        references,
        embed=lambda pictures: identity.embed(pictures, scorer),
        find=lambda pictures: _landmarks(pictures, scorer, landmarker),
    )


def _landmarks(pictures, scorer, landmarker):
    if callable(landmarker):
        return landmarker(pictures)
    if str(scorer).endswith(".onnx"):
        raise PackError(
            f"A recogniser alone gives no landmarks: {scorer}. Remedy: give a pack, which is a folder with a detector "
            "and a landmark model; or landmarker, a function from pictures to points."
        )
    return find_landmarks(pictures, scorer or PEOPLE, landmarker)


def compute(metric, inputs):
    """(N,) values of one Metric of MetricInputs."""
    if metric.of is not None:
        return metric.of(inputs)
    return pyiqa_metrics.score(metric.name, inputs.restored, inputs.ground_truth if metric.needs else None)


def _values_and_reasons(metric, inputs):
    """(N,) values, and N reasons: "" beside a number, or why there is none."""
    count = len(inputs.restored)
    missing = [name.replace("_", " ") for name in metric.needs if getattr(inputs, name) is None]
    if missing:
        return _no_values(count, f"needs {' and '.join(missing)}")
    try:
        values = compute(metric, inputs)
    except (FaceError, LandmarkError) as error:
        if count > 1:  # one face must not cost the other pictures their values
            return _one_by_one(metric, inputs)
        where = "" if isinstance(error, FaceError) else f"restored, picture {inputs.start}: "
        return _no_values(1, f"{where}{error}")
    except WorkbookError as error:
        return _no_values(count, str(error))
    why = "{} gives no number. Remedy: look at it, or leave the metric out."
    reasons = [f"restored, picture {inputs.start + n}: {why.format(metric.library)}" for n in range(count)]
    return values, [reason if nan else "" for reason, nan in zip(reasons, values.isnan())]


def _one_by_one(metric, inputs):
    results = [_values_and_reasons(metric, inputs.single(n)) for n in range(len(inputs.restored))]
    return torch.cat([values for values, _ in results]), [reasons[0] for _, reasons in results]


def _no_values(count, reason):
    return torch.full((count,), float("nan")), [reason] * count
