"""Convolutional residual network, on whole fields or on each rank's part of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks.activations import Activation, activation_of
from prdp_hpc.networks.convolutions import (
    CONVOLUTIONS,
    Convolution,
    fastest_format,
    in_fastest_format,
)
from prdp_hpc.number_checks import check_count


class ResNet(nn.Module):
    """A convolutional residual network, on whole fields or on each rank's part of them.

    It maps a field `(B, in_channels, *local_shape)` to `(B, out_channels, *local_shape)`; the map
    of the whole field is the same for every partition. A lifting convolution is followed by blocks
    `x → σ(x + conv(σ(conv(x))))` and a pointwise projection. All convolutions except the projection
    are 3 points wide, with the grid's boundary (see `Convolution`). Weights and biases are
    initialised uniformly in ±1/√fan_in, torch's default. Collective over the ranks of the
    partition; each rank's gradients of the parameters are its part of the sum.

    Parameters
    ----------
    partition : Partition
        The division of the grid: `grid.partition`, or `Partition.whole(shape, boundary)`.
    in_channels : int
        Channels of the input.
    out_channels : int
        Channels of the output.
    channels : int, default 64
        Channels between lifting and projection.
    blocks : int, default 3
        Residual blocks, of two convolutions each.
    activation : {"relu", "tanh", "gelu"}, default "relu"
        The activation σ.

    Raises
    ------
    InputError
        For a number out of range or an unknown name; in a call, for a field of another shape.

    Notes
    -----
    Source: the post-activation ResNet of the Navier–Stokes corrector in PRDP (Bhatia, Koehler and
    Thuerey, ICLR 2025): 64 channels, 3 blocks.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, ResNet
    >>> grid = Grid((8, 8), boundary="periodic")
    >>> network = ResNet(grid.partition, in_channels=3, out_channels=3, channels=8, blocks=1)
    >>> network(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    works_on_parts = True

    @classmethod
    def build(
        cls, partition: Partition, in_channels: int, out_channels: int, **keys: Any
    ) -> ResNet:
        """Make the network of a config."""
        return cls(partition, in_channels, out_channels, **keys)

    def __init__(
        self,
        partition: Partition,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        blocks: int = 3,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_count("network.channels", channels)
        check_count("network.blocks", blocks)
        self._in_channels, self._local_shape = in_channels, partition.local_shape
        self.lift = Convolution(partition, in_channels, channels)
        self.blocks = nn.Sequential(
            *(_Block(partition, channels, activation) for _ in range(blocks))
        )
        self.project = CONVOLUTIONS[partition.dim](channels, out_channels, 1)
        fastest_format(self, partition.dim)

    def forward(self, field: Tensor) -> Tensor:
        """Apply the network to this rank's part, `(B, in_channels, *local_shape)`."""
        if tuple(field.shape[1:]) != (self._in_channels, *self._local_shape):
            raise InputError(
                f"the field has shape {tuple(field.shape)}, but the ResNet needs (B, "
                f"{self._in_channels}, "
                f"{', '.join(map(str, self._local_shape))}); build it for this grid"
            )
        output: Tensor = self.project(self.blocks(self.lift(in_fastest_format(field))))
        return output.contiguous()


class _Block(nn.Module):
    def __init__(self, partition: Partition, channels: int, activation: Activation) -> None:
        super().__init__()
        self.first = Convolution(partition, channels, channels)
        self.second = Convolution(partition, channels, channels)
        self.activation = activation_of(activation)

    def forward(self, field: Tensor) -> Tensor:
        change = self.second(self.activation(self.first(field)))
        output: Tensor = self.activation(field + change)
        return output
