"""PETSc, started without its signal handler. The package imports `PETSc` from here only.

PETSc's handler answers SIGTERM with an abort from within a library call, and that can wait for ever
for a lock which this call holds. A program that imported `petsc4py.PETSc` before keeps its own
settings.
"""

import ctypes
import sys

import petsc4py

_MPI_LIBRARIES = ("libmpi.so.12", "libmpi.so.40", "libmpi.so")
"""MPICH and its relatives, Open MPI, and others, found by the name of what is loaded."""
_QUERIES = ("MPIX_Query_cuda_support", "MPIX_Query_hip_support", "MPIX_Query_rocm_support")


def mpi_reports_gpu_support() -> bool:
    """Whether the MPI library reports that it takes addresses of GPU memory.

    Call it after `mpi4py.MPI` was imported.
    """
    for name in _MPI_LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        queries = (getattr(library, query, None) for query in _QUERIES)
        return any(query() == 1 for query in queries if query is not None)
    return False


if "petsc4py.PETSc" not in sys.modules:
    # A PETSc with CUDA ends the program at its start unless MPI is GPU-aware or it is told not to
    # rely on that; then it copies messages through the host.
    _aware = "1" if "mpi4py.MPI" in sys.modules and mpi_reports_gpu_support() else "0"
    _name = sys.argv[0] if sys.argv else "prdp-hpc"
    petsc4py.init([_name, "-no_signal_handler", "-use_gpu_aware_mpi", _aware])

from petsc4py import PETSc as PETSc  # noqa: E402

__all__ = ["PETSc", "mpi_reports_gpu_support"]
