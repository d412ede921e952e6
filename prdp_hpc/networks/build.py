"""Networks by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from prdp_hpc.networks.mlp import MLP

KINDS = ("mlp",)


def build_network(
    kind: str, shape: Sequence[int], channels: int, hidden: Sequence[int], activation: str = "relu", *, seed: int
) -> nn.Module:
    """A network from fields (B, channels, *shape) to fields of the same shape.

    `kind` is "mlp"; `shape` the whole grid's shape; `hidden` and `activation` as in `MLP`. The parameters depend on the
    arguments and `seed` alone: each rank that builds the network gets the same ones, on the CPU, and no generator's
    state changes. Raises `ValueError` for an unknown kind or a size below 1.
    """
    if kind not in KINDS:
        raise ValueError(f"network.kind: {kind!r} is not known; choose one of {', '.join(KINDS)}")
    if not shape or min(shape) < 1 or channels < 1:
        raise ValueError(f"a network needs a grid of at least 1 point an axis and 1 channel, not {tuple(shape)} and {channels}")
    features = channels * math.prod(shape)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not `torch.manual_seed`, which also seeds the GPUs' generators.
        torch.default_generator.manual_seed(seed)
        return MLP(features, features, hidden, activation)
