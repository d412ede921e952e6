"""Exchange of entries of distributed vectors with other ranks, in the memory of the tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.transport import Message, transport_for

Indices = NDArray[np.int64]

TAG = 2
"""The tag of these messages; halos use 0 and 1."""


class Exchange:
    """`x[..., n] ↦` the entries that this rank needs from other ranks, and the adjoint.

    There is one message per neighbour for the whole batch, on any device. Neither direction
    is recorded by autograd; both are collective.

    Parameters
    ----------
    comm : the ranks.
    sent : for each rank the indices of this rank's entries that it receives.
    counts : number of entries from each rank, in the order of the ranks.

    Attributes
    ----------
    count : number of all received entries.
    """

    def __init__(self, comm: MPI.Comm, sent: Sequence[Indices], counts: Sequence[int]) -> None:
        self._comm = comm
        self._sent = [
            (rank, torch.from_numpy(index)) for rank, index in enumerate(sent) if len(index)
        ]
        self._received = [(rank, int(count)) for rank, count in enumerate(counts) if count]
        self.count = int(sum(counts))
        # Made on all ranks, because some may have nothing to exchange.
        self.is_needed = bool(private(comm).agreement.allreduce(self.count > 0, op=MPI.LOR))

    def fetch(self, x: Tensor) -> Tensor:
        """`(..., n)` to `(..., count)`."""
        sent = [self._message(rank, x.index_select(-1, i)) for rank, i in self._indices(x)]
        received = [
            self._message(rank, x.new_empty(*x.shape[:-1], count)) for rank, count in self._received
        ]
        self._run(x, sent, received)
        if not received:
            return x.new_empty(*x.shape[:-1], 0)
        return torch.cat([message.tensor for message in received], dim=-1)

    def add(self, entries: Tensor, x: Tensor) -> None:
        """The adjoint: `(..., count)` is added to its owners' `x (..., n)`, in place."""
        parts = entries.split([count for _, count in self._received], dim=-1)
        sent = [
            self._message(rank, part.contiguous())
            for (rank, _), part in zip(self._received, parts, strict=True)
        ]
        indices = self._indices(x)
        received = [
            self._message(rank, x.new_empty(*x.shape[:-1], len(index))) for rank, index in indices
        ]
        self._run(x, sent, received)
        for (_, index), message in zip(indices, received, strict=True):
            x.index_add_(-1, index, message.tensor)

    def _run(self, x: Tensor, sent: list[Message], received: list[Message]) -> None:
        if sent or received:
            transport_for(self._comm, None, x.device).exchange(sent, received)

    def _message(self, rank: int, tensor: Tensor) -> Message:
        return Message(rank, TAG, tensor)

    def _indices(self, x: Tensor) -> list[tuple[int, Tensor]]:
        self._sent = [(rank, index.to(x.device)) for rank, index in self._sent]
        return self._sent


def ghosts_of(comm: MPI.Comm, starts: Indices, foreign: Indices) -> Exchange:
    """The exchange that fetches entries with these global numbers, sorted, from their owners;
    collective.

    `starts (ranks + 1,)`: the first number of each rank, and the end.
    """
    owners = np.searchsorted(starts, foreign, side="right") - 1
    wanted = [foreign[owners == rank] for rank in range(comm.size)]
    requested: list[Any] = private(comm).agreement.alltoall(wanted)
    sent = [np.asarray(numbers, dtype=np.int64) - starts[comm.rank] for numbers in requested]
    return Exchange(comm, sent, [len(numbers) for numbers in wanted])


def entries_to_owners(
    comm: MPI.Comm, starts: Indices, rows: Indices, cols: Indices
) -> tuple[Exchange, Indices, Indices]:
    """The exchange that sends matrix entries to the owners of their rows, and the rows and columns
    of the entries that this rank receives; collective.
    """
    owners = np.searchsorted(starts, rows, side="right") - 1
    where = [
        np.flatnonzero(owners == rank) if rank != comm.rank else np.empty(0, dtype=np.int64)
        for rank in range(comm.size)
    ]
    came: list[Any] = private(comm).agreement.alltoall([(rows[i], cols[i]) for i in where])
    exchange = Exchange(comm, where, [len(pair[0]) for pair in came])
    return (
        exchange,
        np.concatenate([np.asarray(pair[0], dtype=np.int64) for pair in came]),
        np.concatenate([np.asarray(pair[1], dtype=np.int64) for pair in came]),
    )
