"""PETSc as a binary from PyPI (`dolfinx-solver-real`): its petsc4py needs MPI loaded first."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from importlib import metadata, util


def load_mpi_library() -> None:
    """Load the MPI library by its path where PETSc is that binary; a no-op elsewhere.

    The binary's petsc4py has no path to libmpi and finds the library only after it was loaded, e.g.
    by `import mpi4py.MPI`. Loading it does not initialise MPI.
    """
    if util.find_spec("dolfinx_solver") is None:
        return
    with suppress(metadata.PackageNotFoundError, OSError):
        for file in metadata.files("mpich") or []:
            if file.name == "libmpi.so.12":
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
