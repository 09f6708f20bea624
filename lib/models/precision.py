"""Precision and memory options: none of them changes a result beyond rounding. They matter at full size, on a GPU."""

import copy
import weakref
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields

import torch
from torch.nn.utils import get_total_norm

from lib import checks
from lib.errors import RangeError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_copies = weakref.WeakKeyDictionary()  # network -> (dtype, versions of its weights, its copy in that dtype)


@dataclass(frozen=True)
class Precision:
    """How a network computes; the defaults change nothing. Attention is PyTorch's fused one (SDPA) in any case.

    Args: dtype, "float32" or "bfloat16": the tuned network runs under autocast and keeps float32 weights, frozen
    networks are stored in bfloat16; gradient_checkpointing, recompute activations in the backward pass, which is slower
    and needs far less memory; channels_last, the memory format of GPU convolutions; compile, torch.compile.
    Raises RangeError for another dtype.
    """

    dtype: str = "float32"
    gradient_checkpointing: bool = False
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self):
        checks.choice("PRECISION", self.dtype, DTYPES)

    def autocast(self, device):
        """The context in which predictions are computed."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(torch.device(device).type, DTYPES[self.dtype])

    def apply(self, network):
        """Set the memory options on a network that will be trained or compiled; in place."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if self.compile:
            network.compile()
        return network

    def undo(self, network):
        """Undo `apply` but for compilation, before the network is saved or used to restore; in place."""
        if self.channels_last:
            network.to(memory_format=torch.contiguous_format)
        if self.gradient_checkpointing:
            network.disable_gradient_checkpointing()
        return network

    def frozen(self, network):
        """A frozen network for use beside a tuned one: itself, or a copy with these options.

        The copy shares its weights with the original where the options leave them as they are.
        """
        if self == Precision():
            return network
        shares = self.dtype == "float32" and not self.channels_last
        memo = {id(weight): weight for weight in (*network.parameters(), *network.buffers())} if shares else {}
        return self.apply(copy.deepcopy(network, memo).to(DTYPES[self.dtype]))

    def sampling(self, B):
        """The system to sample from: G and E in bfloat16, or autocast would cast their weights at every step."""
        if self.dtype == "float32":
            return B
        return B.with_(G=lowered(B.G, self.dtype), E=lowered(B.E, self.dtype))


def lowered(network, dtype):
    """A frozen network in another dtype: itself if it has that dtype, else a copy, kept until its weights change."""
    weights = list(network.parameters())
    if weights[0].dtype == DTYPES[dtype]:
        return network
    versions = [(weight.data_ptr(), weight._version) for weight in weights]
    versions.append(float(get_total_norm(weights)))  # assignments through .data leave the versions as they are
    if _copies.get(network, (None, None))[:2] != (dtype, versions):
        _copies[network] = (dtype, versions, copy.deepcopy(network).to(DTYPES[dtype]))
    return _copies[network][2]


def parse(words):
    """The Precision named by words, such as "bfloat16 channels_last"; "" gives the defaults. Raises RangeError."""
    options = [field.name for field in fields(Precision) if field.name != "dtype"]
    words = words.split()
    if unknown := [word for word in words if word not in (*DTYPES, *options)]:
        raise RangeError(f"Precision: unknown {unknown[0]!r}. Remedy: give some of {', '.join((*DTYPES, *options))}.")
    dtype = next((word for word in words if word in DTYPES), "float32")
    return Precision(dtype, **dict.fromkeys([word for word in words if word in options], True))


def move_to_device(B, others=()):
    """Move B's G and E to B's device, and the networks of `others` that B does not share to the CPU.

    Nothing happens when B is on a CPU. Call it before each use of another system: one GPU need not hold every arm.
    """
    if B.device.type == "cpu":
        return
    for network in [network for other in others for network in (other.G, other.E)]:
        if network is not B.G and network is not B.E:
            _to_cpu(network)
    for network in (B.G, B.E):
        network.to(B.device)


@contextmanager
def offloaded(B, *names):
    """Keep parts of the system on the CPU inside the block, and move them back afterwards.

    Args: B, the system; names, fields of it ("vae", "cleaner", "text_encoder", "G", "E").
    """
    parts = [(getattr(B, name), getattr(B, name).device) for name in names]
    for part, _ in parts:
        _to_cpu(part)
    try:
        yield
    finally:
        for part, device in parts:
            part.to(device)


def _to_cpu(network):
    """Move a network to the CPU, and forget its copy in another dtype, which would stay on the GPU."""
    _copies.pop(network, None)
    network.to("cpu")
