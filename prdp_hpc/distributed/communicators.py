"""Private communicators, so that messages of this package cannot match messages of the user on the
same ranks, nor those of other operations of the package.

Autograd runs the backward pass of tensors on the CPU and on a GPU in two threads, whose order
differs between ranks, so operations of two kinds, or of two devices, may overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple, cast

from mpi4py import MPI

from prdp_hpc.distributed import watchdog
from prdp_hpc.distributed.job_end import abort, ranks_use_package, register_thread


class Private(NamedTuple):
    """Copies of one communicator, one per kind of operation.

    Attributes
    ----------
    halos : point-to-point messages between neighbours.
    sums : all-reduces of tensors on the CPU; `device_sums`: of tensors on GPUs.
    agreement : errors of ranks, see `prdp_hpc.distributed.collective`.
    gradients : all-reduces of gradients, which run during the backward pass.
    ahead : errors of calls whose results are used later, see `CallAhead`.
    """

    halos: MPI.Comm
    sums: MPI.Comm
    device_sums: MPI.Comm
    agreement: MPI.Comm
    gradients: MPI.Comm
    ahead: MPI.Comm


_keyvals: list[int] = []
_counters: list[int] = []


def private(comm: MPI.Comm) -> Private:
    """The private copies of a communicator; the first call per communicator is collective.

    They are stored as an attribute of the communicator, and freed with it. MPI manual pages:
    MPI_Comm_create_keyval, MPI_Comm_dup.
    """
    watchdog.calls[0] += 1
    register_thread()
    if not _keyvals:
        _keyvals.append(MPI.Comm.Create_keyval(delete_fn=_free))
    found = cast("Private | None", comm.Get_attr(_keyvals[0]))
    if found is None:
        found = _copies(comm)
        comm.Set_attr(_keyvals[0], found)
    return found


def serial_number(comm: MPI.Comm) -> int:
    """The number of an object among those made on a communicator; 0 on one rank. It is equal on all
    ranks, because they make them in the same order. Not collective.
    """
    if comm.size == 1:
        return 0
    if not _counters:
        _counters.append(MPI.Comm.Create_keyval())
    numbers = cast("Iterator[int] | None", comm.Get_attr(_counters[0]))
    if numbers is None:
        numbers = count()
        comm.Set_attr(_counters[0], numbers)
    return next(numbers)


def _copies(comm: MPI.Comm) -> Private:
    if comm.size == 1:
        return Private(*(comm for _ in Private._fields))
    world = MPI.COMM_WORLD
    ranks_use_package(comm)
    watchdog.start(world.rank, world.size, lambda: abort(world, 1))
    return Private(*(comm.Dup() for _ in Private._fields))


def _free(comm: MPI.Comm, keyval: int, copies: Private) -> None:
    for copy in copies:
        if copy != comm:
            copy.Free()
