"""The tuning loop of both pivots: one generator a step, checkpoints that resume, Ctrl-C that loses nothing."""

import hashlib
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from lib import checks
from lib.errors import PersonalWeightsError, TrainingError
from lib.models.precision import Precision
from lib.paths import atomic_write


@dataclass(frozen=True)
class Tuning:
    """How a pivot is tuned. Paper, appendix C: AdamW, 2500 steps at 8e-6 for G, 800 at 5e-5 for E, batch 1."""

    steps: int = 200
    lr: float = 1e-4
    batch: int = 4
    gamma: float = 0.5  # fraction of the schedule, from the noisy end, that is not tuned with the prompt
    lora: int = 0  # rank of the adapters on every layer of the blocks; 0 tunes full weights
    seed: int = 0
    folder: str = ""  # where checkpoints go; none without it
    every: int = 50  # steps between checkpoints
    quiet: bool = False  # no progress bar
    levers: Precision = field(default_factory=Precision)  # what a GPU wants; none on a CPU

    def __post_init__(self):
        for name in ("steps", "batch", "every"):
            checks.whole(name, getattr(self, name), least=1)
        for name in ("lora", "seed"):
            checks.whole(name, getattr(self, name))
        checks.fraction("gamma", self.gamma)
        checks.positive("lr", self.lr)


def tune(network, loss_of, tuning, name, around=()):
    """AdamW on what requires gradients in `network`; `loss_of(generator)` is one step's loss.

    Shows a progress bar with the time left. With `tuning.folder`, writes checkpoints to `name`.pt there, and resumes from
    one: each step has its own generator, so the end is the same. Ctrl-C finishes the step and keeps it.
    around: what the loss is made of, texts and tensors, by which a checkpoint knows its person, prompt and pivot.
    Raises PersonalWeightsError where a checkpoint was made with other settings, from other tensors, or is beyond `tuning.steps`.
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=tuning.lr, fused=True)
    path = Path(tuning.folder) / f"{name}.pt" if tuning.folder else None
    settings = _settings(tuning, (*weights, *around)) if path else None
    start = _resume(path, weights, optimiser, settings, tuning.steps)
    network.train()
    with (
        interruption() as stop,
        tqdm(
            range(start, tuning.steps),
            desc=name,
            initial=start,
            total=tuning.steps,
            disable=tuning.quiet,
            mininterval=1,
        ) as bar,
    ):
        for step in bar:
            optimiser.zero_grad()
            with tuning.levers.autocast(weights[0].device):
                loss = loss_of(torch.Generator().manual_seed(tuning.seed * 1_000_003 + step))
            loss.backward()
            optimiser.step()
            if path and (stop.is_set() or (step + 1) % tuning.every == 0 or step + 1 == tuning.steps):
                _checkpoint(path, weights, optimiser, settings, step + 1)
            if stop.is_set():
                raise KeyboardInterrupt(f"stopped after step {step + 1} of {tuning.steps} ({name})")
    optimiser.zero_grad()  # gradients are as large as the network
    tuning.levers.released(network).requires_grad_(False).eval()


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


def _settings(tuning, around):
    kept = asdict(tuning)
    digest = hashlib.sha256()
    for one in around:
        digest.update(one.encode() if isinstance(one, str) else one.detach().cpu().numpy().tobytes())
    return {k: kept[k] for k in ("lr", "batch", "gamma", "lora", "seed")} | {"around": digest.hexdigest()[:16]}


def _checkpoint(path, weights, optimiser, settings, step):
    with atomic_write(path) as aside:
        torch.save(
            {
                "step": step,
                "settings": settings,
                "weights": [w.detach() for w in weights],
                "optimiser": optimiser.state_dict(),
            },
            aside,
        )


def _resume(path, weights, optimiser, settings, steps):
    if path is None or not path.is_file():
        return 0
    try:
        kept = torch.load(path, weights_only=True, map_location=weights[0].device)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise PersonalWeightsError(
            f"unreadable checkpoint: {path} ({error}). Remedy: delete it; the tuning starts again."
        ) from error
    if kept["settings"] != settings or kept["step"] > steps:
        raise PersonalWeightsError(
            f"checkpoint of another tuning: {path} was made with {kept['settings']}, {kept['step']} steps; wanted "
            f"{settings}, {steps} steps. Remedy: delete it, or give another folder."
        )
    with torch.no_grad():
        for weight, value in zip(weights, kept["weights"], strict=True):
            weight.copy_(value)
    optimiser.load_state_dict(kept["optimiser"])
    return kept["step"]


def fit(name, modules, loss_of, *, steps, lr, seed=0, device="cpu", folder=None, every=500, amp=False, ema=0.9995):
    """AdamW with warm-up and cosine decay, then the averaged weights in place of the last ones.

    modules: the modules to train; loss_of(generator) -> scalar; one generator a step, so that a resumed run
    draws what an uninterrupted one would. Checkpoints go to `folder`/`name`.pt every `every` steps. Returns the losses.
    """
    trained = torch.nn.ModuleList(modules).requires_grad_(True).train()
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(min(ema, 1 - 10 / max(steps, 20))))
    optimiser = torch.optim.AdamW(trained.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimiser, max(1, steps // 40), steps)
    state = {"trained": trained, "average": average, "optimiser": optimiser, "schedule": schedule}
    path = Path(folder) / f"{name}.pt" if folder else None
    losses = _resume(path, state, device)
    for step in tqdm(range(len(losses), steps), desc=name, initial=len(losses), total=steps, mininterval=2):
        g = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=amp):
            loss = loss_of(g)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(trained)
        losses.append(loss.detach())
        if step % 50 == 49 and not torch.isfinite(losses[-1]):
            raise TrainingError(
                f"{name} diverged: its loss is {float(losses[-1])} at step {step}. Remedy: a lower learning rate."
            )
        if path and (step + 1) % every == 0:
            _checkpoint(path, state, losses)
    trained.load_state_dict(average.module.state_dict())
    optimiser.zero_grad()  # gradients are as large as the network
    trained.requires_grad_(False).eval()
    return [float(loss) for loss in losses]


def _checkpoint(path, state, losses):
    with atomic_write(path) as aside:
        torch.save({"losses": torch.stack(losses).cpu(), **{k: v.state_dict() for k, v in state.items()}}, aside)


def _resume(path, state, device):
    if path is None or not path.is_file():
        return []
    kept = torch.load(path, weights_only=True, map_location=device)
    for key, holder in state.items():
        holder.load_state_dict(kept[key])
    return list(kept["losses"].to(device))
