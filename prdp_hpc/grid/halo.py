"""Halo exchange: fields with their neighbour points, on one rank or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.transport import Message, transport_for
from prdp_hpc.errors import InputError
from prdp_hpc.grid.geometry import per_axis
from prdp_hpc.grid.partition import Partition

CHANNELS_LAST: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The memory format in which convolutions are fastest, by the number of a field's axes."""

Index = tuple[Any, ...]
DOWN, UP = 0, 1


class Halo:
    """The map from `(..., *local_shape)` to `(..., *(lower + n + upper))` with the points of the
    neighbours, including corners.

    Beyond a boundary that is not periodic the value is 0, or, with `nearest`, that of the outermost
    point along Neumann axes. Differentiable to any order: the adjoint is the reverse halo exchange,
    which adds ghost contributions to their owners. Both directions are collective. A field of a
    wrong shape raises an error on its rank only, because a check on all ranks would need a
    reduction per call; an uncaught exception ends the job. The axes are exchanged one after the
    other, each including the ghost points of the axes before, so a rank sends two messages per
    axis, for any size of the batch.

    Parameters
    ----------
    partition : the division of the grid.
    lower, upper : points before and after the part, one number or one per axis.
    nearest : see above; default False.

    Raises
    ------
    ValueError
        On all ranks, for widths that are negative or differ between ranks, and for a part that is
        narrower than the halo that its neighbour needs.
    """

    def __init__(
        self,
        partition: Partition,
        lower: int | Sequence[int],
        upper: int | Sequence[int],
        nearest: bool = False,
    ) -> None:
        self.partition, dim = partition, partition.dim
        self._lower, self._upper = per_axis(lower, dim), per_axis(upper, dim)
        self._check()
        self._nearest = tuple(nearest and kind == "neumann" for kind in partition.boundary)
        self._local_shape = partition.local_shape
        self._padded_shape = tuple(
            a + n + b for a, n, b in zip(self._lower, self._local_shape, self._upper, strict=True)
        )
        self._inside = self._index(dim)
        if partition.comm.size > 1:
            # Made here, because the first call is collective and some ranks may have no neighbour.
            private(partition.comm)

    def __call__(self, local: Tensor) -> Tensor:
        """Return the padded fields, in the memory format of the input."""
        if not isinstance(local, Tensor):
            raise InputError(f"a field must be a tensor, not a {type(local).__name__}")
        if tuple(local.shape[-self.partition.dim :]) != self._local_shape:
            raise InputError(
                f"rank {self.partition.comm.rank}: a field on this rank must end in the local "
                f"shape {self._local_shape}, this one has {tuple(local.shape)}"
            )
        return LinearMap(self.pad, self.reverse_exchange)(local)

    def pad(self, local: Tensor) -> Tensor:
        """Return the padded fields, without gradients."""
        shape = (*local.shape[: -self.partition.dim], *self._padded_shape)
        padded = torch.empty(
            shape, dtype=local.dtype, device=local.device, memory_format=_memory_format(local)
        )
        padded[self._inside] = local
        for axis in range(self.partition.dim):
            self._fill(padded, axis)
        return padded

    def reverse_exchange(self, padded: Tensor) -> Tensor:
        """The adjoint of `pad`: values at ghost points are added to their owners."""
        padded = padded.clone(memory_format=_memory_format(padded))
        for axis in reversed(range(self.partition.dim)):
            self._add(padded, axis)
        return padded[self._inside].contiguous(memory_format=_memory_format(padded))

    def _fill(self, padded: Tensor, axis: int) -> None:
        """Set the ghost points of an axis; those of earlier axes must be set already."""
        first, last, before, after = self._slabs(axis)
        below, above = self._neighbours(axis)
        sent = self._messages(padded, (below, DOWN, first), (above, UP, last))
        received = self._messages(padded, (above, DOWN, after), (below, UP, before), empty=True)
        self._exchange(padded, sent, received)
        self._store(padded, received, {DOWN: after, UP: before}, add=False)
        for rank, ghost, source, edge in ((below, before, last, 0), (above, after, first, -1)):
            if rank == self.partition.comm.rank:
                padded[ghost] = padded[source]
            elif rank is None:
                padded[ghost] = padded[self._edge(axis, edge)] if self._nearest[axis] else 0.0

    def _add(self, padded: Tensor, axis: int) -> None:
        """The adjoint of `_fill`."""
        first, last, before, after = self._slabs(axis)
        below, above = self._neighbours(axis)
        sent = self._messages(padded, (below, DOWN, before), (above, UP, after))
        received = self._messages(padded, (above, DOWN, last), (below, UP, first), empty=True)
        self._exchange(padded, sent, received)
        self._store(padded, received, {DOWN: last, UP: first}, add=True)
        for rank, ghost, source, edge in ((below, before, last, 0), (above, after, first, -1)):
            if rank == self.partition.comm.rank:
                padded[source] += padded[ghost]
            elif rank is None and self._nearest[axis]:
                padded[self._edge(axis, edge)] += padded[ghost].sum(
                    axis - self.partition.dim, keepdim=True
                )

    def _neighbours(self, axis: int) -> tuple[int | None, int | None]:
        return self.partition.neighbour(axis, -1), self.partition.neighbour(axis, 1)

    def _slabs(self, axis: int) -> tuple[Index, Index, Index, Index]:
        """The points that the neighbours need (first and last points), and the ghost points
        before and after.
        """
        a, n, b = self._lower[axis], self._local_shape[axis], self._upper[axis]
        ranges = ((a, a + b), (n, n + a), (0, a), (a + n, a + n + b))
        first, last, before, after = (self._index(axis, slice(*ends)) for ends in ranges)
        return first, last, before, after

    def _edge(self, axis: int, end: int) -> Index:
        """The outermost points of this rank along an axis, at its beginning (0) or end (−1)."""
        at = self._lower[axis] + (0 if end == 0 else self._local_shape[axis] - 1)
        return self._index(axis, slice(at, at + 1))

    def _index(self, axis: int, part: slice | None = None) -> Index:
        """A part of one axis, with this rank's points of later axes and all points of earlier
        axes. `axis = dim`: this rank's points of all axes.
        """
        own = [slice(a, a + n) for a, n in zip(self._lower, self._local_shape, strict=True)]
        if part is None:
            return (Ellipsis, *own)
        return (Ellipsis, *(slice(None) for _ in range(axis)), part, *own[axis + 1 :])

    def _messages(
        self, fields: Tensor, *ends: tuple[int | None, int, Index], empty: bool = False
    ) -> list[Message]:
        """One message per neighbour rank, ordered by tag, which is necessary on both sides."""
        messages = []
        for rank, tag, index in ends:
            if rank is None or rank == self.partition.comm.rank:
                continue
            slab = fields[index]
            if slab.numel():
                tensor = (
                    torch.empty(slab.shape, dtype=slab.dtype, device=slab.device)
                    if empty
                    else slab.contiguous()
                )
                # A slab that is contiguous is a view of the fields.
                messages.append(Message(rank, tag, tensor))
        return messages

    def _exchange(self, fields: Tensor, sent: list[Message], received: list[Message]) -> None:
        if sent or received:
            transport_for(self.partition.comm, self.partition.group, fields.device).exchange(
                sent, received
            )

    def _store(
        self, fields: Tensor, received: list[Message], places: dict[int, Index], add: bool
    ) -> None:
        for message in received:
            if add:
                fields[places[message.tag]] += message.tensor
            else:
                fields[places[message.tag]] = message.tensor

    def _check(self) -> None:
        """Raise errors on all ranks together: with different widths, messages would not match."""
        comm, widths = self.partition.comm, (self._lower, self._upper)
        raise_together(comm, self._validate_widths())
        if comm.size > 1 and len(set(comm.allgather(widths))) > 1:
            raise InputError("the ranks gave one halo different widths")

    def _validate_widths(self) -> InputError | None:
        dim = self.partition.dim
        widths = [*self._lower, *self._upper]
        are_sizes = all(isinstance(width, int | np.integer) and width >= 0 for width in widths)
        if not are_sizes or len(self._lower) != dim or len(self._upper) != dim:
            return InputError(
                f"a halo needs an integer width of at least 0 for each of {dim} axes, not "
                f"{self._lower} before and {self._upper} after the part"
            )
        for axis, (a, b) in enumerate(zip(self._lower, self._upper, strict=True)):
            width, narrowest = max(a, b), self.partition.narrowest(axis)
            if narrowest < width and (
                self.partition.boundary[axis] == "periodic" or self.partition.process_grid[axis] > 1
            ):
                return InputError(
                    f"a halo of {width} points does not fit: the grid {self.partition.shape} on "
                    f"{self.partition.comm.size} ranks "
                    f"has a part of {narrowest} points along one axis; use fewer grid ranks or "
                    "more points"
                )
        return None


def _memory_format(fields: Tensor) -> torch.memory_format:
    last = CHANNELS_LAST.get(fields.dim())
    if last is None or fields.is_contiguous() or not fields.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


_ENDS = {-1: slice(None, -2), 0: slice(1, -1), 1: slice(2, None)}


def moved(dim: int, shifts: Mapping[int, int]) -> tuple[slice, ...]:
    """Slices that select, from an array with one halo layer on each of its last `dim` axes, the
    points shifted by −1, 0 or 1 along some axes.
    """
    return tuple(_ENDS[shifts.get(axis, 0)] for axis in range(dim))


def neighbour(padded: Tensor, dim: int, shifts: Mapping[int, int]) -> Tensor:
    """Fields `(..., *(n + 2))` shifted by −1, 0 or 1 along some axes of the grid: `(..., *n)`."""
    index: Any = (Ellipsis, *moved(dim, shifts))
    return padded[index]
