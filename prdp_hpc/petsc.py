"""PETSc, initialised without its signal handler. The package imports `PETSc` from here only.

PETSc's handler aborts on SIGTERM from within a library call, which can deadlock on a lock that this
call holds. A program that imported `petsc4py.PETSc` before keeps its settings.
"""

import sys

import petsc4py

if "petsc4py.PETSc" not in sys.modules:
    petsc4py.init([sys.argv[0] if sys.argv else "prdp-hpc", "-no_signal_handler"])

from petsc4py import PETSc as PETSc

__all__ = ["PETSc"]
