"""Private communicators: what this package sends can be mixed up neither with what the user sends
on the same ranks, nor with other operations of its own.

Autograd runs the backward pass of tensors on the CPU and on a GPU in two threads, whose order
differs from rank to rank; operations of two kinds, or of two devices, may therefore cross.
"""

from __future__ import annotations

from typing import NamedTuple

from mpi4py import MPI

from prdp_hpc.distributed import watchdog
from prdp_hpc.distributed.job_end import abort, ranks_use_package, take_part


class Private(NamedTuple):
    """Copies of one communicator, one for each kind of operation.

    Attributes
    ----------
    halos : point-to-point messages between neighbours.
    sums : all-reduces of tensors on the CPU; `device_sums`: of tensors on GPUs.
    agreement : whether all ranks are well, see `prdp_hpc.distributed.collective`.
    """

    halos: MPI.Comm
    sums: MPI.Comm
    device_sums: MPI.Comm
    agreement: MPI.Comm


_keyvals: list[int] = []


def private(comm: MPI.Comm) -> Private:
    """The private copies of a communicator; collective at the first call for each communicator.

    They are kept as an attribute of it, and freed when it is freed. MPI manual pages:
    MPI_Comm_create_keyval, MPI_Comm_dup.
    """
    watchdog.calls[0] += 1
    take_part()
    if not _keyvals:
        _keyvals.append(MPI.Comm.Create_keyval(delete_fn=_free))
    found: Private | None = comm.Get_attr(_keyvals[0])
    if found is None:
        found = _copies(comm)
        comm.Set_attr(_keyvals[0], found)
    return found


def _copies(comm: MPI.Comm) -> Private:
    if comm.size == 1:
        return Private(comm, comm, comm, comm)
    world = MPI.COMM_WORLD
    ranks_use_package(comm)
    watchdog.start(world.rank, world.size, lambda: abort(world, 1))
    return Private(*(comm.Dup() for _ in Private._fields))


def _free(comm: MPI.Comm, keyval: int, copies: Private) -> None:
    for copy in copies:
        if copy != comm:
            copy.Free()
