"""How good the shipped weights are, on people whom nothing was trained on: the bars of the tiny system."""

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

BARS = {
    "recogniser AUC": (">=", 0.995),
    "autoencoder PSNR": (">=", 30.0),
    "cleaner gain": (">=", 2.0),
    "blind gain": (">", 0.0),
    "blind distance ratio": ("<=", 0.5),
    "faces found": (">=", 0.99),
    "landmark error": ("<=", 0.03),
}
HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le}


def measure(B, crowd, recipe="tiny", shots=4, steps=50):
    """name -> number, over one degraded picture of each person of `crowd` (of one split other than "train").

    PSNR in dB of the degraded, cleaned, blindly restored and merely encoded pictures; the perceptual distance of the blind
    restoration over that of its input; the recogniser's area under the ROC over pairs of `shots` clean pictures a person;
    the part of the clean and of the degraded pictures in which the detector finds the face, and the landmarker's error there.
    """
    procedural.require(crowd, crowd[0].split if crowd[0].split != "train" else "test")
    drawn = procedural.render([(p, p.shot(100 + k)) for p in crowd for k in range(shots)], B.size)
    clean, marks = to_tensor(drawn.pictures), torch.from_numpy(drawn.landmarks[::shots]).double()
    truth = clean[::shots]
    degraded = degrade(truth, recipe, range(len(truth)))
    blind = restore(B, degraded, seeds=range(len(truth)), steps=steps)
    found = {
        name: float(image.psnr(pictures.cpu(), truth).mean())
        for name, pictures in {
            "degraded PSNR": degraded,
            "cleaned PSNR": B.clean(degraded),
            "blind PSNR": blind,
            "autoencoder PSNR": B.decode(B.encode(truth)),
        }.items()
    }
    distance = [float(image.perceptual(pictures, truth).mean()) for pictures in (blind, degraded)]
    return {
        **found,
        "cleaner gain": found["cleaned PSNR"] - found["degraded PSNR"],
        "blind gain": found["blind PSNR"] - found["degraded PSNR"],
        "blind distance": distance[0],
        "degraded distance": distance[1],
        "blind distance ratio": distance[0] / distance[1],
        "recogniser AUC": auc(identity.embed(clean), shots),
        **_points(find_landmarks(truth), marks),
        **_points(find_landmarks(degraded), marks, ", degraded"),
    }


def _points(found, truth, how=""):
    seen = found.isfinite().all(2).all(1)
    return {
        f"faces found{how}": float(seen.double().mean()),
        f"landmark error{how}": landmark_error(found[seen], truth[seen]),
    }


def landmark_error(found, truth):
    """Mean distance of 68 landmarks (N, 68, 2) as a fraction of the distance between the eyes' middles, over all faces."""
    between = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=-1)
    return float((landmark_distances.landmark_distance(found, truth) / between).mean())


def auc(vectors, shots):
    """Area under the ROC of the cosine, same person against two people; vectors (N, D), `shots` rows a person."""
    who = torch.arange(len(vectors)) // shots
    upper = torch.triu(torch.ones(len(who), len(who), dtype=torch.bool), 1)
    cosine, same = vectors @ vectors.T, who[:, None] == who[None, :]
    genuine, impostor = cosine[same & upper].numpy(), cosine[~same & upper].numpy()
    return float(mannwhitneyu(genuine, impostor).statistic / (len(genuine) * len(impostor)))


def against_bars(found):
    """A table of the measured numbers beside the bars they were made for."""
    rows = [
        {
            "measure": name,
            "measured": f"{found[name]:.4g}",
            "bar": f"{sign} {bar:g}",
            "met": "yes" if HOLDS[sign](found[name], bar) else "no",
        }
        for name, (sign, bar) in BARS.items()
    ]
    return pd.DataFrame(rows).set_index("measure")
