"""PETSc, initialised without its signal handler. The package imports `PETSc` from here only.

PETSc's handler aborts on SIGTERM from within a library call, which can deadlock on a lock that this
call holds. A program that imported `petsc4py.PETSc` before keeps its settings.
"""

import sys

import petsc4py

from prdp_hpc.gpu_messages import mpi_reports_gpu_support

if "petsc4py.PETSc" not in sys.modules:
    # A PETSc with CUDA ends the program at its start unless MPI is GPU-aware or this option is 0,
    # with which it copies messages through the host.
    _aware = "1" if "mpi4py.MPI" in sys.modules and mpi_reports_gpu_support() else "0"
    _name = sys.argv[0] if sys.argv else ""
    # PETSc would take `-c` of `python -c` for an option and report at the end that it was not used.
    if not _name or _name.startswith("-"):
        _name = "prdp-hpc"
    petsc4py.init([_name, "-no_signal_handler", "-use_gpu_aware_mpi", _aware])

from petsc4py import PETSc as PETSc

__all__ = ["PETSc"]
