"""Networks by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks.mlp import MLP
from prdp_hpc.networks.resnet import ResNet
from prdp_hpc.networks.unet import UNet

CONVOLUTIONAL: dict[str, type[ResNet] | type[UNet]] = {"resnet": ResNet, "unet": UNet}
KINDS = ("mlp", *CONVOLUTIONAL)


def build_network(
    kind: str, partition: Partition, channels: int, arguments: Mapping[str, Any], *, seed: int
) -> nn.Module:
    """A network from fields of `channels` channels to fields of the same shape.

    `kind` is "mlp", "resnet" or "unet"; an MLP works on whole fields (B, channels, *shape), the
    others on each rank's part (B, channels, *local_shape), see `works_on_parts`. `arguments` are
    the network's own: `hidden` and `activation` of `MLP`; `channels`, `activation` and `blocks` of
    `ResNet` or `depth` of `UNet`. The parameters depend on the arguments and `seed` alone: each
    rank that builds the network gets the same ones, on the CPU, and no generator's state changes.
    Raises `ValueError` for an unknown kind or a size below 1.
    """
    if kind not in KINDS:
        raise InputError(f"network.kind: {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if not 1 <= partition.dim <= 3:
        raise InputError(f"a network needs a grid of 1 to 3 axes, not {partition.dim}")
    if min(partition.shape) < 1 or channels < 1:
        raise InputError(
            "a network needs a grid of at least 1 point an axis and 1 channel, not "
            f"{partition.shape} and {channels}"
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not `torch.manual_seed`, which also seeds the GPUs' generators.
        torch.default_generator.manual_seed(seed)
        if kind in CONVOLUTIONAL:
            return CONVOLUTIONAL[kind](partition, channels, channels, **arguments)
        features = channels * math.prod(partition.shape)
        return MLP(features, features, **arguments)


def works_on_parts(kind: str) -> bool:
    """Whether a network of this kind maps each rank's part of a field, and each rank has a part of
    its gradient.
    """
    return kind in CONVOLUTIONAL
