"""Parallel PETSc objects that Python has dropped."""

from __future__ import annotations

from mpi4py import MPI

from prdp_hpc.petsc import PETSc


def free_dropped_objects(*comms: MPI.Comm) -> None:
    """Free the objects of these communicators that Python has dropped; collective over each.

    Freeing an object of several ranks is collective, and Python drops it on each rank at another
    moment. So PETSc keeps it until all ranks come here. PETSc manual page: PetscGarbageCleanup.
    """
    for comm in comms:
        PETSc.garbage_cleanup(comm)
