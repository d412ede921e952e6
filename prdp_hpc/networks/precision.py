"""The precision of a network's numbers, of which some may be complex, as in Fourier networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def in_precision(
    network: Network, dtype: torch.dtype, device: torch.device | None = None
) -> Network:
    """Convert parameters and buffers in place: real ones to `dtype`, complex ones to the complex
    type whose parts have it. `nn.Module.to` would discard imaginary parts.
    """
    complex_type = dtype.to_complex()

    def converted(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device=device, dtype=complex_type)
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    if any(tensor.is_complex() for tensor in (*network.parameters(), *network.buffers())):
        network._apply(converted)  # type: ignore[no-untyped-call]
        return network
    return network.to(device=device, dtype=dtype)


def precision_of(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type of the first floating-point or complex tensor, as a real type; float32 without
    one.
    """
    for tensor in tensors:
        if tensor.is_complex():
            return tensor.dtype.to_real()
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32
