"""Convolutional residual network on whole fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prdp_hpc.grid import BOUNDARIES
from prdp_hpc.networks.activations import activation_of
from prdp_hpc.networks.padding import CHANNELS_LAST, pad_boundary

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ResNet(nn.Module):
    """Lifting convolution, residual blocks, and a projection of each point.

    Maps a field `(B, in_channels, *shape)` to `(B, out_channels, *shape)`. A block is
    `x → σ(x + conv(σ(conv(x))))`, all convolutions but the projection are 3 points wide and look across the boundary as
    `boundary` says (see `pad_boundary`). Weights and biases start uniform in ±1/√fan_in, torch's own default.

    Parameters
    ----------
    dim : axes of the field, 1 to 3.
    channels : width between lifting and projection; default 64.
    blocks : residual blocks, of two convolutions each; default 3.
    activation : "relu" (default), "tanh" or "gelu".
    boundary : "periodic" (default), "dirichlet" or "neumann"; one, or one per axis.

    Raises
    ------
    ValueError
        For a number out of range or an unknown name; in a call, for a field that does not fit.

    Source: the classic (post-activation) ResNet, as in the paper's Navier–Stokes corrector: 64 channels, 3 blocks.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        blocks: int = 3,
        activation: str = "relu",
        boundary: str | Sequence[str] = "periodic",
    ) -> None:
        super().__init__()
        if dim not in CONVOLUTIONS:
            raise ValueError(f"a ResNet needs a field of 1 to 3 axes, not {dim}")
        if min(in_channels, out_channels, channels, blocks) < 1:
            raise ValueError(
                f"a ResNet needs at least 1 channel and 1 block, not {in_channels} in, {out_channels} out, "
                f"network.channels={channels}, network.blocks={blocks}"
            )
        per_axis = (boundary,) * dim if isinstance(boundary, str) else tuple(boundary)
        if len(per_axis) != dim or not set(per_axis) <= set(BOUNDARIES):
            raise ValueError(f"boundary must be one of {BOUNDARIES}, or one of them for each of {dim} axes, not {boundary!r}")
        self.in_channels, self.dim = in_channels, dim
        self.lift = _Convolution(in_channels, channels, per_axis)
        self.blocks = nn.Sequential(*(_Block(channels, per_axis, activation) for _ in range(blocks)))
        self.project = CONVOLUTIONS[dim](channels, out_channels, 1)
        if dim + 2 in CHANNELS_LAST:
            self.to(memory_format=CHANNELS_LAST[dim + 2])  # type: ignore[call-overload]

    def forward(self, field: Tensor) -> Tensor:
        if field.dim() != self.dim + 2 or field.shape[1] != self.in_channels:
            raise ValueError(
                f"the field has shape {tuple(field.shape)}, but the ResNet needs (B, {self.in_channels}, *shape) "
                f"with {self.dim} axes; build it for this grid"
            )
        output: Tensor = self.project(self.blocks(self.lift(field)))
        return output.contiguous()


class _Convolution(nn.Module):
    """3 points wide along each axis, with the grid's boundary."""

    def __init__(self, in_channels: int, out_channels: int, boundary: tuple[str, ...]) -> None:
        super().__init__()
        # Zeros around the field are the convolution's own padding.
        self._boundary = None if set(boundary) == {"dirichlet"} else boundary
        self.convolution = CONVOLUTIONS[len(boundary)](in_channels, out_channels, 3, padding=0 if self._boundary else 1)

    def forward(self, field: Tensor) -> Tensor:
        if self._boundary is None:
            kind = CHANNELS_LAST.get(field.dim(), torch.contiguous_format)
            output: Tensor = self.convolution(field.contiguous(memory_format=kind))
        else:
            output = self.convolution(pad_boundary(field, self._boundary))
        return output


class _Block(nn.Module):
    def __init__(self, channels: int, boundary: tuple[str, ...], activation: str) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels, boundary)
        self.second = _Convolution(channels, channels, boundary)
        self.activation = activation_of(activation)

    def forward(self, field: Tensor) -> Tensor:
        change = self.second(self.activation(self.first(field)))
        output: Tensor = self.activation(field + change)
        return output
