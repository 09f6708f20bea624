"""Training pictures of the tiny system and the evaluation networks: procedural people, rendered and degraded."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from tqdm.auto import tqdm

from lib.degradation.degrade import apply
from lib.degradation.settings import sample
from lib.people import procedural

CHUNK = 20  # people that a worker renders at once
RECIPE = "tiny-heavy"  # of a system that was trained on this mixture, where no other is named
MIXTURE = ("tiny", "tiny-heavy", "tiny", "tiny-heavy", "tiny-extreme")  # recipes, by turns


@dataclass
class Pool:
    """Rendered pictures of training people, kept in memory for the whole training."""

    pictures: torch.Tensor  # (N, 3, H, W) uint8
    person: torch.Tensor  # (N,) index into the people
    captions: list
    genes: torch.Tensor | None  # (people, K); None where nobody knows them
    landmarks: torch.Tensor  # (N, 68, 2) in [-1, 1]
    degraded: torch.Tensor | None = None  # (N, 3, H, W) uint8
    degrade_anew: Callable | None = None  # pictures (n, 3, H, W) in [-1, 1], generator -> degraded pictures

    def draw(self, count, g):
        """Indices (count,) of pictures, drawn by generator `g` on its device."""
        return torch.randint(len(self.pictures), (count,), generator=g, device=g.device)

    def batch(self, count, g):
        """Indices (count,) drawn by generator `g`, and their pictures (count, 3, H, W) in [-1, 1] on its device."""
        i = self.draw(count, g)
        return i, _take(self.pictures, i)

    def degraded_batch(self, count, g):
        """As `batch`, with the degraded pictures (count, 3, H, W), degraded anew if the pool can, as a third result."""
        i, x = self.batch(count, g)
        return i, x, self.degrade_anew(x, g) if self.degrade_anew else _take(self.degraded, i)

    def to(self, device):
        """Move every tensor to a device; returns the pool."""
        for name in ("pictures", "person", "genes", "landmarks", "degraded"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(device))
        return self


def _take(stack, i):
    """Pictures of a uint8 stack as float in [-1, 1], on the device of the indices."""
    return stack[i.to(stack.device)].to(i.device).float() / 127.5 - 1


def make_pool(count, shots, size=128, start=0, workers=2):
    """Render pictures of training people, and degrade each once.

    Args: count, number of people; shots, pictures of each; size, side in pixels; start, number of the first person of
    the training split; workers, processes to render in (1 renders in this process).
    Raises SplitError if one of them is no training person.
    """
    people = procedural.people_of("train", count, start)
    procedural.require(people, "train")
    jobs = [(people[i : i + CHUNK], shots, size, i) for i in range(0, count, CHUNK)]
    parts = run_jobs(_render, jobs, workers, "render")
    pictures, degraded, landmarks = (torch.from_numpy(np.concatenate([p[k] for p in parts])) for k in range(3))
    return Pool(
        pictures=pictures.permute(0, 3, 1, 2).contiguous(),
        degraded=degraded.permute(0, 3, 1, 2).contiguous(),
        person=torch.arange(count).repeat_interleave(shots),
        captions=[caption for part in parts for caption in part[3]],
        genes=torch.from_numpy(np.stack([person.gene_vector() for person in people])),
        landmarks=landmarks / (size / 2) - 1,
    )


def run_jobs(function, jobs, workers, name):
    """The results of a function of one argument for every job, in order, with a progress bar.

    Args: workers, processes to run in (1 runs in this process); name, of the progress bar.
    """
    shown = dict(total=len(jobs), desc=name, mininterval=2)
    if workers == 1:
        return list(tqdm(map(function, jobs), **shown))
    # fresh processes: a fork would copy the threads of torch and OpenCV in whatever state they are
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        return list(tqdm(executor.map(function, jobs), **shown))


def _render(job):
    people, shots, size, first = job
    portraits = procedural.render([(person, person.shot(k)) for person in people for k in range(shots)], size=size)
    degraded = []
    for n, picture in enumerate(portraits.pictures):
        seed = first * shots + n
        settings = sample(MIXTURE[seed % len(MIXTURE)], np.random.default_rng(seed), size)
        degraded.append(apply(picture, settings))
    return portraits.pictures, np.stack(degraded), portraits.landmarks, portraits.captions
