"""Checks of what is promised of a matrix: that `A = Aᵀ`, and what its nullspaces are.

Solvers that rely on a promise that does not hold give wrong numbers without noticing, so each set
of values is tested with one or two products.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.nullspaces import Nullspace, Nullspaces
from prdp_hpc.linalg.torch_petsc import Array, is_aij
from prdp_hpc.petsc import PETSc

DOUBLE, SINGLE = 1e-8, 1e-5
"""Violations, relative to the terms of a row's sum, that are taken for rounding: of values in
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
    numbers: Array = z.astype(np.float64) * 2.0**-53
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
        self._is_stored = is_aij(matrix)
        self._symmetric: tuple[int, str | None] = (-1, None)
        self._nullspaces_state = -1
        self._probes: dict[int, Array] = {}

    def require_symmetric(self, relying: str) -> None:
        """Raise a ValueError on all ranks unless `A = Aᵀ`; collective. `relying` names what is only
        right then.
        """
        state = self.matrix.stateGet()
        if self._symmetric[0] != state:
            self._symmetric = state, self._asymmetry()
        found = self._symmetric[1]
        if found is not None:
            raise not_symmetric(relying, found)

    def require_nullspaces(self, nullspaces: Nullspaces, symmetric: bool) -> None:
        """Raise a ValueError on all ranks unless `A z = 0` and `Aᵀ w = 0`; collective."""
        state = self.matrix.stateGet()
        if self._nullspaces_state == state:
            return
        check_nullspaces(nullspaces, symmetric, self._remainder)
        self._nullspaces_state = state

    def _probe(self, which: int = 0) -> Array:
        """This rank's part of one of the vectors of random numbers; each is made once."""
        if which not in self._probes:
            start, end = self.matrix.getOwnershipRange()
            self._probes[which] = probe(start + (which << 40), end + (which << 40))
        return self._probes[which]

    def _asymmetry(self) -> str | None:
        """Where `A r` and `Aᵀ r` differ, in words; None if they do not."""
        sizes = self._sizes()
        # With these r all terms of a row are alike where A is scaled from both sides.
        r = self._probe() / np.sqrt(sizes)
        products = self._product(r, transposed=False), self._product(r, transposed=True)
        if not self._all(products[0] is not None and products[1] is not None):
            return None  # A function without a transpose: nothing to compare with.
        straight, turned = (np.asarray(product) for product in products)
        terms = np.maximum(np.abs(straight), np.abs(turned))
        found = self._first_above(np.abs(straight - turned), np.maximum(terms, np.sqrt(sizes)))
        if found is None:
            return None
        row, error, size = found
        return asymmetry(row, error / size)

    def _sizes(self) -> Array:
        """The size of each diagonal entry, of the row's largest where that is zero; 1 for a
        function.
        """
        if not self._is_stored:
            return np.ones(self.matrix.getLocalSize()[0])
        self.matrix.getDiagonal(self._y)
        sizes = np.abs(self._y.getArray(readonly=True))
        if not sizes.all():
            largest = row_maxima(self.matrix, self._y)
            sizes = sizes if largest is None else np.where(sizes > 0.0, sizes, largest)
        return np.where(sizes > 0.0, sizes, 1.0)

    def _remainder(self, nullspace: Nullspace, transposed: bool) -> str | None:
        """Where the product with a vector of the nullspace is not zero, in words."""
        # The size of the terms of each row: their sums with random weights, of which one may cancel
        # by chance, but not both.
        largest = np.abs(nullspace.basis).max(axis=0)
        terms = [self._product(self._probe(n) * largest, transposed) for n in (0, 1)]
        scale = np.maximum(*np.abs(terms))
        for index, vector in enumerate(nullspace.basis):
            found = self._first_above(np.abs(self._product(vector, transposed)), scale)
            if found is not None:
                return remainder(transposed, index if len(nullspace) > 1 else None, *found)
        return None

    def _product(self, vector: Array, transposed: bool) -> Any:
        """`A v` or `Aᵀ v`; None on a rank where the matrix has no such product."""
        self._x.setArray(vector)
        try:
            (self.matrix.multTranspose if transposed else self.matrix.mult)(self._x, self._y)
        except PETSc.Error:
            if self._is_stored or not transposed:
                raise
            return None
        return np.array(self._y.getArray(readonly=True))

    def _first_above(self, error: Array, scale: Array) -> tuple[int, float, float] | None:
        """The first row whose error is more than rounding, its error and its scale; collective."""
        if not self._is_stored:
            scale = np.full_like(scale, self._largest(scale))
        for tolerance in (DOUBLE, SINGLE) if self._is_stored else (FUNCTION,):
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


def check_nullspaces(
    nullspaces: Nullspaces, symmetric: bool, remainder: Callable[[Nullspace, bool], str | None]
) -> None:
    """Raise a ValueError unless `A z = 0` and `Aᵀ w = 0`; `remainder(nullspace, transposed)` is
    where the product with one of its vectors is not zero, in words.
    """
    found = remainder(nullspaces.right, False)
    if found is not None:
        raise InputError(
            f"nullspace promises A z = 0, but {found}: give the vectors that these values map "
            "to 0, or none"
        )
    if not symmetric or nullspaces.left_is_given:
        found = remainder(nullspaces.left, True)
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


def remainder(transposed: bool, vector: int | None, row: int, error: float, size: float) -> str:
    """Where the product with a vector of a nullspace is not zero, in words."""
    name = "Aᵀ w" if transposed else "A z"
    which = "" if vector is None else f" for vector {vector}"
    return f"{name}{which} has {error:.2g} in row {row}, a sum of terms of {size:.2g}"


def asymmetry(row: int, error: float) -> str:
    """Where `A r` and `Aᵀ r` differ, in words; `error` relative to their size."""
    return (
        "these values are not symmetric: A r and Aᵀ r differ, for a fixed r, in row "
        f"{row} by {error:.2g} of their size"
    )


def not_symmetric(relying: str, found: str) -> InputError:
    """The error for values that are not symmetric where something relies on it."""
    return InputError(
        f"{relying} relies on A = Aᵀ, but {found}: for values that are not symmetric use "
        "ksp='gmres' or 'bcgs' with a pc such as 'jacobi', 'ilu' or 'lu', and leave "
        "symmetric=True out"
    )


def row_maxima(matrix: Any, vector: Any) -> Array | None:
    """The largest size of an entry of each of this rank's rows: MatGetRowMaxAbs, which petsc4py
    leaves out; None where its library does not show it.
    """
    find = _get_row_max_abs()
    if find is None:
        return None
    code = find(matrix.handle, vector.handle, None)
    if code:
        raise PETSc.Error(code)
    return np.array(vector.getArray(readonly=True))


@cache
def _get_row_max_abs() -> Callable[..., int] | None:
    try:
        find = ctypes.CDLL(PETSc.__file__).MatGetRowMaxAbs
    except (AttributeError, OSError):
        return None
    find.argtypes = [ctypes.c_void_p] * 3
    find.restype = ctypes.c_int
    return find
