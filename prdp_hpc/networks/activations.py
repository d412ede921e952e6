"""Activations by name."""

from __future__ import annotations

from torch import nn

from prdp_hpc.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def activation_of(name: str) -> nn.Module:
    """The activation "relu", "tanh" or "gelu"; raises `InputError` for another name."""
    if name not in ACTIVATIONS:
        raise InputError(
            f"network.activation: {name!r} is not known; choose one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()
