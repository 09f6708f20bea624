"""What makes a step faster or smaller without changing what it computes, but for rounding: for the full size, on a GPU."""

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

import torch

from lib.errors import RangeError


@dataclass(frozen=True)
class Precision:
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
        if self == Precision():
            return network
        return self.tuned(copy.deepcopy(network).to(torch.bfloat16 if self.bf16 else network.dtype))

    def sampling(self, B):
        """The system to sample from: with bf16, copies of G and E in it, or autocast would cast their frozen weights at every step."""
        if not self.bf16:
            return B
        half = {
            name: copy.deepcopy(network).to(torch.bfloat16)
            for name in ("G", "E")
            if isinstance(network := getattr(B, name), torch.nn.Module)
        }
        return B.with_(**half)


def parse(words):
    """The Levers that are named in `words`, such as "bf16 channels_last"; "" for none. Raises RangeError for a word that is none."""
    known = [one.name for one in fields(Precision)]
    if strangers := [word for word in words.split() if word not in known]:
        raise RangeError(
            f"LEVERS out of range: {strangers[0]!r}. Remedy: give some of {', '.join(known)}, with spaces between."
        )
    return Precision(**dict.fromkeys(words.split(), True))


def move_to_device(B, others=()):
    """Brings G and E of B to its device, and every network of the systems `others` that is not also B's to the CPU; nothing on a CPU.

    They stay there: whoever works with one of them next calls this first.
    """
    if B.device.type == "cpu":
        return
    for one in [
        network for other in others for network in (other.G, other.E) if network is not B.G and network is not B.E
    ]:
        one.to("cpu")
    for one in (B.G, B.E):
        one.to(B.device)


@contextmanager
def offloaded(B, *names):
    """Keeps parts of the system on the CPU while the others work, and brings them back.

    B: the system; names: fields of it ("vae", "cleaner", "text_encoder", ...).
    """
    homes = [(part := getattr(B, name), part.device) for name in names]
    for one, _ in homes:
        one.to("cpu")
    try:
        yield
    finally:
        for one, device in homes:
            one.to(device)
