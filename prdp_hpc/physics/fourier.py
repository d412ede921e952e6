"""Discrete Fourier transforms of fields that are divided among ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.grid.structured import Grid

Block = tuple[slice, ...]


class FourierTransform:
    """Real-to-complex transforms of fields `(C, *local_shape)` on a periodic grid.

    The fields are first divided into slabs of the first axis, and the other axes are transformed;
    then they are divided into slabs of the last axis, and the first axis is transformed. Each rank
    stores only its part of the fields at any time. Fields with one axis are transformed on the
    first rank.

    Attributes
    ----------
    frequencies : `k_d` of this rank's coefficients along each axis, integers that broadcast to
        the shape of a transformed field.
    """

    def __init__(self, grid: Grid) -> None:
        self._comm, self._dim, self._shape = grid.comm, grid.dim, grid.shape
        spectral = (*grid.shape[:-1], grid.shape[-1] // 2 + 1)
        rows = _slabs(grid.shape, 0, grid.comm.size)
        half = _slabs(spectral, 0, grid.comm.size)
        columns = _slabs(spectral, grid.dim - 1, grid.comm.size)
        self._to_rows, self._from_rows = (
            Redistribution(grid.comm, *ends) for ends in ((grid.blocks, rows), (rows, grid.blocks))
        )
        self._to_columns, self._to_half = (
            Redistribution(grid.comm, *ends) for ends in ((half, columns), (columns, half))
        )
        mine = columns[grid.comm.rank]
        self._row_shape, self._half_shape = (
            tuple(part.stop - part.start for part in ends[grid.comm.rank]) for ends in (rows, half)
        )
        whole = [np.fft.fftfreq(n, 1.0 / n) for n in grid.shape[:-1]] + [
            np.fft.rfftfreq(grid.shape[-1], 1.0 / grid.shape[-1])
        ]
        self.frequencies = np.meshgrid(
            *(k[part] for k, part in zip(whole, mine, strict=True)), indexing="ij", sparse=True
        )

    def forward(self, fields: Tensor) -> Tensor:
        """Return the coefficients of fields; collective."""
        every = tuple(range(1, self._dim + 1))
        if self._comm.size == 1:
            whole: Tensor = torch.fft.rfftn(fields, dim=every)
            return whole
        rows = self._to_rows(fields)
        half = (len(rows), *self._half_shape)
        inner = every[1:] or every
        partly = _unless_empty(rows, half, lambda: torch.fft.rfftn(rows, dim=inner))
        columns = self._to_columns(partly.to(torch.complex128))
        if self._dim == 1:
            return columns
        return _unless_empty(columns, columns.shape, lambda: torch.fft.fft(columns, dim=1))

    def backward(self, coefficients: Tensor) -> Tensor:
        """Return the fields of coefficients; collective."""
        every = tuple(range(1, self._dim + 1))
        if self._comm.size == 1:
            whole: Tensor = torch.fft.irfftn(coefficients, s=self._shape, dim=every)
            return whole
        partly = coefficients
        if self._dim > 1:
            shape = coefficients.shape
            partly = _unless_empty(coefficients, shape, lambda: torch.fft.ifft(coefficients, dim=1))
        half = self._to_half(partly)
        size, inner = (len(half), *self._row_shape), every[1:] or every
        lengths = self._shape[1:] or self._shape
        rows = _unless_empty(half, size, lambda: torch.fft.irfftn(half, s=lengths, dim=inner))
        return self._from_rows(rows.to(torch.float64))


class Redistribution:
    """Redistributes fields `(C, *block)` from one division of a grid into blocks to another.

    Parameters
    ----------
    comm : the ranks, which own one block of each division.
    source, target : the blocks of all ranks, as slices of the whole grid.

    PETSc-free: one `MPI_Alltoallv` of packed intersections, in the host's memory.
    """

    def __init__(self, comm: MPI.Comm, source: Sequence[Block], target: Sequence[Block]) -> None:
        self._comm = comm
        mine, ours = source[comm.rank], target[comm.rank]
        self._shape = tuple(part.stop - part.start for part in ours)
        self._sent = [_within(_intersection(mine, other), mine) for other in target]
        self._received = [_within(_intersection(other, ours), ours) for other in source]

    def __call__(self, fields: Tensor) -> Tensor:
        """Return this rank's part in the other division; collective."""
        channels, host = fields.shape[0], fields.cpu().numpy()
        send = np.concatenate([host[(slice(None), *part)].ravel() for part in self._sent])
        counts = [channels * _size(part) for part in self._sent]
        expected = [channels * _size(part) for part in self._received]
        received = np.empty(sum(expected), dtype=host.dtype)
        self._comm.Alltoallv([send, counts], [received, expected])
        result = np.empty((channels, *self._shape), dtype=host.dtype)
        start = 0
        for part, count in zip(self._received, expected, strict=True):
            shape = (channels, *(s.stop - s.start for s in part))
            result[(slice(None), *part)] = received[start : start + count].reshape(shape)
            start += count
        return torch.from_numpy(result).to(fields.device)


def _unless_empty(fields: Tensor, shape: Sequence[int], transform: Callable[[], Tensor]) -> Tensor:
    """The transform of fields; MKL refuses those of a rank that has none."""
    return transform() if fields.numel() else fields.new_empty(tuple(shape))


def _slabs(shape: Sequence[int], axis: int, ranks: int) -> list[Block]:
    """Blocks that divide one axis as evenly as possible; some are empty if there are more ranks
    than points. The first rank has all points of a grid with one axis.
    """
    ends = [shape[axis] * rank // ranks for rank in range(ranks + 1)]
    if len(shape) == 1:
        ends = [0, *[shape[0]] * ranks]
    whole = [slice(0, n) for n in shape]
    return [(*whole[:axis], slice(a, b), *whole[axis + 1 :]) for a, b in pairwise(ends)]


def _intersection(one: Block, other: Block) -> Block:
    starts = [max(a.start, b.start) for a, b in zip(one, other, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(one, other, strict=True)]
    return tuple(slice(a, max(a, b)) for a, b in zip(starts, stops, strict=True))


def _within(part: Block, block: Block) -> Block:
    """A part of the grid as slices of the block that contains it; an empty part stays empty."""
    if _size(part) == 0:
        return tuple(slice(0, 0) for _ in part)
    return tuple(
        slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, block, strict=True)
    )


def _size(part: Block) -> int:
    return math.prod(s.stop - s.start for s in part)
