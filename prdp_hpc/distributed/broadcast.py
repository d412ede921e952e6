"""Broadcast of states: nested containers with tensors, which one rank has read from a file."""

from __future__ import annotations

from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.transport import as_bytes

PIECE = 2**30
"""Bytes of a message; MPI counts in 32 bits."""


class _Place:
    """A tensor in a container without its numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype


def broadcast(comm: MPI.Comm, state: Any) -> Any:
    """The state of rank 0 on all ranks, with tensors on the CPU; collective.

    Tensors are sent from and received into their own memory, so that no rank needs memory for a
    serialised copy.

    Parameters
    ----------
    comm : the ranks.
    state : on rank 0: dicts, lists and tuples of tensors and of objects that pickle can copy.
        Ignored on the other ranks.
    """
    if comm.size == 1:
        return state
    tensors: list[Tensor] = []
    outline = comm.bcast(_outline(state, tensors) if comm.rank == 0 else None)
    if comm.rank == 0:
        for tensor in tensors:
            _send(comm, tensor.detach().cpu().contiguous())
        return state
    return _filled(outline, comm)


def _outline(value: Any, tensors: list[Tensor]) -> Any:
    """The containers with a `_Place` for each tensor, which is appended to `tensors`."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(value)
    if isinstance(value, dict):
        return {key: _outline(item, tensors) for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [_outline(item, tensors) for item in value]
        return items if type(value) is list else tuple(items)
    return value


def _filled(value: Any, comm: MPI.Comm) -> Any:
    """The containers with the tensors that rank 0 sends, in the order of `_outline`."""
    if isinstance(value, _Place):
        tensor = torch.empty(value.shape, dtype=value.dtype)
        _send(comm, tensor)
        return tensor
    if isinstance(value, dict):
        return {key: _filled(item, comm) for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [_filled(item, comm) for item in value]
        return items if type(value) is list else tuple(items)
    return value


def _send(comm: MPI.Comm, tensor: Tensor) -> None:
    content = as_bytes(tensor)
    for first in range(0, len(content), PIECE):
        comm.Bcast([content[first : first + PIECE], MPI.BYTE])
