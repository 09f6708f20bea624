"""The training loop: a generator per step, checkpoints that resume to the same result, Ctrl-C that loses nothing."""

import hashlib
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from lib import checks
from lib.errors import CheckpointError, RangeError, TrainingError
from lib.models.precision import Precision
from lib.paths import atomic_write


@dataclass(frozen=True)
class Training:
    """Settings of one training. Paper, appendix C: AdamW, 2500 steps at 8e-6 for G, 800 at 5e-5 for E, batch 1.

    Args: steps, batch >= 1; lr > 0, the learning rate; lora, the rank of adapters, 0 for full weights; seed; schedule,
    "constant" or "cosine" (with warm-up); betas of AdamW, in [0, 1); clip >= 0, the largest gradient norm, 0 for none;
    ema, decay of the average that replaces the last weights, 0 for none; folder for checkpoints, "" for none; every,
    steps between checkpoints; quiet, no progress bar; precision, lib.models.precision.Precision. Raises RangeError.
    """

    steps: int = 200
    lr: float = 1e-4
    batch: int = 4
    lora: int = 0
    seed: int = 0
    schedule: str = "constant"
    betas: tuple = (0.9, 0.999)
    clip: float = 0.0
    ema: float = 0.0
    folder: str = ""
    every: int = 50
    quiet: bool = False
    precision: Precision = field(default_factory=Precision)

    def __post_init__(self):
        for name in ("steps", "batch", "every"):
            checks.whole(name, getattr(self, name), least=1)
        checks.whole("lora", self.lora)
        checks.whole("seed", self.seed, most=2**63 - 1)
        checks.positive("lr", self.lr)
        for name, value in (("ema", self.ema), *(("betas", beta) for beta in self.betas)):
            if checks.fraction(name, value) == 1:
                raise RangeError(f"{name} out of range: {value!r}. Remedy: give a number below 1.")
        if checks.finite("clip", self.clip) < 0:
            raise RangeError(f"clip out of range: {self.clip!r}. Remedy: give a norm above 0, or 0 for none.")
        checks.choice("schedule", self.schedule, ("constant", "cosine"))


def train(name, modules, loss_of, options, known_by=()):
    """Minimise a loss with AdamW; returns the loss of every step, list of floats.

    Args: name, of the progress bar and the checkpoint; modules, list of torch modules, whose weights that require
    gradients are trained; loss_of(generator), the loss of one step, or its terms one after the other: each term has
    its own backward pass, so only one graph is in memory; options, Training; known_by, texts and tensors that decide
    the result: a checkpoint of others is refused. The generators are the CPU's, so draws are the same on every device.
    Raises CheckpointError (another training's checkpoint, or unreadable), TrainingError (no weight requires gradients,
    or the loss or a weight is not finite).
    """
    state = State(name, modules, options)
    path = Path(options.folder) / f"{name}.pt" if options.folder else None
    settings = _settings(options, (*state.weights, *known_by)) if path else None
    state.resume(path, settings, options.steps)
    for module in modules:
        module.train()
    done = len(state.losses)
    shown = dict(desc=name, initial=done, total=options.steps, disable=options.quiet, mininterval=1)
    bar = tqdm(range(done, options.steps), **shown)
    with interruption() as stop, bar:
        for step in bar:
            state.step(loss_of, generator(options.seed, name, step))
            if step % 10 == 0:
                bar.set_postfix_str(f"loss {state.recent():.4f}", refresh=False)
            last = step + 1 == options.steps
            if path and (stop.is_set() or last or (step + 1) % options.every == 0):
                state.check_finite()
                state.checkpoint(path, settings)
            if stop.is_set():
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {options.steps} ({name})")
    return state.finish()


def generator(seed, name, step):
    """The random generator of one step of one training: the same wherever the training is resumed."""
    digest = hashlib.sha256(f"{seed} {name} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class State:
    """What changes during a training: weights, their average, optimiser, schedule and losses."""

    def __init__(self, name, modules, options):
        self.name, self.modules, self.options = name, torch.nn.ModuleList(modules), options
        self.weights = [weight for weight in self.modules.parameters() if weight.requires_grad]
        if not self.weights:
            raise TrainingError(f"{name}: no weight requires gradients. Remedy: module.requires_grad_(True).")
        self.device = self.weights[0].device
        self.optimiser = torch.optim.AdamW(self.weights, lr=options.lr, betas=options.betas, fused=True)
        self.schedule = self.average = None
        if options.schedule == "cosine":
            warm_up = max(1, options.steps // 40)
            self.schedule = get_cosine_schedule_with_warmup(self.optimiser, warm_up, options.steps)
        if options.ema:
            decay = min(options.ema, 1 - 10 / max(options.steps, 20))
            self.average = AveragedModel(self.modules, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.losses = []

    def step(self, loss_of, g):
        """One step of the optimiser."""
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.device)
        for term in self._terms(loss_of, g):
            term.backward()
            total += term.detach()
        self.losses.append(total)
        if self.device.type == "cpu" or len(self.losses) % 10 == 1:  # reading a loss makes a GPU wait
            self.check_loss()
        if self.options.clip:
            torch.nn.utils.clip_grad_norm_(self.weights, self.options.clip)
        self.optimiser.step()
        if self.schedule:
            self.schedule.step()
        if self.average:
            self.average.update_parameters(self.modules)

    def _terms(self, loss_of, g):
        """The terms of a loss, each computed under autocast when it is wanted."""
        autocast = self.options.precision.autocast
        with autocast(self.device):
            terms = loss_of(g)
        terms = iter([terms] if torch.is_tensor(terms) else terms)
        while True:
            with autocast(self.device):
                term = next(terms, None)
            if term is None:
                return
            yield term

    def check_loss(self):
        """Raises TrainingError when the last loss is not finite."""
        if not torch.isfinite(self.losses[-1]):
            first = 1 + torch.stack(self.losses).isfinite().tolist().index(False)
            raise TrainingError(
                f"{self.name} diverged: its loss is {float(self.losses[first - 1])} at step {first}. "
                "Remedy: a lower learning rate."
            )

    def check_finite(self):
        """Raises TrainingError when the last loss or a trained weight is not finite."""
        self.check_loss()
        if not all(weight.isfinite().all() for weight in self.weights):
            raise TrainingError(
                f"{self.name} diverged: a weight is not finite after step {len(self.losses)}. "
                "Remedy: a lower learning rate."
            )

    def recent(self):
        """Mean loss of the last 20 steps."""
        return float(torch.stack(self.losses[-20:]).mean())

    def finish(self):
        """Leave the trained weights (averaged, if asked for) frozen in the modules; returns the losses."""
        self.check_finite()
        if self.average:
            self.modules.load_state_dict(self.average.module.state_dict())
        self.optimiser.zero_grad()  # gradients are as large as the network
        self.modules.requires_grad_(False).eval()
        return [float(loss) for loss in self.losses]

    def checkpoint(self, path, settings):
        """Write everything that a resumed training needs, whole or not at all."""
        kept = {
            "settings": settings,
            "losses": torch.stack(self.losses).cpu(),
            "optimiser": self.optimiser.state_dict(),
        }
        kept["weights"] = [weight.detach() for weight in self.weights]
        kept["buffers"] = dict(self.modules.named_buffers())
        for name in ("schedule", "average"):
            if getattr(self, name):
                kept[name] = getattr(self, name).state_dict()
        with atomic_write(path) as aside:
            torch.save(kept, aside)

    def resume(self, path, settings, steps):
        """Continue from a checkpoint, if there is one. Raises CheckpointError."""
        if path is None or not path.is_file():
            return
        with _reading(path):
            kept = torch.load(path, weights_only=True, map_location=self.device)
            found = kept["settings"], len(kept["losses"])
        if found[0] != settings or found[1] > steps:
            raise CheckpointError(
                f"checkpoint of another training: {path} was made with {found[0]}, {found[1]} steps; "
                f"wanted {settings}, {steps} steps. Remedy: delete it, or give another folder."
            )
        with _reading(path):
            self._load(kept)

    @torch.no_grad()
    def _load(self, kept):
        for weight, value in zip(self.weights, kept["weights"], strict=True):
            weight.copy_(value)
        self.modules.load_state_dict(kept["buffers"], strict=False)
        self.optimiser.load_state_dict(kept["optimiser"])
        for name in ("schedule", "average"):
            if getattr(self, name):
                getattr(self, name).load_state_dict(kept[name])
        self.losses = list(kept["losses"].to(self.device))


@contextmanager
def _reading(path):
    """Turns whatever pickle, zip and torch raise about a checkpoint into CheckpointError."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"unreadable checkpoint: {path} ({error!r:.200}). Remedy: delete it; the training starts again."
        ) from error


def _settings(options, known_by):
    """What decides a training's result, besides its number of steps under a constant schedule."""
    digest = hashlib.sha256()
    for item in known_by:
        content = item.encode() if isinstance(item, str) else item.detach().cpu().float().numpy().tobytes()
        digest.update(f"{len(content)} ".encode() + content)
    names = ["lr", "batch", "lora", "seed", "schedule", "betas", "clip", "ema"]
    kept = {name: getattr(options, name) for name in names} | {"data": digest.hexdigest()[:16]}
    kept |= {"dtype": options.precision.dtype, "betas": list(options.betas)}
    return kept | ({"steps": options.steps} if options.schedule == "cosine" else {})


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
