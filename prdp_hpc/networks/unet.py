"""U-Net, on whole fields or on each rank's part of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks.activations import Activation, activation_of
from prdp_hpc.networks.convolutions import (
    CONVOLUTIONS,
    Convolution,
    TransposedConvolution,
    fastest_format,
    in_fastest_format,
)
from prdp_hpc.networks.normalisation import GroupNorm
from prdp_hpc.number_checks import check_count

GROUPS = 8
"""Number of groups of channels for normalisation; fewer if the width is not a multiple of 8."""


class UNet(nn.Module):
    """A U-Net, on whole fields or on each rank's part of them.

    It maps a field `(B, in_channels, *local_shape)` to `(B, out_channels, *local_shape)`; the map
    of the whole field is the same for every partition. Each level applies `conv → GroupNorm → σ`
    twice. On the way down a convolution of stride 2 halves the points and doubles the channels; on
    the way up a transposed convolution does the reverse, and the result is concatenated with the
    output of the same level on the way down. The last layer is a pointwise projection. Convolutions
    are 3 points wide, with the grid's boundary. Collective over the ranks of the partition; each
    rank's gradients of the parameters are its part of the sum.

    Parameters
    ----------
    partition : Partition
        The division of the grid: `grid.partition`, or `Partition.whole(shape, boundary)`.
    in_channels : int
        Channels of the input.
    out_channels : int
        Channels of the output.
    channels : int, default 32
        Channels of the finest level.
    depth : int, default 3
        Number of coarser levels. A periodic axis needs a multiple of `2^depth` points.
    activation : {"relu", "tanh", "gelu"}, default "relu"
        The activation σ.

    Raises
    ------
    InputError
        For a number out of range, an unknown name, or a grid or parts that are too small; in a
        call, for a field of another shape.

    Notes
    -----
    Source: Ronneberger et al., U-Net, 2015; with group normalisation, which is usual for PDEs
    (Gupta and Brandstetter, 2022).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, UNet
    >>> grid = Grid((16, 16), boundary="periodic")
    >>> network = UNet(grid.partition, in_channels=1, out_channels=1, channels=8, depth=2)
    >>> network(torch.ones(2, 1, 16, 16)).shape
    torch.Size([2, 1, 16, 16])
    """

    works_on_parts = True

    @classmethod
    def build(cls, partition: Partition, in_channels: int, out_channels: int, **keys: Any) -> UNet:
        """Make the network of a config."""
        return cls(partition, in_channels, out_channels, **keys)

    def __init__(
        self,
        partition: Partition,
        in_channels: int,
        out_channels: int,
        channels: int = 32,
        depth: int = 3,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
        check_count("network.channels", channels)
        check_count("network.depth", depth)
        self._in_channels, self._local_shape = in_channels, partition.local_shape
        levels = _levels(partition, depth)
        widths = [channels * 2**level for level in range(depth + 1)]
        self.lift = _Level(levels[0], in_channels, widths[0], activation)
        self.down = nn.ModuleList(
            nn.Sequential(
                Convolution(fine, w, 2 * w, stride=2), _Level(coarse, 2 * w, 2 * w, activation)
            )
            for fine, coarse, w in zip(levels[:-1], levels[1:], widths[:-1], strict=True)
        )
        self.up = nn.ModuleList(
            TransposedConvolution(fine, 2 * w, w)
            for fine, w in zip(levels[:-1], widths[:-1], strict=True)
        )
        self.merge = nn.ModuleList(
            _Level(fine, 2 * w, w, activation)
            for fine, w in zip(levels[:-1], widths[:-1], strict=True)
        )
        self.project = CONVOLUTIONS[partition.dim](channels, out_channels, 1)
        fastest_format(self, partition.dim)

    def forward(self, field: Tensor) -> Tensor:
        """Apply the network to this rank's part, `(B, in_channels, *local_shape)`."""
        if tuple(field.shape[1:]) != (self._in_channels, *self._local_shape):
            raise InputError(
                f"the field has shape {tuple(field.shape)}, but the U-Net needs (B, "
                f"{self._in_channels}, "
                f"{', '.join(map(str, self._local_shape))}); build it for this grid"
            )
        states = [self.lift(in_fastest_format(field))]
        for down in self.down:
            states.append(down(states[-1]))
        state = states.pop()
        for up, merge in zip(reversed(self.up), reversed(self.merge), strict=True):
            state = merge(torch.cat([states.pop(), up(state)], dim=1))
        output: Tensor = self.project(state)
        return output.contiguous()


class _Level(nn.Sequential):
    """Convolution, normalisation and activation, twice."""

    def __init__(
        self, partition: Partition, in_channels: int, channels: int, activation: Activation
    ) -> None:
        groups = math.gcd(GROUPS, channels)
        layers: list[nn.Module] = []
        for width in (in_channels, channels):
            layers += [
                Convolution(partition, width, channels),
                GroupNorm(partition, groups, channels),
                activation_of(activation),
            ]
        super().__init__(*layers)


def _levels(partition: Partition, depth: int) -> list[Partition]:
    """The partitions of all levels, finest first."""
    levels = [partition]
    for level in range(1, depth + 1):
        try:
            levels.append(levels[-1].coarsen(2))
        except ValueError as error:
            raise InputError(
                f"network.depth={depth} does not fit: level {level}: {error}, or a smaller depth"
            ) from None
    return levels
