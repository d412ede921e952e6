"""Broadcast of states: nested containers with tensors, which one rank has read from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.containers import KeyPath, mapped
from prdp_hpc.distributed.transport import as_bytes

PIECE = 2**30
"""Bytes of a message; MPI counts in 32 bits."""


class _Place:
    """A tensor in a container without its numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype


def broadcast(
    comm: MPI.Comm, state: Any, keep: Callable[[KeyPath, Tensor], Any] | None = None
) -> Any:
    """The state of rank 0 on all ranks, with tensors on the CPU; collective.

    Tensors are sent from and received into their own memory, so that no rank needs memory for a
    serialised copy.

    Parameters
    ----------
    comm : the ranks.
    state : on rank 0: dicts, lists and tuples of tensors and of objects that pickle can copy.
        Ignored on the other ranks.
    keep : what a rank keeps of each tensor, called as soon as it has arrived; default: all of it.
    """
    if comm.size == 1:
        return state
    tensors: list[Tensor] = []

    def noted(_: KeyPath, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tensors.append(value)
        return _Place(value)

    outline = comm.bcast(mapped(state, noted) if comm.rank == 0 else None)
    rest = iter(tensors)

    def arrived(path: KeyPath, value: Any) -> Any:
        if not isinstance(value, _Place):
            return value
        if comm.rank == 0:
            tensor = next(rest).detach().cpu().contiguous()
        else:
            tensor = torch.empty(value.shape, dtype=value.dtype)
        _send(comm, tensor)
        return tensor if keep is None else keep(path, tensor)

    found = mapped(outline, arrived)
    return state if comm.rank == 0 and keep is None else found


def _send(comm: MPI.Comm, tensor: Tensor) -> None:
    content = as_bytes(tensor)
    for first in range(0, len(content), PIECE):
        comm.Bcast([content[first : first + PIECE], MPI.BYTE])
