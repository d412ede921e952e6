"""The interface of a network, `Network`, and how networks are made from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prdp_hpc.distributed.network_checks import check_network
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition


@runtime_checkable
class Network(Protocol):
    """Any `torch.nn.Module` from fields `(B, in_channels, *shape)` to `(B, out_channels, *shape)`.

    By default it receives whole fields: each grid rank of a replica gathers them, computes the same
    result, and keeps its part of it. With a class attribute `works_on_parts = True` it receives
    this rank's part `(B, in_channels, *local_shape)` and must exchange the points of neighbours
    itself (as the convolutions of `prdp_hpc.networks` do); then its parameters are equal on all
    ranks, and each rank's gradients are its part of the sum.

    In a config it is made by `Name.build(partition, in_channels, out_channels, **keys)` if it has
    this class method, else by `Name(in_channels, out_channels, **keys)`. The keys are those of the
    section `network`, validated by its pydantic model `Config` if there is one.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from prdp_hpc import Network
    >>> class Linear(nn.Conv2d):
    ...     def __init__(self, in_channels, out_channels, width=3):
    ...         super().__init__(in_channels, out_channels, width, padding="same")
    >>> network = Linear(1, 2)
    >>> isinstance(network, Network), network(torch.ones(5, 1, 8, 8)).shape
    (True, torch.Size([5, 2, 8, 8]))
    """

    def __call__(self, fields: Tensor, /) -> Tensor:
        """Apply the network to a batch of fields."""
        ...


def build_network(
    kind: Any,
    partition: Partition,
    in_channels: int,
    out_channels: int,
    keys: Mapping[str, Any],
    *,
    seed: int,
) -> nn.Module:
    """Make a network of class `kind`, see `Network`.

    The parameters depend only on the arguments and `seed`: they are equal on all ranks that build
    the network, on the CPU, and no generator's state changes. Raises `InputError` for a size below
    1, or if the result is not a `torch.nn.Module`.
    """
    if not 1 <= partition.dim <= 3:
        raise InputError(f"a network needs a grid of 1 to 3 axes, not {partition.dim}")
    if min(*partition.shape, in_channels, out_channels) < 1:
        raise InputError(
            "a network needs a grid of at least 1 point per axis and 1 channel, not "
            f"{partition.shape} and {in_channels} to {out_channels}"
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # `torch.manual_seed` would also seed the generators of GPUs.
        torch.default_generator.manual_seed(seed)
        if hasattr(kind, "build"):
            network = kind.build(partition, in_channels, out_channels, **keys)
        else:
            network = kind(in_channels, out_channels, **keys)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network.kind: {kind!r} returned a {type(network).__name__}, not a torch.nn.Module"
        )
    check_network(network)
    return network
