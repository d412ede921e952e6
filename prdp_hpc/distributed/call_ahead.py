"""A call whose result is used later, when all ranks raise its error together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private

T = TypeVar("T")
_unfinished: list[Any] = []
"""Exchanges that were not complete when they were discarded: MPI still uses their memory."""


class CallAhead(Generic[T]):
    """Calls a function, whose result is used later.

    Creating it and `result` are collective, in the same order on all ranks. In between the ranks
    exchange whether the function failed on one of them while they do other work: with
    `call_together` each of them would wait for the slowest one in every call.

    Parameters
    ----------
    comm : the ranks.
    function : called at once.

    References: MPI standard, nonblocking collective operations (MPI_Iallreduce).
    """

    def __init__(self, comm: MPI.Comm, function: Callable[[], T]) -> None:
        self._comm, self._found, self._error = comm, cast("T", None), cast("Exception | None", None)
        try:
            self._found = function()
        except Exception as error:  # raised by `result`
            self._error = error
        self._failed = np.array(self._error is not None)
        self._exchange: MPI.Request | None = None
        if comm.size > 1:
            self._exchange = private(comm).ahead.Iallreduce(MPI.IN_PLACE, self._failed, op=MPI.LOR)

    def result(self) -> T:
        """What the function returned; raises its error, or that of another rank."""
        if self._exchange is not None:
            self._exchange.Wait()
        if self._failed:
            raise_together(self._comm, self._error)
        return self._found

    def discard(self) -> None:
        """Give up the result; not collective."""
        if self._exchange is not None and not self._exchange.Test():
            _unfinished.append((self._exchange, self._failed))
