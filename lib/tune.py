"""The tuning loop of both pivots: one generator a step, checkpoints that resume, Ctrl-C that loses nothing."""
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from lib import checks
from lib.errors import PivotError


@dataclass(frozen=True)
class Tuning:
    """How a pivot is tuned. Paper, appendix C: AdamW, 2500 steps at 8e-6 for G, 800 at 5e-5 for E, batch 1."""

    steps: int = 200
    lr: float = 1e-4
    batch: int = 4
    gamma: float = 0.5  # fraction of the schedule, from the noisy end, that is not tuned with the prompt
    lora: int = 0  # rank of the adapters on every attention; 0 tunes full weights
    seed: int = 0
    folder: str = ""  # where checkpoints go; none without it
    every: int = 50  # steps between checkpoints
    quiet: bool = False  # no progress bar

    def __post_init__(self):
        for name in ("steps", "batch", "every"):
            checks.steps(getattr(self, name), name, least=1)
        checks.fraction("gamma", self.gamma)
        checks.finite("lr", self.lr)


def tune(network, loss_of, tuning, name):
    """AdamW on what requires gradients in `network`; `loss_of(generator)` is one step's loss.

    Shows a progress bar with the time left. With `tuning.folder`, writes checkpoints to `name`.pt there, and resumes from
    one: each step has its own generator, so the end is the same. Ctrl-C finishes the step and keeps it.
    Raises PivotError where a checkpoint was made with other settings.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=tuning.lr)
    path = Path(tuning.folder) / f"{name}.pt" if tuning.folder else None
    start = _resume(path, weights, optimiser, tuning)
    network.train()
    with interruption() as stop, tqdm(range(start, tuning.steps), desc=name, initial=start, total=tuning.steps,
                                      disable=tuning.quiet, mininterval=1) as bar:
        for step in bar:
            optimiser.zero_grad()
            loss_of(torch.Generator().manual_seed(tuning.seed * 1_000_003 + step)).backward()
            optimiser.step()
            if path and (stop.is_set() or (step + 1) % tuning.every == 0):
                _checkpoint(path, weights, optimiser, tuning, step + 1)
            if stop.is_set():
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {tuning.steps} ({name})")
    network.requires_grad_(False).eval()


@contextmanager
def interruption():
    """An event that Ctrl-C sets, instead of stopping in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may catch signals
        return
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _settings(tuning):
    kept = asdict(tuning)
    return {k: kept[k] for k in ("lr", "batch", "gamma", "lora", "seed")}


def _checkpoint(path, weights, optimiser, tuning, step):
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    torch.save({"step": step, "settings": _settings(tuning), "weights": [w.detach() for w in weights],
                "optimiser": optimiser.state_dict()}, aside)
    aside.replace(path)


def _resume(path, weights, optimiser, tuning):
    if path is None or not path.is_file():
        return 0
    kept = torch.load(path, weights_only=True, map_location=weights[0].device)
    if kept["settings"] != _settings(tuning) or len(kept["weights"]) != len(weights):
        raise PivotError(f"checkpoint of another tuning: {path} was made with {kept['settings']}. "
                         "Remedy: delete it, or give another folder.")
    with torch.no_grad():
        for weight, value in zip(weights, kept["weights"]):
            weight.copy_(value)
    optimiser.load_state_dict(kept["optimiser"])
    return kept["step"]
