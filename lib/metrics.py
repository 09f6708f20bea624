"""One table of metrics: what each needs, where it points, who computes it. `measure` applies all that can run here.

The three that the story is told in (PSNR, perceptual distance, identity) are `STORY`; `story` computes them alone.
"""
import functools
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch
from torchmetrics.functional.image import (multiscale_structural_similarity_index_measure, peak_signal_noise_ratio,
                                           structural_similarity_index_measure)

from lib import identity, landmarks
from lib.errors import PackError, PictureError, PictureSizeError, RangeError, WeightsError, WorkbookError
from lib.landmarker import LANDMARKER, find_landmarks
from lib.paths import DATA

RECOGNISER = DATA / "judges" / "people-r.onnx"
PERCEPTUAL = DATA / "judges" / "people-p.onnx"
SMALLEST_MS_SSIM = 161  # pixels: five scales of an 11 px window


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of pictures (N, 3, H, W) in [-1, 1], one a picture (torchmetrics)."""
    return peak_signal_noise_ratio(a, b, data_range=2.0, reduction="none", dim=(1, 2, 3))


def ssim(a, b):
    """Structural similarity of pictures (N, 3, H, W) in [-1, 1], Gaussian window of 11 px and sigma 1.5, one a picture (torchmetrics)."""
    a, b = (a + 1) / 2, (b + 1) / 2  # its mean term is not free of the offset: on [-1, 1] a darker picture scores far too low
    return structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(len(a))


def ms_ssim(a, b):
    """SSIM over five scales (Wang et al. 2003) of pictures (N, 3, H, W) in [-1, 1] of at least 161 px, one a picture (torchmetrics)."""
    if min(a.shape[2:]) < SMALLEST_MS_SSIM:
        raise PictureSizeError(f"{min(a.shape[2:])} px are too few for five scales. Remedy: pictures of at least {SMALLEST_MS_SSIM} px.")
    a, b = (a + 1) / 2, (b + 1) / 2
    return multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").reshape(len(a))


def perceptual(a, b, judge=PERCEPTUAL):
    """Distance of unit features of the small judge people-p (not LPIPS), >= 0, lower is closer; (N, 3, 128, 128), one a picture."""
    session = _session(str(judge))
    return torch.from_numpy(session.run(None, {"x": np.asarray(a, np.float32), "y": np.asarray(b, np.float32)})[0])


def embeddings(pictures, pack=None):
    """Unit embeddings (N, D) by the small judge people-r, or by an insightface pack or ONNX file for real faces."""
    return identity.embed(pictures, pack or RECOGNISER, crop="template" if pack else "whole")


def degrees(a, b):
    """Angle between embeddings (N, D), in degrees from 0 to 180: "Deg." of HonestFace."""
    return torch.rad2deg(torch.acos(identity.cosine(a, b).clamp(-1, 1)))


class Given:
    """What metrics read: the pictures, their embeddings and landmarks, each made once however many metrics ask for it."""

    def __init__(self, restored, truth, inputs, references, pack, landmarker=None):
        self.restored, self.truth, self.inputs, self.references = restored, truth, inputs, references
        self.pack, self.landmarker, self._found = pack, landmarker, {}

    def embedding(self, name):
        """Unit embeddings (N, D) of the pictures called `name`."""
        return self._once("embedding", name, lambda x: embeddings(x, self.pack))

    def points(self, name):
        """68 landmarks (N, 68, 2) in pixels of the pictures called `name`. Raises PackError for real faces without a landmarker."""
        if self.pack and not self.landmarker:
            raise PackError("No landmark model for real faces: people-l knows drawn people only. "
                            "Remedy: give landmarker, a 68-point ONNX file.")
        return self._once("points", name, lambda x: find_landmarks(x, self.landmarker or LANDMARKER))

    def _once(self, what, name, made):
        if (what, name) not in self._found:
            self._found[what, name] = made(getattr(self, name))
        return self._found[what, name]


@dataclass(frozen=True)
class Metric:
    """One row of the table; `of` computes (N,) from a Given, and is None where `package` must be installed first."""

    name: str
    label: str
    needs: tuple  # of "truth", "references", "inputs"
    higher: bool  # whether higher is better
    range: tuple  # lowest and highest value
    source: str
    library: str
    of: object = None
    package: str = ""
    tolerance: float | None = None  # held by data/calibration against another implementation; None: not held yet


def _full(name, label, needs, higher, range, source, package="pyiqa"):
    return Metric(name, label, needs, higher, range, source, package, package=package)


INF = float("inf")
TABLE = {metric.name: metric for metric in (
    Metric("psnr", "PSNR (dB)", ("truth",), True, (-INF, INF), "10 log10(peak² / MSE), RGB", "torchmetrics",
           lambda p: psnr(p.restored, p.truth), tolerance=1e-3),
    Metric("ssim", "SSIM", ("truth",), True, (-1, 1), "Wang et al. 2004", "torchmetrics", lambda p: ssim(p.restored, p.truth),
           tolerance=1e-3),
    Metric("ms_ssim", "MS-SSIM", ("truth",), True, (0, 1), "Wang et al. 2003", "torchmetrics", lambda p: ms_ssim(p.restored, p.truth)),
    Metric("perceptual", "perceptual (people-p)", ("truth",), False, (0, INF), "form of LPIPS, features of this workbook", "onnxruntime",
           lambda p: perceptual(p.restored, p.truth)),
    Metric("identity", "identity (people-r)", ("truth",), True, (-1, 1), "cosine of embeddings, ArcFace (Deng et al. 2019)", "insightface",
           lambda p: identity.cosine(p.embedding("restored"), p.embedding("truth"))),
    Metric("degrees", "Deg.", ("truth",), False, (0, 180), "HonestFace, section 4: angle of embeddings", "insightface",
           lambda p: degrees(p.embedding("restored"), p.embedding("truth"))),
    Metric("embedding_distance", "FED", ("truth",), False, (0, 2), "ISPL, section 4.1: L2 of embeddings (there of dlib, not unit)",
           "insightface", lambda p: (p.embedding("restored") - p.embedding("truth")).norm(dim=1)),
    Metric("to_references", "identity to references", ("references",), True, (-1, 1), "cosine to the references' mean embedding",
           "insightface", lambda p: identity.to_references(p.embedding("restored"), p.embedding("references"))),
    Metric("gate", "identity gate", ("inputs",), True, (-1, 1), "NTIRE 2025, section 2.2: cosine of input and restored", "insightface",
           lambda p: identity.cosine(p.embedding("restored"), p.embedding("inputs"))),
    Metric("l2_ld", "L2-LD (px)", ("truth",), False, (0, INF), "mean distance of 68 landmarks, pixels", "insightface",
           lambda p: landmarks.landmark_distance(p.points("restored"), p.points("truth"))),
    Metric("lle", "LLE (px of 512)", ("truth",), False, (0, INF), "ISPL, section 4.1: mean distance as if the picture had 512 px",
           "insightface", lambda p: landmarks.landmark_distance(p.points("restored"), p.points("truth")) * 512 / p.truth.shape[-1]),
    Metric("ald_eyes", "ALD-e (px²)", ("truth",), False, (0, INF), "HonestFace, eqs 14 and 15: eyes and brows", "lib.landmarks",
           lambda p: landmarks.ald_eyes(p.points("restored"), p.points("truth"))),
    Metric("ald_mouth", "ALD-m (px²)", ("truth",), False, (0, INF), "HonestFace, eqs 14 and 15: border of the mouth", "lib.landmarks",
           lambda p: landmarks.ald_mouth(p.points("restored"), p.points("truth"))),
    _full("lpips", "LPIPS", ("truth",), False, (0, INF), "Zhang et al. 2018"),
    _full("dists", "DISTS", ("truth",), False, (0, 1), "Ding et al. 2020"),
    _full("niqe", "NIQE", (), False, (0, INF), "Mittal et al. 2013"),
    _full("musiq", "MUSIQ", (), True, (0, 100), "Ke et al. 2021"),
    _full("clipiqa", "CLIP-IQA", (), True, (0, 1), "Wang et al. 2023"),
    _full("maniqa", "MANIQA", (), True, (0, 1), "Yang et al. 2022"),
    _full("qalign", "Q-Align", (), True, (1, 5), "Wu et al. 2023"),
)}
STORY = ("psnr", "perceptual", "identity")
LABEL = {name: TABLE[name].label for name in STORY}
HIGHER_IS_BETTER = {name: metric.higher for name, metric in TABLE.items()}


def labels(scorer=None):
    """How each metric of the story is called in tables and figures; identity after the recogniser that scores it."""
    return LABEL | ({"identity": f"identity ({Path(scorer).stem})"} if scorer else {})


def measure(restored, truth=None, inputs=None, references=None, pack=None, only=tuple(TABLE), landmarker=None):
    """Every metric of `only` on every picture, tidy: a row a picture and metric, and a reason wherever there is no value.

    restored, truth, inputs: (N, 3, S, S) in [-1, 1]; references: (R, 3, S, S) of the same person; pack: the insightface pack
    or ONNX file for real faces, people-r without it; landmarker: a 68-point ONNX file for them, people-l without both;
    only: names of TABLE. Returns columns picture, metric, value (NaN with a reason), reason.
    Raises PictureError and PictureSizeError with the index of the picture, before anything is computed.
    """
    if unknown := sorted(set(only) - set(TABLE)):
        raise RangeError(f"only out of range: {', '.join(unknown)}. Remedy: names of {', '.join(TABLE)}.")
    given = Given(restored, truth, inputs, references, pack, landmarker)
    _check(given)
    columns = {name: _values(TABLE[name], given) for name in only}
    rows = [dict(picture=n, metric=name, value=float(values[n]), reason=reason)
            for name, (values, reason) in columns.items() for n in range(len(restored))]
    return pd.DataFrame(rows, columns=["picture", "metric", "value", "reason"])


def _values(metric, given):
    """(N,) values and "", or NaN and the reason why there are none."""
    none = torch.full((len(given.restored),), float("nan"))
    if missing := [name for name in metric.needs if getattr(given, name) is None]:
        return none, f"needs {' and '.join(missing)}"
    try:
        return metric.of(given) if metric.of else _by_pyiqa(metric, given), ""
    except WorkbookError as error:
        return none, str(error)


def _by_pyiqa(metric, given):
    if find_spec(metric.package) is None:
        raise WeightsError(f"{metric.label} is computed by {metric.package}, which is not installed. "
                           "Remedy: pip install -e '.[full]' (it brings torchvision, and fetches weights when first used).")
    network = import_module(metric.package).create_metric(metric.name)  # torchvision, which the default path cannot have
    pictures = [(p + 1) / 2 for p in (given.restored, given.truth) if p is not None][:2 if metric.needs else 1]
    return network(*pictures).reshape(-1).cpu()


def _check(given):
    count, first = len(given.restored), given.restored.shape
    for name in ("restored", "truth", "inputs", "references"):
        pictures = getattr(given, name)
        if pictures is None:
            continue
        as_many = len(pictures) == count or name == "references"
        if pictures.ndim != 4 or pictures.shape[1:] != (3, *first[2:]) or not as_many or not len(pictures):
            raise PictureSizeError(f"{name}: {tuple(pictures.shape)}, where restored is {tuple(first)}. "
                                   "Remedy: give (N, 3, S, S), as many and as large.")
        good = (pictures.isfinite() & (pictures.abs() <= 1)).flatten(1).all(1)
        if not good.all():
            raise PictureError(f"{name}, picture {int((~good).nonzero()[0])}: values outside [-1, 1] or NaN. "
                               "Remedy: lib.faces.to_tensor makes tensors in that range.")


def story(restored, truth=None, references=None, pack=None):
    """metric -> (N,) of the three metrics the story is told in; arguments as of `measure`.

    With the truth: PSNR, perceptual distance, and identity as cosine to the truth's embedding; without it, identity
    alone, as cosine to the mean embedding of the references.
    """
    given = Given(restored, truth, None, references, pack)
    if truth is None:
        return {"identity": TABLE["to_references"].of(given)}
    return {name: TABLE[name].of(given) for name in STORY}


@functools.cache
def _session(path):
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise WeightsError(f"no judge: {path} ({type(error).__name__}). Remedy: `git checkout -- data`, or rerun notebook 10.") from error
