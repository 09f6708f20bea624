"""Quality of the shipped weights on people whom no training saw, and the thresholds of a release."""

import operator

import pandas as pd
import torch
from scipy.stats import mannwhitneyu

from lib.degradation.degrade import degrade
from lib.images import to_tensor
from lib.metrics import identity, image, landmark_distances
from lib.metrics.landmark_detection import find_landmarks
from lib.people import procedural
from lib.restoration.sampling import restore

THRESHOLDS = {
    "recogniser AUC": (">=", 0.995),
    "autoencoder PSNR": (">=", 30.0),
    "cleaner gain": (">=", 2.0),
    "blind gain": (">", 0.0),
    "blind distance ratio": ("<=", 0.5),
    "faces detected": (">=", 0.99),
    "landmark error": ("<=", 0.03),
}
COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le}
FIRST_IMAGE = 100  # number of the first picture of each person that is measured


def measure(B, crowd, recipe="tiny", images=4, steps=50):
    """Measure the system B and the evaluation networks on one degraded picture of each person.

    Args: B, a system; crowd, procedural people of one split other than "train"; recipe, the degradation; images,
    clean pictures per person for the recogniser; steps of sampling.
    Returns name -> number: PSNR (dB) of the degraded, cleaned, restored and reconstructed pictures; perceptual
    distances of input and restoration; the recogniser's area under the ROC curve; the fraction of faces detected
    and the landmark error, on clean and on degraded pictures.
    Raises SplitError for people of the training split or of two splits.
    """
    procedural.require(crowd, crowd[0].split if crowd[0].split != "train" else "test")
    drawn = procedural.render([(p, p.shot(FIRST_IMAGE + k)) for p in crowd for k in range(images)], B.size)
    clean, landmarks = to_tensor(drawn.pictures), torch.from_numpy(drawn.landmarks[::images]).double()
    targets = clean[::images]  # (N, 3, H, W)
    degraded = degrade(targets, recipe, range(len(targets)))
    restored = restore(B, degraded, seeds=range(len(targets)), steps=steps)
    return {
        **_psnr(B, degraded, restored, targets),
        **_perceptual(degraded, restored, targets),
        "recogniser AUC": auc(identity.embed(clean), images),
        **_detection(find_landmarks(targets), landmarks),
        **_detection(find_landmarks(degraded), landmarks, ", degraded"),
    }


def _psnr(B, degraded, restored, targets):
    pictures = {
        "degraded": degraded,
        "cleaned": B.clean(degraded),
        "blind": restored,
        "autoencoder": B.decode(B.encode(targets)),
    }
    found = {f"{name} PSNR": float(image.psnr(x.cpu(), targets).mean()) for name, x in pictures.items()}
    cleaner, blind = (found[f"{name} PSNR"] - found["degraded PSNR"] for name in ("cleaned", "blind"))
    return found | {"cleaner gain": cleaner, "blind gain": blind}


def _perceptual(degraded, restored, targets):
    before, after = (float(image.perceptual(x, targets).mean()) for x in (degraded, restored))
    return {"blind distance": after, "degraded distance": before, "blind distance ratio": after / before}


def _detection(found, landmarks, suffix=""):
    detected = found.isfinite().all(2).all(1)
    return {
        f"faces detected{suffix}": float(detected.double().mean()),
        f"landmark error{suffix}": landmark_error(found[detected], landmarks[detected]),
    }


def landmark_error(found, landmarks):
    """Mean distance of 68 landmarks (N, 68, 2) of all faces, as a fraction of the distance between the eyes."""
    between = (landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1)).norm(dim=-1)  # (N,)
    return float((landmark_distances.landmark_distance(found, landmarks) / between).mean())


def auc(vectors, images):
    """Area under the ROC curve of the cosine, pairs of one person against pairs of two people.

    Args: vectors (N, D), unit embeddings; images, consecutive rows per person.
    """
    person = torch.arange(len(vectors)) // images  # (N,)
    upper = torch.triu(torch.ones(len(person), len(person), dtype=torch.bool), 1)  # (N, N), each pair once
    cosine, same = vectors @ vectors.T, person[:, None] == person[None, :]  # (N, N)
    genuine, impostor = cosine[same & upper].numpy(), cosine[~same & upper].numpy()
    return float(mannwhitneyu(genuine, impostor).statistic / (len(genuine) * len(impostor)))


def against_thresholds(found):
    """A table of the measured numbers beside the thresholds of a release."""
    rows = [
        {
            "measure": name,
            "measured": f"{found[name]:.4g}",
            "threshold": f"{sign} {threshold:g}",
            "met": "yes" if COMPARE[sign](found[name], threshold) else "no",
        }
        for name, (sign, threshold) in THRESHOLDS.items()
    ]
    return pd.DataFrame(rows).set_index("measure")
