"""What a person costs at full size, counted without any weights: arithmetic, memory, disk. `lib.studies.cost_timed` times it."""

import copy

import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from lib.models.swinir import SwinIR
from lib.models.system import System, ddpm, encoder_from
from lib.models.tiny import build_tokenizer
from lib.people.procedural import WORDS
from lib.restoration.sampling import guided_eps
from lib.training.pivots import tunable
from lib.training.trainer import Tuning

UNET = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    cross_attention_dim=1024,
    attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
)  # diffusers' defaults besides
VAE = dict(
    sample_size=512,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
TEXT = dict(
    vocab_size=49408,
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
LENGTH = 77  # tokens
PARTS = {"G": "G", "E": "E", "vae": "autoencoder", "text_encoder": "text encoder", "cleaner": "cleaner"}
STEPS = {"textual": 2500, "model": 800, "restoration": 50}  # of the paper, appendix C
CLASS_PICTURES = 200  # of prior preservation in the published code, each of 50 steps with two passes of G
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
    return System(
        G, E.to(device), vae, text, tokenizer, ddpm(), cleaner, {"made": "random weights of full size"}
    ).freeze()


def parameters(B, ranks=(3, 8)):
    """Weights of each part, and MB on disk of one person's pivot (full weights, or adapters in half precision) and of checkpoints."""
    count = {words: _count(getattr(B, part)) for part, words in PARTS.items()}
    pivots = {"full weights": 4 * (count["G"] + count["E"])} | {
        f"LoRA {rank}": 2 * sum(_count(one, True) for one in _adapted(B, rank)) for rank in ranks
    }
    checkpoints = {f"checkpoint of {one}, full weights": 4 * (ADAM - 1) * count[one] for one in ("G", "E")}
    return (
        pd.DataFrame({"weights (million)": {name: f"{n / 1e6:.2f}" for name, n in count.items()}}),
        pd.DataFrame({"MB on disk": {name: f"{n / 1e6:,.1f}" for name, n in (pivots | checkpoints).items()}}),
    )


def _adapted(B, rank):
    return [tunable(network, Tuning(lora=rank)) for network in (B.G, B.E)]


def _count(network, trained=False):
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad or not trained)


def _sample(B, count=1):
    """A latent, steps and a prompt for B, of its sizes: zeros."""
    side, width = B.G.config.sample_size, B.G.config.cross_attention_dim
    latents = torch.zeros(count, B.G.config.in_channels, side, side, device=B.device)
    return (
        latents,
        torch.zeros(count, device=B.device),
        torch.zeros(count, B.tokenizer.model_max_length, width, device=B.device),
    )


def _step(B):
    """The loss of one tuning step in context, and its backward pass."""
    x, t, prompt = _sample(B)
    F.mse_loss(B.predict(x, t, prompt, x, prompt), x).backward()


def tuned(B, part, lora=0):
    """B with `part` ready to be tuned, the rest frozen."""
    return B.with_(**{part: tunable(getattr(B, part), Tuning(lora=lora)).train()})


def count_flops(B):
    """TFLOP of every stage at batch 1, counted by PyTorch: two for each multiply-add of matrices and convolutions, attention included."""
    x, t, prompt = _sample(B)
    stages = {
        "textual step": lambda: _step(tuned(B, "G")),
        "model step": lambda: _step(tuned(B, "E")),
        "restoration step": lambda: guided_eps(B, x, t, prompt, prompt, x, 1.0),
        "class picture's step": lambda: [B.G(x, t, prompt) for _ in range(2)],
        "encode": lambda: B.encode(torch.zeros(1, 3, B.size, B.size, device=B.device)),
        "decode": lambda: B.decode(x),
    }
    return {name: _counted(stage) for name, stage in stages.items()}


def _counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def memory(B, rank=3):
    """GB at most while G is tuned, with prior preservation, and E, by full weights and by adapters; the other network is frozen.

    Counted at batch 1: weights, Adam's gradients and moments of what is trained, and what a step keeps for its backward pass, in single
    precision (bf16 keeps less, half of it at best). With bf16 the tuned network has a copy in it and the frozen one is in it.
    """
    rows = []
    for what, part, lora in (
        ("G, full weights", "G", 0),
        (f"G, LoRA {rank}", "G", rank),
        ("E, full weights", "E", 0),
        (f"E, LoRA {rank}", "E", rank),
    ):
        system, graphs = tuned(B, part, lora), 2 if part == "G" else 1  # prior preservation makes a second one
        learner, frozen = (4 * _count(getattr(system, one)) for one in (part, "E" if part == "G" else "G"))
        moments = 4 * (ADAM - 1) * _count(getattr(system, part), True)
        kept, fewer = (
            graphs * _kept(system),
            graphs * _kept(system.with_(G=_checkpointed(system.G), E=_checkpointed(system.E))),
        )
        halved, again = (
            1.5 * learner + frozen / 2 + moments,
            learner / 2 * (graphs - 1) * bool(lora),
        )  # autocast keeps copies of trained weights alone
        rows.append(
            {
                "tuned": what,
                "plain": learner + frozen + moments + kept,
                "bf16": halved + again + kept,
                "bf16 checkpointing": halved + fewer,
            }
        )
    return pd.DataFrame(rows).set_index("tuned") / GB


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
    """The paper's stages and the class pictures of a real person's prior: TFLOP in all, the seconds these take at `peak` TFLOP a second,
    and the seconds that the paper's V100 took."""
    steps = STEPS | {"class pictures": CLASS_PICTURES * STEPS["restoration"]}
    rows = {
        stage: steps[stage] * tflop["class picture's step" if stage == "class pictures" else f"{stage} step"]
        for stage in steps
    }
    rows["class pictures"] += CLASS_PICTURES * tflop["decode"]
    return pd.DataFrame(
        {
            "steps": steps,
            "TFLOP": {k: f"{n:,.0f}" for k, n in rows.items()},
            "at the peak (s)": {k: f"{n / peak:.2f}" for k, n in rows.items()},
            "paper, V100 (s)": {k: f"{PAPER[k]:,.1f}" if k in PAPER else "" for k in rows},
        }
    )
