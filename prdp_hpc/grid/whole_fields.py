"""Whole fields from the parts of the ranks, and back; without PETSc."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.transport import as_bytes
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import Partition


class WholeFields:
    """Gathers and scatters fields on a partition, see `Grid.gather` and `Grid.scatter`.

    Parameters
    ----------
    partition : the division of the grid among the ranks.
    """

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

    def gather(self, local: Tensor) -> Tensor:
        """The whole field `(..., *shape)` on every rank, from each rank's part; collective."""
        # On all ranks together: compared to the exchange of fields, the reduction costs nothing.
        raise_together(self._partition.comm, validate_local(local, self._partition.local_shape))
        if self._partition.comm.size == 1:
            return local
        return self._whole_of_parts(local)

    def scatter(self, whole: Tensor) -> Tensor:
        """This rank's part `(..., *local_shape)` of a whole field."""
        partition = self._partition
        if not isinstance(whole, Tensor):
            raise not_a_field(whole)
        if tuple(whole.shape[-partition.dim :]) != partition.shape:
            raise InputError(
                f"a whole field must end in the grid's shape {partition.shape}, this one has "
                f"{tuple(whole.shape)}"
            )
        if partition.comm.size == 1:
            return whole
        return self._whole_of_parts.transposed(whole)

    @property
    def _whole_of_parts(self) -> LinearMap:
        """The map of parts to the whole field; its adjoint selects this rank's part."""

        def part(whole: Tensor) -> Tensor:
            return whole[_fields(self._partition.local_slices)].clone()

        return LinearMap(partial(_assemble, self._partition), part)


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
