"""What a person costs: the floor counted at full size without any weights, and steps timed against a plain loop."""
import copy
import statistics
import time
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from lib import checks, record
from lib.degrade import degrade
from lib.people import WORDS
from lib.pivot import Shots, model_pivot, prepare, textual_pivot, tunable
from lib.restore import guided_eps, restore
from lib.swinir import SwinIR
from lib.system import RARE_TOKEN, System, build_tokenizer, ddpm, encoder_from
from lib.tune import Tuning

UNET = dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)  # diffusers' defaults besides
VAE = dict(sample_size=512, block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
           down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
TEXT = dict(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
LENGTH = 77  # tokens
PARTS = {"G": "G", "E": "E", "vae": "autoencoder", "text_encoder": "text encoder", "cleaner": "cleaner"}
STEPS = {"textual": 2500, "model": 800, "restoration": 50}  # of the paper, appendix C
PAPER = {"textual": 63.5 * 60, "model": 21.6 * 60, "restoration": 6.8}  # seconds on a V100, Tables II and III
ADAM = 4  # numbers a trained weight takes: itself, its gradient, two moments
GB = 1e9


def full_size(device="meta"):
    """A System of the size of SD 2.1 and DiffBIR with random weights; on "meta", shapes alone. It restores nothing."""
    with torch.device(device):
        G, text = UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT))
        E = encoder_from(G)
        vae, cleaner = AutoencoderKL(**VAE), SwinIR()
    tokenizer = build_tokenizer(WORDS)
    tokenizer.model_max_length = LENGTH
    return System(G, E.to(device), vae, text, tokenizer, ddpm(), cleaner, {"made": "random weights of full size"}).freeze()


def parameters(B, ranks=(4, 8)):
    """Weights of each part, and what one person's pivot is on disk: full weights, or adapters of G and E of the given ranks (MB)."""
    count = {words: _count(getattr(B, part)) for part, words in PARTS.items()}
    pivots = {"full weights": count["G"] + count["E"]} | {f"LoRA {rank}": sum(_count(one, True) for one in _adapted(B, rank)) for rank in ranks}
    return (pd.DataFrame({"weights (million)": {name: f"{n / 1e6:.2f}" for name, n in count.items()}}),
            pd.DataFrame({"MB a person": {name: f"{4 * n / 1e6:,.1f}" for name, n in pivots.items()}}))


def _adapted(B, rank):
    return [tunable(network, Tuning(lora=rank)) for network in (B.G, B.E)]


def _count(network, trained=False):
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad or not trained)


def _sample(B, count=1):
    """A latent, steps and a prompt for B, of its sizes: zeros."""
    side, width = B.G.config.sample_size, B.G.config.cross_attention_dim
    latents = torch.zeros(count, B.G.config.in_channels, side, side, device=B.device)
    return latents, torch.zeros(count, device=B.device), torch.zeros(count, B.tokenizer.model_max_length, width, device=B.device)


def _step(B):
    """The loss of one tuning step in context, and its backward pass."""
    x, t, prompt = _sample(B)
    F.mse_loss(B.predict(x, t, prompt, x, prompt), x).backward()


def _tuned(B, part, lora=0):
    """B with `part` ready to be tuned, the rest frozen."""
    return B.with_(**{part: tunable(getattr(B, part), Tuning(lora=lora)).train()})


def floor(B):
    """TFLOP of every stage at batch 1, counted by PyTorch: two for each multiply-add of matrices and convolutions, attention included."""
    x, t, prompt = _sample(B)
    stages = {"textual step": lambda: _step(_tuned(B, "G")), "model step": lambda: _step(_tuned(B, "E")),
              "restoration step": lambda: guided_eps(B, x, t, prompt, prompt, x, 1.0),
              "encode": lambda: B.encode(torch.zeros(1, 3, B.size, B.size, device=B.device)), "decode": lambda: B.decode(x)}
    return {name: _counted(stage) for name, stage in stages.items()}


def _counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def memory(B, rank=8):
    """GB at most while G is tuned, with prior preservation, and E, by full weights and by adapters; the other network is frozen.

    Counted at batch 1: weights, Adam's gradients and moments of what is trained, and what a step keeps for its backward pass, in single
    precision (bf16 keeps less, half of it at best). With bf16 the tuned network has a copy in it and the frozen one is in it.
    """
    rows = []
    for what, part, lora in (("G, full weights", "G", 0), (f"G, LoRA {rank}", "G", rank), ("E, full weights", "E", 0), (f"E, LoRA {rank}", "E", rank)):
        system, graphs = _tuned(B, part, lora), 2 if part == "G" else 1  # prior preservation makes a second one
        tuned, frozen = (4 * _count(getattr(system, one)) for one in (part, "E" if part == "G" else "G"))
        moments = 4 * (ADAM - 1) * _count(getattr(system, part), True)
        kept, fewer = graphs * _kept(system), graphs * _kept(system.with_(G=_checkpointed(system.G), E=_checkpointed(system.E)))
        halved = 1.5 * tuned + frozen / 2 + moments
        rows.append({"tuned": what, "plain": tuned + frozen + moments + kept, "bf16": halved + kept, "bf16 checkpointing": halved + fewer})
    return (pd.DataFrame(rows).set_index("tuned") / GB).map("{:.1f}".format)


def _checkpointed(network):
    network = copy.deepcopy(network)
    network.enable_gradient_checkpointing()
    return network


def _kept(B):
    """Bytes that one tuning step holds for its backward pass, weights not counted."""
    own = {weight.untyped_storage()._cdata for network in (B.G, B.E) for weight in network.parameters()}
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()  # kept alive, or another takes its place
        return tensor
    x, t, prompt = _sample(B)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.mse_loss(B.predict(x, t, prompt, x, prompt), x)
    return sum(storage.nbytes() for key, storage in held.items() if key not in own)


def expected(tflop, peak):
    """The paper's stages: TFLOP in all, the seconds these take at `peak` TFLOP a second, and the seconds that the paper's V100 took."""
    rows = {stage: STEPS[stage] * tflop[f"{stage} step"] for stage in STEPS}
    return pd.DataFrame({"steps": STEPS, "TFLOP": {k: f"{n:,.0f}" for k, n in rows.items()}, "at the peak (s)": {k: f"{n / peak:.2f}" for k, n in rows.items()},
                         "paper, V100 (s)": {k: f"{n:,.1f}" for k, n in PAPER.items()}})


# ---- on the clock ----

@dataclass
class Clocked(Shots):
    """Shots that note when they are asked, once a step: so the very loop that tunes is timed."""

    ticks: list = field(default_factory=list)

    def draw(self, count, g):
        self.ticks.append(_now(self.latents.device))
        return super().draw(count, g)


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def ours(B, shots, prompt, tuning, part="G"):
    """Seconds of each step of a pivot, its first left out."""
    clocked = Clocked(shots.latents, shots.hints)
    (textual_pivot if part == "G" else model_pivot)(B, clocked, prompt, replace(tuning, steps=tuning.steps + 2, quiet=True))
    return _between(clocked.ticks)


def plain(B, pictures, degraded, prompt, tuning, part="G"):
    """The same step as the diffusers examples write it (train_dreambooth.py, train_controlnet.py): every step encodes its pictures and
    its prompt, clips gradients and asks a learning-rate schedule; E steers here as there. Seconds of each step, its first left out."""
    inside = _tuned(B, part)
    weights = [weight for weight in getattr(inside, part).parameters() if weight.requires_grad]
    optimiser, ticks = torch.optim.AdamW(weights, lr=tuning.lr), []
    schedule = get_scheduler("constant", optimizer=optimiser)
    for step in range(tuning.steps + 2):
        ticks.append(_now(B.device))
        g = torch.Generator().manual_seed(step)
        loss = _plain_loss(inside, pictures, degraded, prompt, tuning, g)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
    return _between(ticks)


def _plain_loss(B, pictures, degraded, prompt, tuning, g):
    i = torch.randint(len(pictures), (tuning.batch,), generator=g)
    with torch.no_grad():
        x0 = B.posterior(pictures[i]).sample(g if B.device.type == "cpu" else None) * B.vae.config.scaling_factor
    hint, (null, text) = B.encode(B.clean(degraded[i])), B.embed(["", prompt]).split(1)
    eps, t = torch.randn(x0.shape, generator=g).to(x0), torch.randint(B.scheduler.config.num_train_timesteps, (len(x0),), generator=g).to(B.device)
    null, text = (words.expand(len(x0), -1, -1) for words in (null, text))
    return F.mse_loss(B.predict(B.scheduler.add_noise(x0, eps, t), t, text, hint, null), eps)


def _between(ticks):
    return [b - a for a, b in zip(ticks[1:], ticks[2:])]


def timed(B, pictures, variants, tuning, rounds=3, part="G"):
    """A row for each variant, interleaved: median seconds a step, how many times the plain loop is slower, peak GB on a GPU.

    variants: name -> how it changes `tuning`; the plain loop comes with them. rounds: how often each takes its turn.
    """
    checks.steps(rounds, "rounds", least=1)
    prompt, shots, degraded = f"a photo of a {RARE_TOKEN} person", prepare(B, pictures, degradations=2), degrade(pictures, "tiny", list(range(len(pictures))))[0]
    works = {name: (lambda how=how: ours(B, shots, prompt, replace(tuning, **how), part)) for name, how in variants.items()}
    works = {"plain loop": lambda: plain(B, pictures, degraded, prompt, tuning, part)} | works
    seconds, peaks = {name: [] for name in works}, {}
    for _ in range(rounds):
        for name, work in works.items():
            peaks[name] = max(peaks.get(name, 0), _peak(B.device, lambda: seconds[name].extend(work())))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    table = pd.DataFrame({"seconds a step": median})
    table["plain loop / this"] = median["plain loop"] / table["seconds a step"]
    return table.assign(**{"peak GB": [peaks[name] / GB for name in table.index]} if B.device.type == "cuda" else {})


def restoring(B, pictures, steps=50, batches=(1, 4)):
    """A row for each number of pictures at once: seconds a picture from degraded to restored, and peak GB on a GPU."""
    rows = {}
    for count in batches:
        again = lambda steps: restore(B, pictures[:1].repeat(count, 1, 1, 1), seeds=list(range(count)), steps=steps, batch=count)  # noqa: E731
        again(2)  # warms up
        start, peak = _now(B.device), _peak(B.device, lambda: again(steps))
        seconds = (_now(B.device) - start) / count
        rows[f"restoration, {count} at once"] = {"seconds a picture": seconds} | ({"peak GB": peak / GB} if peak else {})
    return pd.DataFrame(rows).T


def card(device):
    """The name of the device as its driver has it; "cpu" for a CPU, whose seconds are of no interest elsewhere."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peak(device, work):
    """Bytes that the device held at most during `work`; 0 on a CPU, which does not tell."""
    if device.type != "cuda":
        work()
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def recorded(path):
    """What a recorded run on a GPU measured, or that there is none: a table, or a sentence."""
    if not path.is_file():
        return "No run on a GPU has been recorded: there was none where this workbook was made."
    return pd.DataFrame(record.read(path)["metrics"])
