"""Checks of the promises about a matrix: that `A = Aᵀ`, and its nullspaces.

If a promise does not hold, solvers return wrong numbers without an error, so each set of values is
tested with one or two products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import SYMMETRIC_PCS
from prdp_hpc.linalg.nullspaces import Nullspace, Nullspaces
from prdp_hpc.linalg.torch_petsc import HOST, Array, Memory, c_function, is_aij, placed, to_memory
from prdp_hpc.petsc import PETSc

DOUBLE, SINGLE = 1e-8, 1e-5
"""Violations, relative to the terms of a row's sum, that are attributed to rounding: for values in
double precision, and for values that were converted from single precision.
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
    """Tests one matrix, and stores the result until its values change.

    Parameters
    ----------
    matrix : the PETSc matrix that is tested.
    is_single : returns whether this rank's values were converted from single precision; called only
        if rounding in double precision does not explain a violation.
    memory : where the matrix is.
    """

    def __init__(self, matrix: Any, is_single: Callable[[], bool], memory: Memory = HOST) -> None:
        self.matrix, self._is_single, self._memory = matrix, is_single, memory
        self._comm: MPI.Comm = matrix.comm.tompi4py()
        self._x, self._y = matrix.createVecs()
        self._is_stored = is_aij(matrix)
        self._symmetric: tuple[int, str | None] = (-1, None)
        self._nullspaces_state = -1
        self._size = -1, 0.0
        self._probes: dict[int, Tensor] = {}

    def require_symmetric(self, relying: str) -> None:
        """Raise an InputError on all ranks unless `A = Aᵀ`; collective. `relying` names the method
        that needs it.
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

    def size(self) -> float:
        """The largest number of a product with a vector of numbers of size 1/2 to 1, for a matrix
        without stored entries; collective after a change of the matrix.
        """
        state = self.matrix.stateGet()
        if self._size[0] != state:
            product = self._required(self._probe(), transposed=False)
            self._size = state, self._largest(product.abs())
        return self._size[1]

    def _probe(self, which: int = 0) -> Tensor:
        """This rank's part of one of the vectors of random numbers; each is made once."""
        if which not in self._probes:
            start, end = self.matrix.getOwnershipRange()
            numbers = probe(start + (which << 40), end + (which << 40))
            self._probes[which] = torch.from_numpy(numbers).to(self._memory.device)
        return self._probes[which]

    def _asymmetry(self) -> str | None:
        """A description of where `A r` and `Aᵀ r` differ, or None."""
        sizes = self._sizes()
        # With these r all terms of a row have equal size if A is scaled from both sides.
        r = self._probe() / sizes.sqrt()
        straight, turned = self._required(r, transposed=False), self._product(r, transposed=True)
        if not self._all(turned is not None):
            other = self._probe(1)
            return self._asymmetry_of_products(r, other, straight, self._required(other, False))
        assert turned is not None
        terms = torch.maximum(straight.abs(), turned.abs())
        if self._is_stored:  # The entries of a function are not known.
            terms = torch.maximum(terms, sizes.sqrt())
        found = self._first_above((straight - turned).abs(), terms)
        if found is None:
            return None
        row, error, size = found
        return asymmetry(row, error / size)

    def _asymmetry_of_products(self, r: Tensor, s: Tensor, Ar: Tensor, As: Tensor) -> str | None:
        """A description of how sᵀ A r and rᵀ A s differ, or None: for a function without a
        transpose, as one that torch does not record.
        """
        sums = [float(one) for one in (s @ Ar, r @ As, s.abs() @ Ar.abs(), r.abs() @ As.abs())]
        first, second, *terms = (self._comm.allreduce(one) for one in sums)
        error, size = abs(first - second), max(terms)
        # NaN, from products that overflow, is no evidence.
        return asymmetry_of_products(error / size) if error > FUNCTION * size else None

    def _sizes(self) -> Tensor:
        """The size of each diagonal entry, or of the row's largest if that is zero; 1 for a
        function.
        """
        if not self._is_stored:
            return self._vector().fill_(1.0)
        sizes = self._filled(self.matrix.getDiagonal).abs()
        if not bool((sizes > 0.0).all()):
            largest = row_maxima(self.matrix, self._y)
            if largest is not None:
                others = torch.from_numpy(largest).to(sizes.device)
                sizes = torch.where(sizes > 0.0, sizes, others)
        # The columns of a row of zeros may have entries, which are of about this size.
        return torch.where(sizes > 0.0, sizes, self._largest(sizes) or 1.0)

    def _vector(self) -> Tensor:
        n_local = self.matrix.getLocalSize()[0]
        return torch.empty(n_local, dtype=torch.float64, device=self._memory.device)

    def _filled(self, fill: Callable[[Any], Any]) -> Tensor:
        """What a function of PETSc puts into a vector."""
        result = self._vector()
        with placed((self._y, to_memory(result, self._memory))):
            fill(self._y)
        return result

    def _remainder(self, nullspace: Nullspace, transposed: bool) -> str | None:
        """A description of where the product with a nullspace vector is not zero, or None."""
        # The size of the terms of each row is estimated by two sums with random weights, because
        # one of them may cancel by chance.
        basis = nullspace.tensor
        largest = basis.abs().amax(dim=0)
        terms = [self._required(self._probe(n) * largest, transposed) for n in (0, 1)]
        scale = torch.maximum(terms[0].abs(), terms[1].abs())
        for index, vector in enumerate(basis):
            found = self._first_above(self._required(vector, transposed).abs(), scale)
            if found is not None:
                return remainder(transposed, index if len(nullspace) > 1 else None, *found)
        return None

    def _required(self, vector: Tensor, transposed: bool) -> Tensor:
        product = self._product(vector, transposed)
        assert product is not None, "a matrix with nullspaces has both products"
        return product

    def _product(self, vector: Tensor, transposed: bool) -> Tensor | None:
        """`A v` or `Aᵀ v`; None on a rank where the matrix does not have this product."""
        product = self.matrix.multTranspose if transposed else self.matrix.mult
        try:
            with placed((self._x, to_memory(vector, self._memory))):
                return self._filled(lambda y: product(self._x, y))
        except PETSc.Error:
            if self._is_stored or not transposed:
                raise
            return None

    def _first_above(self, error: Tensor, scale: Tensor) -> tuple[int, float, float] | None:
        """The first row whose error exceeds rounding, its error and its scale; collective."""
        if not self._is_stored:
            scale = torch.full_like(scale, self._largest(scale))
        for tolerance in (DOUBLE, SINGLE) if self._is_stored else (FUNCTION,):
            # NaN, from products that overflow, is no evidence.
            above = error > tolerance * scale
            found = None
            if bool(above.any()):
                index = int(above.to(torch.uint8).argmax())
                row = self.matrix.getOwnershipRange()[0] + index
                found = (row, float(error[index]), float(scale[index]))
            everywhere = [one for one in self._comm.allgather(found) if one is not None]
            if not everywhere:
                return None
            if tolerance == DOUBLE and not self._all(self._is_single()):
                break
        first: tuple[int, float, float] = everywhere[0]
        return first

    def _largest(self, numbers: Tensor) -> float:
        own = float(numbers.max()) if numbers.numel() else 0.0
        return float(self._comm.allreduce(max(own, 0.0), op=MPI.MAX))

    def _all(self, condition: bool) -> bool:
        return bool(self._comm.allreduce(condition, op=MPI.LAND))


def check_nullspaces(
    nullspaces: Nullspaces, symmetric: bool, remainder: Callable[[Nullspace, bool], str | None]
) -> None:
    """Raise an InputError unless `A z = 0` and `Aᵀ w = 0`; `remainder(nullspace, transposed)`
    describes where the product with one of its vectors is not zero.
    """
    found = remainder(nullspaces.right, False)
    if found is not None:
        raise InputError(
            f"nullspace promises A z = 0, but {found}: pass the vectors that these values map "
            "to 0, or none"
        )
    if not symmetric or nullspaces.left_is_given:
        found = remainder(nullspaces.left, True)
    if found is not None and nullspaces.left_is_given:
        raise InputError(
            f"left_nullspace promises Aᵀ w = 0, but {found}: pass the vectors that the "
            "transpose maps to 0"
        )
    if found is not None:
        raise InputError(
            f"nullspace promises Aᵀ z = 0 too, but {found}: the left nullspace is different, "
            "so pass left_nullspace=, the vectors w with Aᵀ w = 0"
        )


def remainder(transposed: bool, vector: int | None, row: int, error: float, size: float) -> str:
    """A description of where the product with a vector of a nullspace is not zero."""
    name = "Aᵀ w" if transposed else "A z"
    which = "" if vector is None else f" for vector {vector}"
    return f"{name}{which} has {error:.2g} in row {row}, a sum of terms of {size:.2g}"


def asymmetry(row: int, error: float) -> str:
    """A description of where `A r` and `Aᵀ r` differ; `error` is relative to their size."""
    return (
        "these values are not symmetric: A r and Aᵀ r differ, for a fixed r, in row "
        f"{row} by {error:.2g} of their size"
    )


def asymmetry_of_products(error: float) -> str:
    """A description of how sᵀ A r and rᵀ A s differ; `error` is relative to their terms."""
    return (
        "these values are not symmetric: sᵀ A r and rᵀ A s differ, for a fixed r and s, by "
        f"{error:.2g} of their terms"
    )


def not_symmetric(relying: str, found: str) -> InputError:
    """The error for values that are not symmetric where something relies on it."""
    return InputError(
        f"{relying} relies on A = Aᵀ, but {found}: for values that are not symmetric use "
        "ksp='gmres' or 'bcgs' with a pc such as 'jacobi', 'ilu' or 'lu', and omit "
        "symmetric=True"
    )


def row_maxima(matrix: Any, vector: Any) -> Array | None:
    """The largest size of an entry of each of this rank's rows: MatGetRowMaxAbs, which petsc4py
    does not have; None if its library does not export it.
    """
    find = c_function("MatGetRowMaxAbs", 3)
    if find is None:
        return None
    code = find(matrix.handle, vector.handle, None)
    if code:
        raise PETSc.Error(code)
    return np.array(vector.getArray(readonly=True))


def absolute_product(matrix: Any, numbers: Any, x: Any, y: Any) -> Array:
    """`|A|ᵀ |x|`, the sums of the sizes of the terms of each column; x and y are work vectors.
    Collective.
    """
    sizes = matrix.duplicate(copy=False)
    first, cols, values = matrix.getValuesCSR()
    sizes.setValuesCSR(first, cols, np.abs(values))
    sizes.assemble()
    x.getArray()[:] = np.abs(numbers)
    sizes.multTranspose(x, y)
    sizes.destroy()
    return np.array(y.getArray(readonly=True))


def check_blocks(pc: Any, is_single: Callable[[], bool]) -> None:
    """Raise InputError if a block of a split (fieldsplit) is not symmetric, but its preconditioner
    relies on it; before the blocks are set up. Collective.
    """
    for ksp in pc.getFieldSplitSubKSP():
        name, matrix = ksp.getPC().getType(), ksp.getOperators()[1]
        if name in SYMMETRIC_PCS and is_aij(matrix):
            relying = f"{ksp.getOptionsPrefix()}pc_type={name}"
            PromiseCheck(matrix, is_single).require_symmetric(relying)
