"""All effects of importing the package on the user's process.

MPI looks for the other processes of its job only when it is loaded, and libraries read their number
of threads when they are loaded. Therefore this happens at the first import:

1. `launch.prepare_mpi` distinguishes processes that torchrun started from those that a rank
   started.
2. The MPI library is loaded where PETSc is a binary from PyPI (`binary_petsc`).
3. With several ranks, each gets one BLAS thread (`OPENBLAS_NUM_THREADS=1`) unless a number is set:
   otherwise each rank of a node would start one thread per core.

`PRDP_BOOTSTRAP=0` in the environment switches all of it off, for programs that configure MPI
themselves.
"""

from __future__ import annotations

import os

from prdp_hpc.distributed.binary_petsc import load_mpi_library
from prdp_hpc.distributed.launch import launched_size, prepare_mpi

SWITCH = "PRDP_BOOTSTRAP"


def start() -> None:
    """Prepare this process for MPI, unless `PRDP_BOOTSTRAP=0`."""
    if os.environ.get(SWITCH) == "0":
        return
    if launched_size() > 1:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    prepare_mpi()
    load_mpi_library()
