"""Activations by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

from prdp_hpc.errors import InputError

Activation = Literal["relu", "tanh", "gelu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


def activation_of(name: Activation) -> nn.Module:
    """The activation "relu", "tanh" or "gelu"; raises `InputError` for another name."""
    if name not in ACTIVATIONS:
        raise InputError(
            f"network.activation: {name!r} is not known; choose one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()
