"""What makes a step faster or smaller without changing what it computes, but for rounding: for the full size, on a GPU."""
import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from lib.errors import LeverError


@dataclass(frozen=True)
class Levers:
    """Switches of a tuning; all off is the plain loop. Attention is PyTorch's fused one (SDPA) in any case."""

    bf16: bool = False  # autocast of the tuned network to bfloat16, frozen networks kept in it
    checkpointing: bool = False  # activations computed again in the backward pass: slower, and much smaller
    channels_last: bool = False  # memory order that convolutions of GPUs like
    compile: bool = False  # torch.compile: a minute once, then faster steps
    adam8bit: bool = False  # moments of AdamW in 8 bits (bitsandbytes): 6 bytes less a trained weight

    def optimiser(self, weights, lr):
        """AdamW, fused, or in 8 bits. Raises LeverError where bitsandbytes or its GPU is not there."""
        if not self.adam8bit:
            return torch.optim.AdamW(weights, lr=lr, fused=True)
        if weights[0].device.type != "cuda":
            raise LeverError(f"No 8-bit Adam on {weights[0].device.type}. Remedy: adam8bit False, or a GPU.")
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise LeverError(f"No 8-bit Adam: {error}. Remedy: pip install bitsandbytes, or adam8bit False.") from error
        return AdamW8bit(weights, lr=lr)

    def autocast(self, device):
        """The context in which a loss is computed."""
        return torch.autocast(torch.device(device).type, torch.bfloat16) if self.bf16 else nullcontext()

    def tuned(self, network):
        """The network that is tuned, as the levers want it; in place."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.checkpointing:
            network.enable_gradient_checkpointing()
        if self.compile:
            network.compile()
        return network

    def released(self, network):
        """A tuned network as it was before `tuned`, for restoring and saving; in place."""
        if self.channels_last:
            network.to(memory_format=torch.contiguous_format)
        if self.checkpointing:
            network.disable_gradient_checkpointing()
        return network

    def frozen(self, network):
        """A network that the tuned one works with: itself, or a copy as the levers want it, so that the system keeps its own."""
        if self == Levers(adam8bit=self.adam8bit):
            return network
        return self.tuned(copy.deepcopy(network).to(torch.bfloat16 if self.bf16 else network.dtype))


@contextmanager
def resting(B, *names):
    """Keeps parts of the system on the CPU while the others work, and brings them back.

    B: the system; names: fields of it ("vae", "cleaner", "text_encoder", ...).
    """
    homes = {name: getattr(B, name).device for name in names}
    for name in names:
        getattr(B, name).to("cpu")
    try:
        yield
    finally:
        for name, device in homes.items():
            getattr(B, name).to(device)
