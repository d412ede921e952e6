"""The communicator of a PETSc object that the user made."""

from __future__ import annotations

from typing import Any

from mpi4py import MPI


def communicator_of(obj: Any) -> MPI.Comm:
    """The communicator of a PETSc object: MPI.COMM_WORLD or COMM_SELF if the ranks and their order
    are equal, else PETSc's copy of its communicator.
    """
    comm: MPI.Comm = obj.comm.tompi4py()
    for usual in (MPI.COMM_WORLD, MPI.COMM_SELF):
        if comm.size == usual.size and MPI.Comm.Compare(comm, usual) == MPI.CONGRUENT:
            return usual
    return comm
