"""Quality of a photo system on photographs that no training saw, and whether it remembers its training photographs."""

import functools

import numpy as np
import onnxruntime
import pandas as pd
import torch

from lib.degradation.degrade import degrade
from lib.errors import WeightsError
from lib.metrics import identity, sets
from lib.metrics.image import psnr
from lib.paths import from_root
from lib.restoration.sampling import restore
from lib.studies.statistics import interval
from lib.training.pretraining import min_snr_loss

IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])  # mean, standard deviation
SMALL = 16  # pixels a side of the thumbnails that pixel distances compare


def lpips_file(file):
    """LPIPS by an ONNX file that reads two ImageNet-normalised pictures: a function of two batches -> (N,).

    Args: file, an ONNX file of inputs "ref" and "dist". Raises WeightsError where it cannot be read.
    """
    try:
        session = onnxruntime.InferenceSession(str(from_root(file)), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception for every kind of damage
        raise WeightsError(f"No LPIPS network: {file} ({error!s:.100}). Remedy: check the path.") from error
    return functools.partial(_lpips, session)


def _lpips(session, a, b):
    pairs = zip(*(((x.cpu() + 1) / 2 - IMAGENET[0, :, None, None]) / IMAGENET[1, :, None, None] for x in (a, b)))
    return torch.cat(
        [torch.from_numpy(session.run(None, {"ref": x[None].numpy(), "dist": y[None].numpy()})[0]) for x, y in pairs]
    )


def restorations(B, photographs, recipe, steps=50, seed=0):
    """name -> (N, 3, S, S): "degraded", "cleaned", "blind" and "autoencoder" of photographs (N, 3, S, S)."""
    seeds = range(seed, seed + len(photographs))
    degraded = degrade(photographs, recipe, seeds)
    return {
        "degraded": degraded,
        "cleaned": B.clean(degraded).cpu(),
        "blind": restore(B, degraded, seeds=seeds, steps=steps).cpu(),
        "autoencoder": B.decode(B.encode(photographs)).cpu(),
    }


def quality(photographs, made, distance=None):
    """PSNR and distance of what `restorations` returned, with 95 % intervals over the photographs.

    Args: photographs (N, 3, S, S); made; distance, as of `lpips_file`, or None.
    Returns a list of dicts (picture, PSNR (dB), LPIPS and, over the degraded photograph, gain, low, high).
    """
    values = {name: psnr(pictures, photographs) for name, pictures in made.items()}
    rows = []
    for name, pictures in made.items():
        gain = interval(values[name] - values["degraded"])
        row = {"picture": name, "PSNR (dB)": float(values[name].mean())}
        row |= {"gain": gain["mean"], "low": gain["low"], "high": gain["high"]} if name != "degraded" else {}
        rows.append(row | ({} if distance is None else {"LPIPS": float(distance(pictures, photographs).mean())}))
    return rows


@torch.no_grad()
def losses(B, photographs, recipe, draws=4, seed=0):
    """What the trainings minimise, on any photographs: the gap between trained and held-out ones shows overfitting.

    Args: B; photographs (N, 3, S, S); recipe; draws of steps and noise for each; seed, the same for every set.
    Returns name -> number: PSNR through the autoencoder, PSNR of the cleaner, the weighted eps loss of G and E.
    """
    degraded = degrade(photographs, recipe, range(seed, seed + len(photographs)))
    z, cleaned, g = B.encode(photographs), B.clean(degraded), torch.Generator().manual_seed(seed)
    hint, null = B.encode(cleaned), B.embed([""]).expand(len(z), -1, -1)  # (N, C, h, w), (N, L, D)
    eps = [float(min_snr_loss(B, z, g, null, hint, null)) for _ in range(draws)]
    kept, clean = (float(psnr(x.cpu(), photographs).mean()) for x in (B.decode(z), cleaned))
    return {"autoencoder (dB)": kept, "cleaner (dB)": clean, "G and E (loss)": sum(eps) / draws}


def sets_apart(made, others, scorer=None):
    """Rows (picture, metric, value) of FID and KID of each set against other photographs, as of `sets.distribution`."""
    return [
        {"picture": name, "metric": row.metric, "value": row.value}
        for name, pictures in made.items()
        for row in sets.distribution(pictures, others, scorer).itertuples()
    ]


def nearest(pictures, training, scorer=None):
    """The nearest training photograph of each picture, by small pixels and by embeddings.

    Args: pictures (N, 3, S, S); training (M, 3, S, S), mirrored ones are added here; scorer, as of `identity.embed`.
    Returns a DataFrame with N rows: pixel distance (root mean square, 0 to 1), pixel place, cosine, cosine place;
    places are indices of `training`.
    """
    both = torch.cat([training, training.flip(3)])  # (2 M, 3, S, S)
    small = [torch.nn.functional.interpolate(x, SMALL, mode="area").flatten(1) / 2 for x in (pictures, both)]
    distance = torch.cdist(*small) / small[0].shape[1] ** 0.5  # (N, 2 M)
    cosine = identity.embed(pictures, scorer) @ identity.embed(training, scorer).T  # (N, M)
    by_pixels, by_face = distance.min(1), cosine.max(1)
    columns = {"pixel distance": by_pixels.values, "pixel place": by_pixels.indices % len(training)}
    columns |= {"cosine": by_face.values, "cosine place": by_face.indices}
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def remembered(samples, held_out, quantile=0.99):
    """How many samples are nearer to a training photograph than all but a hundredth of photographs that were held out.

    Args: samples, held_out, tables of `nearest`. Returns the number of samples and name -> fraction of them; about
    1 - quantile where the system remembers nothing.
    """
    pixels = np.quantile(held_out["pixel distance"], 1 - quantile)
    face = np.quantile(held_out["cosine"], quantile)
    return {
        "samples": len(samples),
        "by pixels": float((samples["pixel distance"] < pixels).mean()),
        "by embeddings": float((samples["cosine"] > face).mean()),
    }


def headline(rows):
    """The rows of notebook 12's record on quality, one line for each set of photographs and recipe, in words.

    Columns: PSNR through the autoencoder; gain of the cleaner and of blind restoration over the degraded photograph,
    with 95 % intervals over photographs; LPIPS of the degraded photograph and of blind restoration.
    """
    table = pd.DataFrame([row for row in rows if "PSNR (dB)" in row]).set_index(["photographs", "recipe", "picture"])
    lines = {}
    for key in table.index.droplevel("picture").unique():
        one = table.loc[key]
        words = {name: "{gain:+.2f} [{low:+.2f}, {high:+.2f}]".format(**one.loc[name]) for name in ("cleaned", "blind")}
        lines[key] = {
            "autoencoder (dB)": f"{one.loc['autoencoder', 'PSNR (dB)']:.1f}",
            "cleaner gain (dB)": words["cleaned"],
            "blind gain (dB)": words["blind"],
            "LPIPS degraded": f"{one.loc['degraded', 'LPIPS']:.3f}",
            "LPIPS blind": f"{one.loc['blind', 'LPIPS']:.3f}",
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis(["photographs", "recipe"])
