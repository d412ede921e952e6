"""Broadcast of states: nested containers with tensors, which one rank has read from a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.transport import as_bytes

Path = tuple[Any, ...]
"""The keys and indices of a tensor in nested containers."""
PIECE = 2**30
"""Bytes of a message; MPI counts in 32 bits."""


class _Place:
    """A tensor in a container without its numbers."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype


def broadcast(comm: MPI.Comm, state: Any, keep: Callable[[Path, Tensor], Any] | None = None) -> Any:
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
    outline = comm.bcast(_outline(state, tensors) if comm.rank == 0 else None)
    rest = iter(tensors)

    def arrived(place: _Place) -> Tensor:
        if comm.rank == 0:
            tensor = next(rest).detach().cpu().contiguous()
        else:
            tensor = torch.empty(place.shape, dtype=place.dtype)
        _send(comm, tensor)
        return tensor

    found = _filled(outline, arrived, keep or (lambda _, tensor: tensor), ())
    return state if comm.rank == 0 and keep is None else found


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


def _filled(
    value: Any, arrived: Callable[[_Place], Tensor], keep: Callable[[Path, Tensor], Any], path: Path
) -> Any:
    """The containers with what is kept of each tensor, in the order of `_outline`."""
    if isinstance(value, _Place):
        return keep(path, arrived(value))
    if isinstance(value, dict):
        return {key: _filled(item, arrived, keep, (*path, key)) for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [_filled(item, arrived, keep, (*path, index)) for index, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    return value


def _send(comm: MPI.Comm, tensor: Tensor) -> None:
    content = as_bytes(tensor)
    for first in range(0, len(content), PIECE):
        comm.Bcast([content[first : first + PIECE], MPI.BYTE])
