"""Rows that explain why a solve failed."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.linalg.promises import row_maxima
from prdp_hpc.linalg.torch_petsc import is_aij


def bad_row(matrix: Any, work: Any, in_set_up: bool) -> str:
    """A description of a row that makes solves or set-ups fail, "" if there is none; collective.

    `work` is a vector of the matrix that is overwritten. `in_set_up`: also look for rows that make
    only set-ups fail.
    """
    if not is_aij(matrix):
        return ""
    comm: MPI.Comm = matrix.comm.tompi4py()
    end = matrix.getSize()[0]
    kinds = [(zero_row(matrix, work), "is zero, which makes the matrix singular")]
    if in_set_up:
        kinds.append((zero_diagonal(matrix, work), "has a zero, or no entry, on its diagonal"))
    for own, what in kinds:
        first = comm.allreduce(end if own is None else own, op=MPI.MIN)
        if first < end:
            return f"row {first} {what}"
    return ""


def zero_row(matrix: Any, work: Any) -> int | None:
    """The first of this rank's rows that has only zeros; not collective."""
    largest = row_maxima(matrix, work)
    return None if largest is None else _first_row(matrix, largest == 0.0)


def zero_diagonal(matrix: Any, work: Any) -> int | None:
    """The first of this rank's rows whose diagonal entry is zero or missing; not collective."""
    matrix.getDiagonal(work)
    return _first_row(matrix, work.getArray(readonly=True) == 0.0)


def _first_row(matrix: Any, which: NDArray[np.bool_]) -> int | None:
    start = int(matrix.getOwnershipRange()[0])
    return start + int(np.argmax(which)) if which.any() else None
