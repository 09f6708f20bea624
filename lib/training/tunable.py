"""A trainable copy of G or E: full weights, adapters, or the tensors that the published code trains."""

import copy

import torch
from peft import PeftModel, get_peft_model

from lib.errors import PersonalWeightsError, RangeError, TrainingError
from lib.models.personal_weights import adapter_config

PUBLISHED_SHARE = 150 / 324  # the published code hands the first 150 of E's 324 tensors to its optimiser


def tunable(network, training):
    """A trainable copy of G or E, with the memory options applied.

    With lora 0 all weights are trained; adapters that the network has are merged first. With lora > 0 adapters of that
    rank are trained; those that the network has are trained further.
    Args: network; training, a Training. Returns the copy.
    Raises PersonalWeightsError for a network with adapters of another rank.
    """
    network, rank = copy.deepcopy(network), training.lora
    if isinstance(network, PeftModel) and rank:
        return training.precision.apply(_further(network, rank))
    if isinstance(network, PeftModel):
        network = network.merge_and_unload()
    network.requires_grad_(True)
    return training.precision.apply(_with_adapters(network, training) if rank else network)


def _with_adapters(network, training):
    with torch.random.fork_rng():  # peft draws adapters from the global generator
        torch.manual_seed(training.seed)
        return get_peft_model(network, adapter_config(training.lora))


def _further(network, rank):
    """A network whose own adapters require gradients."""
    found = network.peft_config[network.active_adapter].r
    if found != rank:
        raise PersonalWeightsError(
            f"adapters of rank {found} under adapters of rank {rank}: they could not be saved. "
            f"Remedy: tune with lora {found}, which trains them further, or with lora 0, which merges them."
        )
    for name, weight in network.named_parameters():
        weight.requires_grad_("lora_" in name)
    return network


def settle(network, training):
    """A tuned network as it will be kept: memory options undone, adapters rounded to half precision; in place.

    Raises TrainingError where an adapter is too large for half precision.
    """
    training.precision.undo(network)
    for name, weight in network.named_parameters():
        if "lora_" in name:
            weight.data = weight.half().to(weight.dtype)
            if not weight.isfinite().all():
                raise TrainingError(
                    f"adapters diverged: {name} is beyond half precision. Remedy: a lower learning rate."
                )
    return network


def check_trained(trained, lora):
    """Raises RangeError unless `trained` names a part of E that can be tuned, with adapters of rank `lora`."""
    if trained not in ("all", "repo150") or (lora and trained != "all"):
        raise RangeError(
            f"TRAINED out of range: {trained!r} with lora {lora}. Remedy: give 'all' or, without lora, 'repo150'."
        )


def restrict_to_published(E):
    """Leave gradients to the tensors of E that the published code trains; in place."""
    names = published_tensors(E)
    for name, weight in E.named_parameters():
        weight.requires_grad_(name in names)


def published_tensors(E):
    """Names of the tensors of E that the published code trains: the first 150 of 324 in its order, or that share.

    At full size the last one lies inside the fourth transformer. They are the time embedding, the first convolutions,
    the first level, and the second level up to its last attention's second norm.
    Source: the published Dual-Pivot code.
    """
    names = sorted((name for name, _ in E.named_parameters()), key=_published_order)
    return set(names[: round(PUBLISHED_SHARE * (len(names) - 1)) + 1])  # one more: our first convolution is two


def _published_order(name):
    part = name.split(".")
    if part[0] != "down_blocks":
        order = ["time_embedding", "conv_in", "controlnet_cond_embedding", None, "controlnet_down_blocks", "mid_block"]
        return (order.index(part[0]) if part[0] in order else len(order),)
    inside = ["norm", "proj_in", "attn1", "ff", "attn2", "norm1", "norm2", "norm3", "proj_out"]
    piece = part[6] if part[4] == "transformer_blocks" else part[4]
    kind = ["resnets", "attentions"].index(part[2]) if part[2] != "downsamplers" else 0
    layer = int(part[3]) if part[2] != "downsamplers" else 99
    return 3, int(part[1]), layer, kind, inside.index(piece) if kind else 0
