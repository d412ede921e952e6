"""Keyword arguments of `SparseOperator`, for the functions and classes that pass them on."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.array_types import RealArray
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.preconditioner_data import Fields


class OperatorOptions(TypedDict, total=False):
    """The keyword arguments of `SparseOperator`; type checkers find any other name."""

    symmetric: bool
    grid: Grid | None
    n_local: int | None
    constant_nullspace: bool
    nullspace: RealArray | None
    left_nullspace: RealArray | None
    block_size: int
    near_nullspace: RealArray | None
    coordinates: RealArray | None
    fields: Fields | None
    preconditioner: tuple[Operator, Tensor | None] | None
