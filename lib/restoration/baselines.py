"""Published blind restorers of Table I whose weights are public: GFPGAN and CodeFormer, loaded by spandrel."""

from dataclasses import dataclass
from importlib import import_module

import torch

from lib import paths
from lib.errors import WeightsError
from lib.models import weight_files

RELEASES = "https://github.com/{}/releases/download/{}"
# name: file, its size, its address. CodeFormer's weights are for non-commercial use; GFPGAN's are Apache-2.0 with
# exceptions.
PUBLISHED = {
    "GFPGAN": ("GFPGANv1.4.pth", "349 MB", RELEASES.format("TencentARC/GFPGAN", "v1.3.0/GFPGANv1.4.pth")),
    "CodeFormer": ("codeformer.pth", "377 MB", RELEASES.format("sczhou/CodeFormer", "v0.1.0/codeformer.pth")),
}
PACKAGES = ("spandrel", "spandrel_extra_arches")


@dataclass(frozen=True)
class Baselines:
    """The baselines that can be used, by name, and for every other one the reason why it cannot."""

    networks: (
        dict  # name -> torch.nn.Module: pictures (1, 3, S, S) in [-1, 1] -> a tuple that begins with restored ones
    )
    absent: dict  # name -> reason
    files: dict  # name -> SHA-256 of its file


NONE = Baselines({}, {}, {})


def open_baselines(folder, size):
    """The baselines whose files lie in a folder.

    Args: folder (`paths.from_root`), with the files of PUBLISHED under those names, or "" for no baselines; size of the
    pictures, pixels.
    Returns Baselines. Raises WeightsError for a file that is damaged, unsafe, or holds another architecture.
    """
    if not folder:
        return NONE
    networks, absent, files = {}, {}, {}
    for name, (file, *_) in PUBLISHED.items():
        path = paths.from_root(folder) / file
        reason = _why_absent(name, path)
        model = None if reason else _load(name, path)
        if model is not None and not model.size_requirements.check(size, size):
            reason = f"restores other sizes than {size} px"
        if reason:
            absent[name] = reason
        else:
            networks[name], files[name] = model.model.eval().requires_grad_(False), weight_files.sha256(path)
    return Baselines(networks, absent, files)


def _why_absent(name, file):
    """The reason why a baseline cannot be loaded, or ""."""
    _, size, address = PUBLISHED[name]
    if not file.is_file():
        return f"not here: {paths.display_path(file)} ({size}, {address})"
    for package in PACKAGES:
        try:
            import_module(package)
        except Exception as error:  # not installed, or a torchvision of another torch, which raise errors of their own
            return (
                f"{package} cannot be imported ({type(error).__name__}: {error}); "
                "pip install -e '.[full]' installs it, with torchvision"
            )
    return ""


def _load(name, file):
    """spandrel's model of a file. `weight_files.read` reads its tensors, because spandrel's own reader is not safe."""
    tensors = weight_files.read(file)
    spandrel, extra = (import_module(package) for package in PACKAGES)
    extra.install(ignore_duplicates=True)  # adds CodeFormer, whose licence spandrel keeps apart
    remedy = f"Remedy: fetch it again from {PUBLISHED[name][2]}."
    try:
        model = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
    except Exception as error:  # spandrel and torch raise errors of their own
        raise WeightsError(f"not {name}: {file} ({type(error).__name__}: {str(error)[:160]}). {remedy}") from error
    if model.architecture.id != name:
        raise WeightsError(f"not {name}: {file} holds {model.architecture.id}. {remedy}")
    return model


def with_absent(table, baselines):
    """A table whose index is arms, with a row for each absent baseline after the input's row.

    Args: table, a DataFrame; baselines, a Baselines.
    Returns the table itself if none is absent; otherwise a copy with the column `note`, which says "absent: see
    above" there. The reasons are too long for a cell; print `explain_absent` before the table.
    """
    if not baselines.absent:
        return table
    rows = [*table.index[:1], *baselines.absent, *table.index[1:]]
    notes = ["absent: see above" if row in baselines.absent else "" for row in rows]
    return table.reindex(rows).assign(note=notes).astype(object).fillna("")


def explain_absent(baselines):
    """One line for each absent baseline with the reason, as a text; "" if none is absent."""
    return "\n".join(f"{name} is absent: {reason}" for name, reason in baselines.absent.items())


@torch.no_grad()
def restore(baselines, degraded, seeds=1, device="cpu"):
    """Restorations by the baselines.

    GFPGAN draws noise from the device's generator. It is seeded for each picture, so a seed gives the same picture on
    the same device. CodeFormer's fidelity w is 0.5, the default of its code.
    Args: baselines, a Baselines; degraded, (N, 3, S, S) in [-1, 1]; seeds, how many restorations of each; device.
    Returns {name: (seeds, N, 3, S, S)} in [-1, 1], on the CPU.
    """
    restored = {}
    for name, network in baselines.networks.items():
        network.to(device)
        batches = [
            torch.stack(
                [_restore_picture(network, picture, 1000 * k + n, device) for n, picture in enumerate(degraded)]
            )
            for k in range(seeds)
        ]
        network.to("cpu")
        restored[name] = torch.stack(batches)  # (seeds, N, 3, S, S)
    return restored


def _restore_picture(network, picture, seed, device):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # The network itself, which reads and writes [-1, 1]: spandrel's wrapper (0.4.2) converts from and to [0, 1].
        return network(picture[None].to(device))[0][0].clamp(-1, 1).cpu()  # (3, S, S)
