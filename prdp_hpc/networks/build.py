"""Networks by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prdp_hpc.networks.mlp import MLP
from prdp_hpc.networks.resnet import ResNet

KINDS = ("mlp", "resnet")


def build_network(
    kind: str, shape: Sequence[int], boundary: str | Sequence[str], channels: int, arguments: Mapping[str, Any], *, seed: int
) -> nn.Module:
    """A network from fields (B, channels, *shape) to fields of the same shape.

    `kind` is "mlp" or "resnet"; `shape` and `boundary` are the whole grid's; `arguments` are the network's own: `hidden`
    and `activation` of `MLP`, `channels`, `blocks` and `activation` of `ResNet`. The parameters depend on the arguments
    and `seed` alone: each rank that builds the network gets the same ones, on the CPU, and no generator's state changes.
    Raises `ValueError` for an unknown kind or a size below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"network.kind: {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if not shape or min(shape) < 1 or channels < 1:
        raise ValueError(f"a network needs a grid of at least 1 point an axis and 1 channel, not {tuple(shape)} and {channels}")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not `torch.manual_seed`, which also seeds the GPUs' generators.
        torch.default_generator.manual_seed(seed)
        if kind == "resnet":
            return ResNet(len(shape), channels, channels, boundary=boundary, **arguments)
        features = channels * math.prod(shape)
        return MLP(features, features, **arguments)
