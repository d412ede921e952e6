"""Convolutions and pooling of fields that are divided among ranks, equal to those of the whole
field.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prdp_hpc.errors import InputError
from prdp_hpc.grid.halo import CHANNELS_LAST, Halo
from prdp_hpc.grid.partition import Partition
from prdp_hpc.number_checks import check_count

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGES: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAXIMA: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Convolution(nn.Module):
    """A convolution `y_j = b + Σ_k W_k x_{s j + k − p}` of fields that are divided among ranks.

    It acts on all axes, with kernel size K, stride s and `p = (K − 1) // 2`, and maps `(B,
    in_channels, *partition.local_shape)` to `(B, out_channels, *output.local_shape)`. Beyond the
    grid's boundary x is periodic, 0 (Dirichlet), or equal to the outermost point (Neumann).
    Collective over the ranks of the partition; weights and biases are initialised uniformly in
    ±1/√fan_in.

    Parameters
    ----------
    partition : Partition
        The division of the input.
    in_channels : int
        Channels of the input.
    out_channels : int
        Channels of the output.
    kernel : int, default 3
        Points along each axis, K.
    stride : int, default 1
        The stride s.

    Attributes
    ----------
    output : Partition
        The division of the output: that of the input if the stride is 1, else every stride-th
        point.

    Raises
    ------
    InputError
        For a part of the grid that is narrower than the kernel needs, or cannot be coarsened.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Convolution, Grid
    >>> layer = Convolution(Grid((8, 8), boundary="periodic").partition, 1, 4, stride=2)
    >>> layer(torch.ones(2, 1, 8, 8)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(
        self,
        partition: Partition,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        for name, number in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("kernel", kernel),
            ("stride", stride),
        ):
            check_count(name, number)
        self.output = partition if stride == 1 else partition.coarsen(stride)
        before = (kernel - 1) // 2
        # Zeros around the whole field are the padding of torch's convolution.
        alone = (
            partition.comm.size == 1
            and set(partition.boundary) == {"dirichlet"}
            and kernel % 2 == 1
        )
        self._halo = (
            None
            if alone or kernel == 1
            else Halo(partition, before, kernel - 1 - before, nearest=True)
        )
        self._window = _Window(partition, self.output, stride, kernel)
        self.convolution = CONVOLUTIONS[partition.dim](
            in_channels, out_channels, kernel, stride, padding=before if self._halo is None else 0
        )

    def forward(self, field: Tensor) -> Tensor:
        """Apply the convolution to this rank's part."""
        output: Tensor = self.convolution(
            field if self._halo is None else self._window(self._halo(field))
        )
        return output


class Pooling(nn.Module):
    """The average or the maximum of 2 neighbouring points along each axis, `x_{2 j}` and `x_{2 j +
    1}`.

    It maps `(B, C, *partition.local_shape)` to every second point, `output`. If the number of
    points of an axis is odd, the last point's neighbour is the value beyond the boundary, as in
    `Convolution`. `kind` is "average" (default) or "max".
    """

    def __init__(self, partition: Partition, kind: str = "average") -> None:
        super().__init__()
        if kind not in ("average", "max"):
            raise InputError(f"pooling must be 'average' or 'max', not {kind!r}")
        self.output = partition.coarsen(2)
        self._halo = Halo(partition, 0, 1, nearest=True)
        self._window = _Window(partition, self.output, 2, 2)
        self._pool = (AVERAGES if kind == "average" else MAXIMA)[partition.dim](2)

    def forward(self, field: Tensor) -> Tensor:
        """Apply the pooling to this rank's part."""
        output: Tensor = self._pool(self._window(self._halo(field)))
        return output


class TransposedConvolution(nn.Module):
    """`y_i = b + Σ_{2 j + k − p = i} W_k x_j` on all axes, with kernel size K and `p = (K − 1) //
    2`: twice as many points.

    It maps `(B, in_channels, *coarse.local_shape)`, where `coarse = fine.coarsen(2)`, to `(B,
    out_channels, *fine.local_shape)`. The values of x beyond a boundary, and the initial weights,
    are as in `Convolution`. `kernel` is 2 by default: each point becomes 2 along each axis.
    """

    def __init__(
        self, fine: Partition, in_channels: int, out_channels: int, kernel: int = 2
    ) -> None:
        super().__init__()
        coarse = fine.coarsen(2)
        padding = (kernel - 1) // 2
        lower, upper = _reach(fine, kernel, padding)
        self._halo = Halo(coarse, lower, upper, nearest=True)
        # Output o of the local layer is point 2 (first coarse point) + o − p of the whole field.
        firsts = [
            own.start - before for own, before in zip(coarse.local_slices, lower, strict=True)
        ]
        self._crop = [
            (part.start + padding - 2 * first, part.stop - part.start)
            for part, first in zip(fine.local_slices, firsts, strict=True)
        ]
        self.convolution = TRANSPOSED[fine.dim](in_channels, out_channels, kernel, 2)

    def forward(self, field: Tensor) -> Tensor:
        """Apply the transposed convolution to this rank's part."""
        output: Tensor = self.convolution(self._halo(field))
        for axis, (start, length) in enumerate(self._crop):
            output = output.narrow(2 + axis, start, length)
        return output


class _Window:
    """Selects the points of a padded part that this rank's outputs need, because a part may start
    between two outputs.
    """

    def __init__(self, partition: Partition, output: Partition, stride: int, kernel: int) -> None:
        self._ranges = []
        for part, out in zip(partition.local_slices, output.local_slices, strict=True):
            self._ranges.append(
                (stride * out.start - part.start, stride * (out.stop - out.start - 1) + kernel)
            )
        self._all = stride == 1

    def __call__(self, padded: Tensor) -> Tensor:
        if not self._all:
            for axis, (start, length) in enumerate(self._ranges):
                padded = padded.narrow(2 + axis, start, length)
        return padded


def _reach(fine: Partition, kernel: int, padding: int) -> tuple[list[int], list[int]]:
    """Number of coarse points of neighbours that any rank's fine points depend on, per axis, before
    and after its part.
    """
    lower, upper = [], []
    for bounds in fine.ownership_ranges:
        parts = list(pairwise(bounds))
        first = [-(-start // 2) - -(-(start + padding - kernel + 1) // 2) for start, _ in parts]
        last = [(stop - 1 + padding) // 2 - (-(-stop // 2) - 1) for _, stop in parts]
        lower.append(max(0, *first))
        upper.append(max(0, *last))
    return lower, upper


def fastest_format(module: nn.Module, dim: int) -> None:
    """Convert a network's convolutions to the fastest memory format for fields of `dim` axes."""
    if dim + 2 in CHANNELS_LAST:
        module.to(memory_format=CHANNELS_LAST[dim + 2])  # type: ignore[call-overload]


def in_fastest_format(field: Tensor) -> Tensor:
    """A field `(B, C, *local_shape)` in the fastest memory format of convolutions."""
    return field.contiguous(memory_format=CHANNELS_LAST.get(field.dim(), torch.contiguous_format))
