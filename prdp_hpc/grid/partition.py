"""The division of a structured grid among ranks, and fields from their parts; without PETSc."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.transport import as_bytes
from prdp_hpc.errors import InputError

Boundary = Literal["dirichlet", "neumann", "periodic"]
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)


@dataclass(frozen=True)
class Partition:
    """A grid that is divided along each axis into one block per rank; the ranks are numbered in the
    order of the blocks, the last axis fastest.

    Attributes
    ----------
    ownership_ranges : per axis, the starts of the parts, and the end: part i is `ranges[i] …
        ranges[i + 1] − 1`.
    boundary : per axis "dirichlet", "neumann" or "periodic".
    comm : the ranks, one per block.
    group : the same ranks in torch.distributed, for exchanges between GPUs; None: through MPI.
    dim : number of axes.
    shape : points of the whole grid per axis.
    local_slices : this rank's part of the whole grid.
    local_shape : this rank's points per axis.
    """

    ownership_ranges: tuple[tuple[int, ...], ...]
    boundary: tuple[Boundary, ...]
    comm: MPI.Comm = field(default_factory=lambda: MPI.COMM_SELF, compare=False)
    group: dist.ProcessGroup | None = field(default=None, compare=False)
    dim: int = field(init=False, compare=False)
    shape: tuple[int, ...] = field(init=False, compare=False)
    local_slices: tuple[slice, ...] = field(init=False, compare=False, repr=False)
    local_shape: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", len(self.ownership_ranges))
        object.__setattr__(self, "shape", tuple(ends[-1] for ends in self.ownership_ranges))
        blocks = math.prod(len(bounds) - 1 for bounds in self.ownership_ranges)
        if blocks != self.comm.size:
            raise InputError(
                f"a partition into {blocks} blocks needs {blocks} ranks, not {self.comm.size}"
            )
        own = self._slices_of(self.coordinates)
        object.__setattr__(self, "local_slices", own)
        object.__setattr__(self, "local_shape", tuple(part.stop - part.start for part in own))

    @classmethod
    def whole(cls, shape: Sequence[int], boundary: Boundary | Sequence[Boundary]) -> Partition:
        """The partition of one rank; raises `InputError` for an unknown boundary, or a wrong number
        of them.
        """
        per_axis = (boundary,) * len(shape) if isinstance(boundary, str) else tuple(boundary)
        if len(per_axis) != len(shape) or not set(per_axis) <= set(BOUNDARIES):
            raise InputError(
                f"boundary must be one of {BOUNDARIES}, or one of them for each of {len(shape)} "
                f"axes, not {boundary!r}"
            )
        return cls(tuple((0, int(n)) for n in shape), per_axis)

    @property
    def process_grid(self) -> tuple[int, ...]:
        """Number of parts per axis."""
        return tuple(len(bounds) - 1 for bounds in self.ownership_ranges)

    @cached_property
    def coordinates(self) -> tuple[int, ...]:
        """This rank's position in the process grid."""
        return self._coordinates_of(self.comm.rank)

    def _coordinates_of(self, rank: int) -> tuple[int, ...]:
        coordinates = []
        for count in reversed(self.process_grid):
            rank, part = divmod(rank, count)
            coordinates.append(part)
        return tuple(reversed(coordinates))

    @cached_property
    def blocks(self) -> list[tuple[slice, ...]]:
        """The `local_slices` of every rank; not collective."""
        return [self._slices_of(self._coordinates_of(rank)) for rank in range(self.comm.size)]

    def _slices_of(self, coordinates: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(
            slice(bounds[i], bounds[i + 1])
            for bounds, i in zip(self.ownership_ranges, coordinates, strict=True)
        )

    def narrowest(self, axis: int) -> int:
        """Number of points of the smallest part along an axis."""
        return min(stop - start for start, stop in pairwise(self.ownership_ranges[axis]))

    def neighbour(self, axis: int, step: int) -> int | None:
        """The rank of the next part in the direction `step` (−1 or 1) along an axis, also across a
        periodic boundary; None beyond other boundaries.
        """
        coordinates, count = list(self.coordinates), self.process_grid[axis]
        coordinates[axis] += step
        if self.boundary[axis] == "periodic":
            coordinates[axis] %= count
        elif not 0 <= coordinates[axis] < count:
            return None
        rank = 0
        for part, parts in zip(coordinates, self.process_grid, strict=True):
            rank = rank * parts + part
        return rank

    def gather(self, local: Tensor) -> Tensor:
        """The whole field `(..., *shape)` on every rank, from each rank's part; collective, see
        `Grid.gather`.
        """
        # On all ranks together: compared to the exchange of fields, the reduction costs nothing.
        raise_together(self.comm, validate_local(local, self.local_shape))
        return local if self.comm.size == 1 else self._whole_of_parts(local)

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's part `(..., *local_shape)` of a whole field, see `Grid.scatter`."""
        if not isinstance(whole, Tensor):
            raise not_a_field(whole)
        if tuple(whole.shape[-self.dim :]) != self.shape:
            raise InputError(
                f"a whole field must end in the grid's shape {self.shape}, this one has "
                f"{tuple(whole.shape)}"
            )
        return whole if self.comm.size == 1 else self._whole_of_parts.transposed(whole)

    @property
    def _whole_of_parts(self) -> LinearMap:
        """The map of parts to the whole field; its adjoint selects this rank's part."""

        def part(whole: Tensor) -> Tensor:
            return whole[_fields(self.local_slices)].clone()

        return LinearMap(partial(_assemble, self), part)

    def coarsen(self, factor: int = 2) -> Partition:
        """The grid of every `factor`-th point, `0, factor, …`: each rank keeps those of its part.

        Raises `InputError` on all ranks if a part would be empty, or if the number of points of a
        periodic axis is not a multiple of `factor`.
        """
        for axis, (n, kind) in enumerate(zip(self.shape, self.boundary, strict=True)):
            if kind == "periodic" and n % factor:
                raise InputError(
                    f"axis {axis} of the periodic grid {self.shape} cannot be coarsened: {n} is "
                    f"not a multiple of {factor}"
                )
        bounds = tuple(
            tuple(-(-start // factor) for start in starts) for starts in self.ownership_ranges
        )
        coarse = Partition(bounds, self.boundary, self.comm, self.group)
        if min(coarse.narrowest(axis) for axis in range(self.dim)) < 1:
            raise InputError(
                f"the grid {self.shape} on {self.process_grid} parts is too small to coarsen: a "
                "part would be empty; use fewer ranks"
            )
        return coarse


def validate_local(local: Tensor, local_shape: tuple[int, ...]) -> InputError | None:
    """The error for a field that does not end in the local shape, or None."""
    if not isinstance(local, Tensor):
        return not_a_field(local)
    if tuple(local.shape[-len(local_shape) :]) == local_shape:
        return None
    return InputError(
        f"a field on this rank must end in the local shape {local_shape}, this one has "
        f"{tuple(local.shape)}"
    )


def not_a_field(field: Any) -> InputError:
    """The error for a field that is not a tensor of real floating-point numbers."""
    if isinstance(field, Tensor):
        return InputError(f"a field must hold real floating-point numbers, not {field.dtype}")
    return InputError(f"a field must be a tensor, not a {type(field).__name__}")


def _fields(part: tuple[slice, ...]) -> Any:
    """The index of a part of the grid in a batch of fields."""
    return (..., *part)


def _assemble(partition: Partition, local: Tensor) -> Tensor:
    """All ranks' parts put together, on every rank."""
    lead = local.shape[: -partition.dim]
    host = local.detach().cpu().contiguous()
    blocks = partition.blocks
    counts = [math.prod(lead) * math.prod(s.stop - s.start for s in block) for block in blocks]
    flat = torch.empty(sum(counts), dtype=host.dtype)
    # As bytes, because neither MPI nor NumPy has all of torch's types.
    sizes = [count * host.element_size() for count in counts]
    comm = private(partition.comm).sums
    comm.Allgatherv([as_bytes(host), MPI.BYTE], [as_bytes(flat), sizes, MPI.BYTE])
    whole = torch.empty((*lead, *partition.shape), dtype=host.dtype)
    for block, part in zip(blocks, flat.split(counts), strict=True):
        whole[_fields(block)] = part.view(*lead, *(s.stop - s.start for s in block))
    return whole.to(local.device)
