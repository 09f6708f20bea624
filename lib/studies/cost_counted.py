"""The cost of a person at full size, counted without weights: arithmetic, memory, disk. `cost_timed` measures time."""

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
from lib.training.trainer import Training
from lib.training.tunable import tunable

UNET = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    cross_attention_dim=1024,
    attention_head_dim=(5, 10, 20, 20),
    use_linear_projection=True,
)  # otherwise the defaults of diffusers
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
TOKENS = 77
PARTS = {"G": "G", "E": "E", "vae": "autoencoder", "text_encoder": "text encoder", "cleaner": "stage-1 cleaner"}
STEPS = {"textual": 2500, "model": 800, "restoration": 50}  # of the paper, appendix C
CLASS_IMAGES = 200  # for prior preservation, in the published code; each takes 50 steps with two passes of G
PAPER = {"textual": 31.8 * 60, "model": 10.5 * 60, "restoration": 6.8}  # s on a V100: Table II with speed-up, Table III
ADAM = 4  # numbers per trained weight: the weight, its gradient, two moments
GB = 1e9  # bytes; a card sold as 24 GB has 24 GiB, which are 25.8 of these


def full_size(device="meta"):
    """A System of the size of SD 2.1 and DiffBIR with random weights; on "meta" it has shapes and no storage."""
    with torch.device(device):
        G, text = UNet2DConditionModel(**UNET), CLIPTextModel(CLIPTextConfig(**TEXT))
        E = encoder_from(G)
        vae, cleaner = AutoencoderKL(**VAE), SwinIR()
    tokenizer = build_tokenizer(WORDS)
    tokenizer.model_max_length = TOKENS
    facts = {"made": "random weights of full size"}
    return System(G, E.to(device), vae, text, tokenizer, ddpm(), cleaner, facts).freeze()


def tuned(B, part, lora=0):
    """B with `part`, "G" or "E", ready for tuning (full weights, or adapters of rank `lora`), and the rest frozen."""
    return B.with_(**{part: tunable(getattr(B, part), Training(lora=lora)).train()})


# ---- weights and disk ----


def count_weights(B):
    """A table of the number of weights of each part, in millions."""
    count = {name: f"{_count(getattr(B, part)) / 1e6:.2f}" for part, name in PARTS.items()}
    return pd.DataFrame({"weights (million)": count})


def count_disk(B, ranks=(3, 8)):
    """A table of MB on disk: personal weights (full, or adapters in half precision) and checkpoints of a tuning."""
    count = {part: _count(getattr(B, part)) for part in ("G", "E")}
    sizes = {"full weights": 4 * sum(count.values())}
    for rank in ranks:
        sizes[f"LoRA {rank}"] = 2 * sum(_count(getattr(tuned(B, part, rank), part), True) for part in ("G", "E"))
    sizes |= {f"checkpoint of {part}, full weights": 4 * (ADAM - 1) * n for part, n in count.items()}
    return pd.DataFrame({"MB on disk": {name: f"{size / 1e6:,.1f}" for name, size in sizes.items()}})


def _count(network, trained=False):
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad or not trained)


# ---- arithmetic ----


def count_flops(B):
    """TFLOP of every stage at batch 1, by PyTorch's counter: two per multiply-add of matrices and convolutions."""
    x, t, prompt = _example(B)
    stages = {
        "textual step": lambda: _loss(tuned(B, "G")).backward(),
        "model step": lambda: _loss(tuned(B, "E")).backward(),
        "restoration step": lambda: guided_eps(B, x, t, prompt, prompt, x, 1.0),
        "class image step": lambda: [B.G(x, t, prompt) for _ in range(2)],
        "encode": lambda: B.encode(torch.zeros(1, 3, B.size, B.size, device=B.device)),
        "decode": lambda: B.decode(x),
    }
    return {name: counted(stage) for name, stage in stages.items()}


def count_passes(B):
    """TFLOP of each forward and backward pass in one tuning step at batch 1 (eqs 6 and 7), one column per pivot.

    The textual pivot trains G inside B with E frozen. The model pivot trains E: its gradients reach E through the
    half of the frozen G that reads E's residuals.
    """
    x, t, prompt = _example(B)
    down, mid = B.E(x, t, prompt, controlnet_cond=x, return_dict=False)  # 12 residuals and one of the middle block
    residuals = [tensor.detach() for tensor in (*down, mid)]

    def run_G(G, x, residuals):
        own = dict(down_block_additional_residuals=residuals[:-1], mid_block_additional_residual=residuals[-1])
        return [G(x, t, prompt, **own).sample]

    def run_E(E, x, _):
        down, mid = E(x, t, prompt, controlnet_cond=x, return_dict=False)
        return [*down, mid]

    G, E = _passes(run_G, B.G, tuned(B, "G").G, x, residuals), _passes(run_E, B.E, tuned(B, "E").E, x, residuals)
    free = [residual.clone().requires_grad_() for residual in residuals]
    through_G = counted(lambda: _backward(run_G(B.G, x, free))) - G["forward"]
    rows = {
        "E forward": (E["forward"], E["forward"]),
        "G forward": (G["forward"], G["forward"]),
        "G backward to activations": (G["activations"], through_G),
        "G backward to weights": (G["weights"], 0.0),
        "E backward to activations": (0.0, E["activations"]),
        "E backward to weights": (0.0, E["weights"]),
    }
    return pd.DataFrame(rows, index=["textual step", "model step"]).T


def _passes(run, frozen, trained, x, residuals):
    """TFLOP of a network's forward pass, and of the gradients of its activations and of its weights."""
    forward = counted(lambda: run(frozen, x, residuals))
    activations = counted(lambda: _backward(run(frozen, x.clone().requires_grad_(), residuals))) - forward
    weights = counted(lambda: _backward(run(trained, x, residuals))) - forward - activations
    return {"forward": forward, "activations": activations, "weights": weights}


def _backward(outputs):
    sum(output.sum() for output in outputs).backward()


def _example(B):
    """A latent (1, C, h, w), a step and a prompt for B, all zeros: only shapes count."""
    side, width = B.G.config.sample_size, B.G.config.cross_attention_dim
    x = torch.zeros(1, B.G.config.in_channels, side, side, device=B.device)
    return x, torch.zeros(1, device=B.device), torch.zeros(1, B.tokenizer.model_max_length, width, device=B.device)


def _loss(B):
    """The loss of one tuning step inside B."""
    x, t, prompt = _example(B)
    return F.mse_loss(B.predict(x, t, prompt, x, prompt), x)


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


# ---- memory ----


def memory(B, rank=3):
    """GB at most while G or E is tuned at batch 1, by full weights and by adapters of a rank; the other is frozen.

    Counted are the weights, the gradients and moments of Adam, and the activations that one backward pass needs. Every
    term of the loss has a backward pass of its own, so prior preservation (eq. 2) adds no activations. Activations
    count as float32 in every column. bfloat16 stores about half of them, so its columns are upper bounds.
    """
    rows = {}
    for part, other in (("G", "E"), ("E", "G")):
        for name, lora in (("full weights", 0), (f"LoRA {rank}", rank)):
            rows[f"{part}, {name}"] = _memory(tuned(B, part, lora), part, other)
    return pd.DataFrame(rows).T / GB


def _memory(B, part, other):
    """Bytes of one tuning: in float32, with the frozen network in bfloat16, and with gradient checkpointing besides."""
    trained, frozen = (4 * _count(getattr(B, name)) for name in (part, other))
    adam = 4 * (ADAM - 1) * _count(getattr(B, part), True)
    checkpointed = B.with_(G=_checkpointed(B.G), E=_checkpointed(B.E))
    lowered = 1.5 * trained + frozen / 2 + adam  # autocast keeps a bfloat16 copy of the tuned network's weights
    kept = _kept(B)
    return {
        "float32": trained + frozen + adam + kept,
        "bfloat16": lowered + kept,
        "bfloat16, checkpointing": lowered + _kept(checkpointed),
    }


def _checkpointed(network):
    network = copy.deepcopy(network)
    network.enable_gradient_checkpointing()
    return network


def _kept(B):
    """Bytes that one tuning step keeps for its backward pass, without the weights."""
    own = {weight.untyped_storage()._cdata for network in (B.G, B.E) for weight in network.parameters()}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        held[storage._cdata] = storage  # a reference keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _loss(B)
    return sum(storage.nbytes() for address, storage in held.items() if address not in own)


# ---- the paper's procedure ----


def expected(tflop, peak):
    """The paper's stages: steps, TFLOP, seconds at `peak` TFLOP per second, and seconds of the paper's V100.

    Args: tflop, of `count_flops`; peak, of a GPU. The last row is what G needs to generate the class images of eq. 2.
    """
    total = {stage: steps * tflop[f"{stage} step"] for stage, steps in STEPS.items()}
    image = STEPS["restoration"] * tflop["class image step"] + tflop["decode"]
    total["class images"] = CLASS_IMAGES * image
    return pd.DataFrame(
        {
            "steps": STEPS | {"class images": CLASS_IMAGES * STEPS["restoration"]},
            "TFLOP": {stage: f"{n:,.0f}" for stage, n in total.items()},
            "at the peak (s)": {stage: f"{n / peak:.2f}" for stage, n in total.items()},
            "paper, V100 (s)": {stage: f"{PAPER[stage]:,.1f}" if stage in PAPER else "" for stage in total},
        }
    )
