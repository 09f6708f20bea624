"""What makes a step faster or smaller without changing what it computes, but for rounding: for the full size, on a GPU."""
import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

import torch

from lib.errors import RangeError


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


def of(words):
    """The Levers that are named in `words`, such as "bf16 channels_last"; "" for none. Raises RangeError for a word that is none."""
    known = [one.name for one in fields(Levers)]
    if strangers := [word for word in words.split() if word not in known]:
        raise RangeError(f"LEVERS out of range: {strangers[0]!r}. Remedy: give some of {', '.join(known)}, with spaces between.")
    return Levers(**dict.fromkeys(words.split(), True))


def alone(B, others):
    """Keeps every G and E of the systems `others` that is not also B's on the CPU while B works, and brings it back; nothing on a CPU."""
    idle = [] if B.device.type == "cpu" else [one for other in others for one in (other.G, other.E) if one is not B.G and one is not B.E]
    return _away(idle)


def resting(B, *names):
    """Keeps parts of the system on the CPU while the others work, and brings them back.

    B: the system; names: fields of it ("vae", "cleaner", "text_encoder", ...).
    """
    return _away([getattr(B, name) for name in names])


@contextmanager
def _away(parts):
    homes = {id(one): (one, one.device) for one in parts}
    for one, _ in homes.values():
        one.to("cpu")
    try:
        yield
    finally:
        for one, device in homes.values():
            one.to(device)
