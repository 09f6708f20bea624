"""What makes a step faster or smaller without changing what it computes, but for rounding: for the full size, on a GPU."""
import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Levers:
    """Switches of a tuning; all off is the plain loop. Attention is PyTorch's fused one (SDPA) in any case."""

    bf16: bool = False  # autocast of the tuned network to bfloat16, frozen networks kept in it
    checkpointing: bool = False  # activations computed again in the backward pass: slower, and much smaller
    channels_last: bool = False  # memory order that convolutions of GPUs like
    compile: bool = False  # torch.compile: a minute once, then faster steps

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
        if self == Levers():
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
