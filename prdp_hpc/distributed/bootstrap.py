"""What importing the package does to the user's process, all of it.

MPI looks for the other processes of its job only once, when it is loaded, and libraries read their
number of threads when they are loaded. So this must happen at the first import:

1. `launch.prepare_mpi`: processes that torchrun started, or that a rank started, are told apart.
2. The MPI library is loaded where PETSc is a binary from PyPI (`binary_petsc`).
3. A rank of several gets one BLAS thread (`OPENBLAS_NUM_THREADS=1`) unless a number is set:
   the ranks of a node would start one thread per core each.

`PRDP_BOOTSTRAP=0` in the environment leaves all of it out, for programs that start MPI on their
own terms.
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
