"""Norms of residuals and right-hand sides, as the KSPs of a linear system measure them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, empty_like, inner
from prdp_hpc.linalg.inverses import BatchedInverse
from prdp_hpc.linalg.ksp_pair import Direction
from prdp_hpc.linalg.method_types import NORMAL_EQUATION_KSPS, TRANSFORMING_PCS
from prdp_hpc.linalg.nullspaces import Nullspaces
from prdp_hpc.linalg.torch_petsc import placed
from prdp_hpc.petsc import PETSc


class ResidualNorms(ABC):
    """The part of a `LinearSystem` that computes norms; all methods are collective.

    Attributes
    ----------
    ksp_name, pc_name : the types of the KSPs and of the preconditioner.
    """

    ksp_name: str
    pc_name: str
    _matrix: Any
    _comm: MPI.Comm
    _b: Any
    _x: Any
    _residual: Any
    _nullspaces: Nullspaces | None

    @property
    @abstractmethod
    def inverse(self) -> BatchedInverse:
        """Applications of the preconditioner."""

    def _lengths(
        self, direction: Direction, right: Numbers, result: Numbers
    ) -> tuple[float, float, float]:
        """The lengths of the residual, the right-hand side and the solution; collective."""
        with placed((self._b, right), (self._x, result)):
            product = self._matrix.multTranspose if direction.transposed else self._matrix.mult
            product(self._x, self._residual)
            self._residual.aypx(-1.0, self._b)
            return float(self._residual.norm()), float(self._b.norm()), float(self._x.norm())

    def _length_of(self, right: Numbers) -> float:
        with placed((self._b, right)):
            return float(self._b.norm())

    def _norm_of(self, direction: Direction, row: Numbers, kind: Any) -> float:
        """A right-hand side in the norm in which the KSP measures residuals; collective."""
        types, z = PETSc.KSP.NormType, row
        is_plain = kind == types.UNPRECONDITIONED or self.pc_name in TRANSFORMING_PCS
        if not is_plain and direction.ksp.getPCSide() != PETSc.PC.Side.RIGHT:
            rows = row[None]
            if self.ksp_name in NORMAL_EQUATION_KSPS:  # They are preconditioned by M⁻¹ M⁻ᵀ.
                rows = self.inverse.applied(rows, by_transposed=not direction.transposed)
            z = self._preconditioned(direction, rows)[0]
        square = inner(row if kind == types.NATURAL else z, z)
        return float(np.sqrt(abs(private(self._comm).sums.allreduce(square))))

    def _normal_product(self, direction: Direction, row: Numbers) -> Numbers:
        """`Aᵀ row`; `A row` for a solve with Aᵀ."""
        product = empty_like(row)
        multiply = self._matrix.mult if direction.transposed else self._matrix.multTranspose
        with placed((self._b, row), (self._x, product)):
            multiply(self._b, self._x)
        return product

    def _preconditioned(self, direction: Direction, rows: Numbers) -> Numbers:
        """`M⁻¹ rows` without the parts in the nullspace, as a KSP applies it."""
        z, spaces = self.inverse.applied(rows, direction.transposed), self._nullspaces
        return (
            z if spaces is None else spaces.of_result(direction.name == "adjoint").removed_from(z)
        )
