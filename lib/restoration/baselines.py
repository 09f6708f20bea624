"""Other people's blind restorers, the rows of Table I that can be had: GFPGAN and CodeFormer, by spandrel, from a user's own files."""

from dataclasses import dataclass
from importlib import import_module

import pandas as pd
import torch

from lib import paths
from lib.errors import WeightsError
from lib.models import weight_files

RELEASES = "https://github.com/{}/releases/download/{}"
PUBLISHED = {  # arm: file, about how large, where; its weights are for non-commercial use (CodeFormer) or Apache-2.0 with exceptions (GFPGAN)
    "GFPGAN": ("GFPGANv1.4.pth", "349 MB", RELEASES.format("TencentARC/GFPGAN", "v1.3.0/GFPGANv1.4.pth")),
    "CodeFormer": ("codeformer.pth", "377 MB", RELEASES.format("sczhou/CodeFormer", "v0.1.0/codeformer.pth")),
}
WANTED = ("spandrel", "spandrel_extra_arches")


@dataclass(frozen=True)
class Baselines:
    """The baselines that are here, by arm, and of each other one why it is not."""

    networks: dict  # arm -> torch.nn.Module, pictures (1, 3, S, S) in [-1, 1] to a tuple that begins with restored ones
    absent: dict  # arm -> why
    files: dict  # arm -> SHA-256 of its file


NONE = Baselines({}, {}, {})


def opened(folder, size):
    """The baselines whose files lie in a folder.

    Args: folder (`paths.from_root`), with the files of PUBLISHED under those names; "" where none are asked for; size of the pictures, pixels.
    Returns Baselines. Raises WeightsError for a file that is there but is damaged, unsafe, or holds another architecture.
    """
    if not folder:
        return NONE
    files = {arm: paths.from_root(folder) / file for arm, (file, *_) in PUBLISHED.items()}
    absent = {arm: why for arm, file in files.items() if (why := _absent(arm, file))}
    found = {arm: _network(arm, file) for arm, file in files.items() if arm not in absent}
    absent |= {
        arm: f"restores other sizes than {size} px"
        for arm, one in found.items()
        if not one.size_requirements.check(size, size)
    }
    here = {arm: one.model.eval().requires_grad_(False) for arm, one in found.items() if arm not in absent}
    return Baselines(
        here,
        {arm: absent[arm] for arm in PUBLISHED if arm in absent},
        {arm: weight_files.sha256(files[arm]) for arm in here},
    )


def _absent(arm, file):
    _, size, place = PUBLISHED[arm]
    if not file.is_file():
        return f"not here: {paths.display_path(file)} ({size}, {place})"
    try:
        for package in WANTED:
            import_module(package)
        return ""
    except Exception as error:  # not installed, or a torchvision of another torch, which each raises its own
        return f"{package} cannot be imported ({type(error).__name__}: {error}); pip install -e '.[full]' installs it, with torchvision"


def _network(arm, file):
    """What spandrel makes of a file, whose tensors are read by `weight_files.read`: its own reader is not torch's restricted one."""
    tensors, (spandrel, extra) = weight_files.read(file), map(import_module, WANTED)
    extra.install(ignore_duplicates=True)  # CodeFormer, whose licence spandrel keeps apart
    try:
        found = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
    except Exception as error:  # spandrel and torch each raise their own
        raise WeightsError(
            f"not {arm}: {file} ({type(error).__name__}: {str(error)[:160]}). Remedy: fetch it again from {PUBLISHED[arm][2]}."
        ) from error
    if found.architecture.id != arm:
        raise WeightsError(
            f"not {arm}: {file} holds {found.architecture.id}. Remedy: fetch it again from {PUBLISHED[arm][2]}."
        )
    return found


def with_absent(table, baselines):
    """A table of arms with a row for each baseline that is not here, and why is printed above it; the table itself where all are."""
    if not baselines.absent:
        return table
    for arm, why in baselines.absent.items():  # in a cell, pandas would cut it off
        print(f"{arm} is absent: {why}")
    rows = [*table.index[:1], *baselines.absent, *table.index[1:]]  # after the input's
    return (
        table.reindex(rows)
        .assign(note=pd.Series(dict.fromkeys(baselines.absent, "absent: see above")))
        .astype(object)
        .fillna("")
    )


@torch.no_grad()
def restore(baselines, degraded, seeds=1, device="cpu"):
    """arm -> restorations (seeds, S, 3, H, W) of degraded pictures (S, 3, H, W) in [-1, 1] by the baselines that are here, on the CPU.

    GFPGAN draws noise, from the device's generator: seeded for each picture anew, so a seed means the same picture on one device.
    CodeFormer's fidelity w is 0.5, its code's default.
    """
    restored = {}
    for arm, network in baselines.networks.items():
        network.to(device)
        every = [
            [_one(network, picture, 1000 * k + s, device) for s, picture in enumerate(degraded)] for k in range(seeds)
        ]
        network.to("cpu")
        restored[arm] = torch.stack([torch.stack(pictures) for pictures in every])
    return restored


def _one(network, picture, seed, device):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # The networks themselves, in their own [-1, 1]: spandrel's wrapper hands them [0, 1] (0.4.2) and clips what they answer to it.
        return network(picture[None].to(device))[0][0].clamp(-1, 1).cpu()
