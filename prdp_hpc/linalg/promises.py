"""Checks of what is promised of a matrix: that `A = Aᵀ`, and what its nullspaces are.

Solvers that rely on a promise that does not hold give wrong numbers without noticing, so each set
of values is tested with one or two products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.bridge import Array
from prdp_hpc.linalg.nullspaces import Nullspace, Nullspaces

DOUBLE, SINGLE = 1e-8, 1e-5
"""Violations, relative to the largest entry of a row, that are taken for rounding: of values in
double precision, and of values that were single precision once.
"""
FUNCTION = 1e-6
"""The same for a product given by a function, which may compute in single precision; relative to
the largest number of the product.
"""


def probe(start: int, end: int) -> Array:
    """Numbers of size 1/2 to 1 with both signs that depend on their index alone (SplitMix64)."""
    with np.errstate(over="ignore"):
        z = (np.arange(start, end, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = (z ^ (z >> np.uint64(31))) >> np.uint64(11)
    numbers: Array = z * 2.0**-53
    return np.where(numbers < 0.5, numbers - 1.0, numbers)


class PromiseCheck:
    """Tests one matrix, and keeps the outcome until its values change.

    Parameters
    ----------
    matrix : what is tested, a PETSc matrix.
    is_single : whether this rank's values were single precision once; asked only where rounding in
        double precision does not explain a violation.
    """

    def __init__(self, matrix: Any, is_single: Callable[[], bool]) -> None:
        self.matrix, self._is_single = matrix, is_single
        self._comm: MPI.Comm = matrix.comm.tompi4py()
        self._x, self._y = matrix.createVecs()
        self._is_stored = str(matrix.getType()).endswith("aij")
        self._symmetric: tuple[int, str | None] = (-1, None)
        self._nullspaces_state = -1

    def require_symmetric(self, relying: str) -> None:
        """Raise a ValueError on all ranks unless `A = Aᵀ`; collective. `relying` names what is only
        right then.
        """
        state = self.matrix.stateGet()
        if self._symmetric[0] != state:
            self._symmetric = state, self._asymmetry()
        found = self._symmetric[1]
        if found is not None:
            raise InputError(
                f"{relying} relies on A = Aᵀ, but {found}: for values that are not symmetric use "
                "ksp='gmres' or 'bcgs' with a pc such as 'jacobi', 'ilu' or 'lu', and leave "
                "symmetric=True out"
            )

    def require_nullspaces(self, nullspaces: Nullspaces, symmetric: bool) -> None:
        """Raise a ValueError on all ranks unless `A z = 0` and `Aᵀ w = 0`; collective."""
        state = self.matrix.stateGet()
        if self._nullspaces_state == state:
            return
        found = self._remainder(nullspaces.right, transposed=False)
        if found is not None:
            raise InputError(
                f"nullspace promises A z = 0, but {found}: give the vectors that these values map "
                "to 0, or none"
            )
        if not symmetric or nullspaces.left_is_given:
            found = self._remainder(nullspaces.left, transposed=True)
        if found is not None and nullspaces.left_is_given:
            raise InputError(
                f"left_nullspace promises Aᵀ w = 0, but {found}: give the vectors that the "
                "transpose maps to 0"
            )
        if found is not None:
            raise InputError(
                f"nullspace promises Aᵀ z = 0 too, but {found}: the left nullspace is another one, "
                "so give left_nullspace=, the vectors w with Aᵀ w = 0"
            )
        self._nullspaces_state = state

    def _asymmetry(self) -> str | None:
        """Where `A r` and `Aᵀ r` differ, in words; None if they do not."""
        r = probe(*self.matrix.getOwnershipRange())
        products = self._product(r, transposed=False), self._product(r, transposed=True)
        if not self._all(products[0] is not None and products[1] is not None):
            return None  # A function without a transpose: nothing to compare with.
        straight, turned = (np.asarray(product) for product in products)
        scale, tolerances = self._row_scale(straight, turned)
        found = self._first_above(np.abs(straight - turned), scale, tolerances)
        if found is None:
            return None
        row, error, size = found
        return (
            f"these values are not symmetric: A r and Aᵀ r, for a fixed r of numbers below 1, "
            f"differ by {error:.3g} in row {row}, whose size is {size:.3g}"
        )

    def _remainder(self, nullspace: Nullspace, transposed: bool) -> str | None:
        """Where the product with a vector of the nullspace is not zero, in words."""
        name = "Aᵀ w" if transposed else "A z"
        for index, vector in enumerate(nullspace.basis):
            product = self._product(vector, transposed)
            if not self._all(product is not None):
                return None
            result = np.asarray(product)
            scale, tolerances = self._row_scale(result, result)
            weighted = scale * np.abs(vector) if transposed else np.abs(vector)
            largest = self._largest(weighted)
            size = np.full_like(scale, largest) if transposed else scale * largest
            found = self._first_above(np.abs(result), size, tolerances)
            if found is not None:
                row, error, _ = found
                which = f" for vector {index}" if len(nullspace) > 1 else ""
                return f"{name} is {error:.3g} in entry {row}{which}, with a vector of length 1"
        return None

    def _product(self, vector: Array, transposed: bool) -> Array | None:
        """`A v` or `Aᵀ v`; None on a rank where the matrix has no such product."""
        self._x.setArray(vector)
        try:
            (self.matrix.multTranspose if transposed else self.matrix.mult)(self._x, self._y)
        except PETSc.Error:
            if self._is_stored or not transposed:
                raise
            return None
        return np.array(self._y.getArray(readonly=True))

    def _row_scale(self, *products: Array) -> tuple[Array, tuple[float, ...]]:
        """The largest size of an entry of each row, and the tolerances that go with it."""
        rows = row_maxima(self.matrix, self._y) if self._is_stored else None
        if rows is not None:
            return rows, (DOUBLE, SINGLE)
        largest = max(self._largest(np.abs(product)) for product in products)
        return np.full_like(products[0], largest), (FUNCTION,)

    def _first_above(
        self, error: Array, scale: Array, tolerances: tuple[float, ...]
    ) -> tuple[int, float, float] | None:
        """The first row whose error is above the tolerance, its error and its scale; collective."""
        for tolerance in tolerances:
            # NaN, from products that overflow, tells nothing.
            above = error > tolerance * scale
            found = None
            if above.any():
                index = int(np.argmax(above))
                row = self.matrix.getOwnershipRange()[0] + index
                found = (row, float(error[index]), float(scale[index]))
            everywhere = [one for one in self._comm.allgather(found) if one is not None]
            if not everywhere:
                return None
            if tolerance == DOUBLE and not self._all(self._is_single()):
                break
        first: tuple[int, float, float] = everywhere[0]
        return first

    def _largest(self, numbers: Array) -> float:
        return float(self._comm.allreduce(float(numbers.max(initial=0.0)), op=MPI.MAX))

    def _all(self, condition: bool) -> bool:
        return bool(self._comm.allreduce(condition, op=MPI.LAND))


def row_maxima(matrix: Any, vector: Any) -> Array | None:
    """The largest size of an entry of each of this rank's rows: MatGetRowMaxAbs, which petsc4py
    leaves out; None where its library does not show it.
    """
    try:
        row_maxima = ctypes.CDLL(PETSc.__file__).MatGetRowMaxAbs
    except (AttributeError, OSError):
        return None
    row_maxima.argtypes = [ctypes.c_void_p] * 3
    row_maxima.restype = ctypes.c_int
    code = row_maxima(matrix.handle, vector.handle, None)
    if code:
        raise PETSc.Error(code)
    return np.array(vector.getArray(readonly=True))
