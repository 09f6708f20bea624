"""A one-step restorer on the system of tiny_system, untrained but with adapters and tokens that matter."""

import copy

import torch

from lib.models.loss_networks import LossNetworks, VisualTokenizer, tiny_vq
from lib.models.one_step import untrained


def build(B, stir=True, **options):
    """The restorer, frozen. `stir` does what training would have done: adapters and tokens are not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        networks, tokenizer = LossNetworks(), VisualTokenizer(tiny_vq())
        one = untrained(B, tokenizer, torch.randn(256, 32), networks, **options)
        if stir:
            stir_(one)
    for module in (one.G, one.embedder, one.tokenizer, one.networks):
        module.requires_grad_(False).eval()
    return one


@torch.no_grad()
def stir_(one):
    """Fill what training begins with at zero."""
    for name, weight in one.G.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.02)
    embedder = one.embedder
    for last in (*embedder.FFE.out, embedder.FIE.last, embedder.VRE.last):
        last.weight.normal_(0, 0.5)


def added(G, state):
    """A copy of G with W + B A in place of W, for every pair of tensors `<layer>.lora_A.weight`, `.lora_B.weight`."""
    G = copy.deepcopy(G)
    for key, down in state.items():
        if "lora_A" in key:
            up, layer = state[key.replace("lora_A", "lora_B")], G.get_submodule(key.split(".lora_A")[0])
            product = torch.tensordot(up.flatten(1), down.flatten(1), 1)  # (out, in), or (out, in * 3 * 3)
            layer.weight.data += product.view(layer.weight.shape)
    return G
