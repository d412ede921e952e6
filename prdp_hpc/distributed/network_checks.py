"""The check that an argument is a network whose parameters exist."""

from __future__ import annotations

from typing import Any

from torch.nn.parameter import is_lazy

from prdp_hpc.errors import InputError, check_members


def check_network(network: Any) -> None:
    """Raise `InputError` for an object that is no `torch.nn.Module`, or one with lazy layers that
    have no parameters yet.
    """
    check_members("network", network, ("forward", "parameters"), "a torch.nn.Module")
    lazy = [name for name, value in network.named_parameters() if is_lazy(value)]
    lazy += [name for name, value in network.named_buffers() if is_lazy(value)]
    if lazy:
        raise InputError(
            f"network: {lazy[0]} of {type(network).__name__} has no size yet, since its layer is "
            "lazy: call the network once in its constructor, with zeros of the right shape, or "
            "give the layer its sizes"
        )
