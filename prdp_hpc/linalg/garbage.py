"""Parallel PETSc objects without references in Python."""

from __future__ import annotations

from mpi4py import MPI

from prdp_hpc.petsc import PETSc


def free_dropped_objects(*comms: MPI.Comm) -> None:
    """Free the objects of these communicators that Python no longer references; collective.

    Freeing an object of several ranks is collective, but Python's last reference ends at different
    times on different ranks. PETSc therefore keeps the object until all ranks call this function.
    PETSc manual page: PetscGarbageCleanup.
    """
    for comm in comms:
        PETSc.garbage_cleanup(comm)
