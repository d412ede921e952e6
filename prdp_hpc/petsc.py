"""PETSc, started without its signal handler. The package imports `PETSc` from here only.

PETSc's handler answers SIGTERM with an abort from within a library call, and that can wait for ever
for a lock which this call holds. A program that imported `petsc4py.PETSc` before keeps what it
chose.
"""

import sys

import petsc4py

if "petsc4py.PETSc" not in sys.modules:
    petsc4py.init([sys.argv[0] if sys.argv else "prdp-hpc", "-no_signal_handler"])

from petsc4py import PETSc as PETSc

__all__ = ["PETSc"]
