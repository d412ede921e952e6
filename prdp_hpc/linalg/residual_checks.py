"""Whether what a KSP left is the solution, where PETSc does not look at the residual itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.bad_rows import bad_row
from prdp_hpc.linalg.inverses import BatchedInverse
from prdp_hpc.linalg.ksp_pair import Direction
from prdp_hpc.linalg.method_types import DIRECT_PCS
from prdp_hpc.linalg.torch_petsc import Array, placed
from prdp_hpc.petsc import PETSc

# A relative residual that is rounding: what is left after a breakdown of a method that had
# converged.
SOLVED = 1e-10
# How much larger than the tolerance the residual of a solution may be.
LOST = 100.0
# A relative residual that no loose tolerance excuses.
NOTHING_SOLVED = 0.1
# What a direct factorisation of a nearly singular matrix may leave of the right-hand side.
DIRECT = 1e-3


class ResidualChecks(ABC):
    """The part of a `LinearSystem` that judges solutions; all of it collective."""

    _matrix: Any
    _comm: MPI.Comm
    _b: Any
    _x: Any
    _residual: Any

    @property
    @abstractmethod
    def method(self) -> str:
        """KSP and PC in words."""

    @property
    @abstractmethod
    def pc_name(self) -> str:
        """The live type of the preconditioner."""

    @property
    @abstractmethod
    def inverse(self) -> BatchedInverse:
        """Applications of the preconditioner."""

    def _judge(
        self,
        direction: Direction,
        code: int,
        repeated: int,
        iterations: int,
        right: Array,
        result: Array,
    ) -> None:
        """Raise SolveError for a solve that ended with a negative code, and when repeated with
        another, unless the result is right.
        """
        level = direction.level
        if repeated == PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT and level.max_it is not None:
            return
        # A Krylov method that does not look at the norm breaks down when there is nothing to solve,
        # or nothing is left to.
        if level.is_fixed and not errors.is_set_up_failure(code):
            if zero_rows(self._comm, right[None])[0]:
                result[:] = 0.0
                return
            residual, length, _ = self._lengths(direction, right, result)
            if residual <= SOLVED * length < np.inf:
                return
        where = bad_row(self._matrix, self._residual, errors.is_set_up_failure(code))
        raise errors.failed_solve(direction.name, self.method, code, iterations, level, where)

    def _judge_one_application(self, direction: Direction, right: Array, result: Array) -> None:
        """Raise SolveError unless one application of the preconditioner reached the tolerance:
        PETSc does not look.
        """
        level = direction.level
        if level.max_it == 1:
            return
        residual, length, size = self._lengths(direction, right, result)
        if residual <= float(level.rtol or 0.0) * length:
            return
        # Near a singular matrix a factorisation cannot do better than rounding.
        rounding = SOLVED * size * self._matrix.norm(PETSc.NormType.FROBENIUS)
        if self.pc_name in DIRECT_PCS and residual <= min(rounding, DIRECT * length):
            return
        raise errors.inexact_application(direction.name, self.method, residual / length, level)

    def _judge_no_iteration(self, direction: Direction, right: Array) -> None:
        """Raise SolveError if a right-hand side other than zero needed no iteration: its
        preconditioned residual vanished, and with it the solution.
        """
        if not direction.has_absolute_tolerance and not zero_rows(self._comm, right[None])[0]:
            raise errors.vanished(direction.name, self.method, direction.level)

    def _judge_recurrence(
        self, direction: Direction, iterations: int, right: Array, result: Array
    ) -> None:
        """Raise SolveError if the residual that a method kept by recurrences is not that of its
        solution.
        """
        level, residual = direction.level, np.empty_like(right)
        self._lengths(direction, right, result)
        residual[:] = self._residual.getArray(readonly=True)
        pair = np.stack([residual, right])
        if direction.ksp.getNormType() != PETSc.KSP.NormType.UNPRECONDITIONED:
            pair = self.inverse.applied(pair, by_transposed=direction.transposed)
        squares = private(self._comm).sums.allreduce((pair**2).sum(axis=1))
        rtol = float(level.rtol or 0.0)
        if not squares[0] <= min(LOST * rtol, max(NOTHING_SOLVED, 2.0 * rtol)) ** 2 * squares[1]:
            raise errors.lost_residual(
                direction.name,
                self.method,
                float(np.sqrt(squares[0] / squares[1])),
                iterations,
                level,
            )

    def _lengths(
        self, direction: Direction, right: Array, result: Array
    ) -> tuple[float, float, float]:
        """The lengths of the residual, the right-hand side and the solution; collective."""
        with placed((self._b, right), (self._x, result)):
            product = self._matrix.multTranspose if direction.transposed else self._matrix.mult
            product(self._x, self._residual)
            self._residual.aypx(-1.0, self._b)
            return float(self._residual.norm()), float(self._b.norm()), float(self._x.norm())


def zero_rows(comm: MPI.Comm, right: Array) -> NDArray[np.bool_]:
    """Which right-hand sides of a batch `(B, n_local)` are zero on every rank; collective."""
    nonzero: NDArray[np.bool_] = np.any(right, axis=1)
    private(comm).sums.Allreduce(MPI.IN_PLACE, nonzero, op=MPI.LOR)
    return np.logical_not(nonzero)
