"""Whether the MPI library takes addresses of GPU memory, by its own report."""

import ctypes

_LIBRARIES = ("libmpi.so.12", "libmpi.so.40", "libmpi.so")
"""Names of the MPI libraries of MPICH and its derivatives, Open MPI, and others."""
_QUERIES = ("MPIX_Query_cuda_support", "MPIX_Query_hip_support", "MPIX_Query_rocm_support")


def mpi_reports_gpu_support() -> bool:
    """Whether the MPI library reports that it supports addresses of GPU memory.

    Call it after `mpi4py.MPI` was imported: the loaded library is found by its name.
    """
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        queries = (getattr(library, query, None) for query in _QUERIES)
        return any(query() == 1 for query in queries if query is not None)
    return False
