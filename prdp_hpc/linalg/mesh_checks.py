"""Checks of the cells and numbers of a mesh that a user gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.errors import InputError


def require_equal(comm: MPI.Comm, what: str, value: Any) -> None:
    """Raise an InputError on all ranks unless the value is equal on all; collective."""
    if comm.size > 1 and len(given := set(comm.allgather(value))) > 1:
        raise InputError(f"the ranks gave different {what}: {sorted(given)}")


def check_cells(cells: NDArray[Any], n: Any, unit: str) -> None:
    """Raise an InputError for invalid cells of this rank, of which each entry is the number of a
    `unit`, "node" or "dof", from 0 to `n − 1`.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"n must be the number of {unit}s, an integer of at least 1, not {n!r}")
    if cells.ndim != 2 or cells.shape[1] == 0:
        raise InputError(
            f"cells must have shape (n_cells, k), the {unit} numbers of each cell of this rank, "
            f"or (0, k) on a rank without cells, not {cells.shape}"
        )
    check_numbers("cells", cells, int(n), unit)


def check_numbers(name: str, numbers: NDArray[Any], n: int, unit: str) -> None:
    """Raise an InputError unless an argument holds numbers from 0 to `n − 1`."""
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"{name} must hold integers, the numbers of {unit}s, not {numbers.dtype}")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= n):
        raise InputError(
            f"{name} must hold {unit} numbers in 0 … {n - 1}, but has numbers from "
            f"{numbers.min()} to {numbers.max()}"
        )
