"""Checks that a KSP returned the solution, where PETSc does not compute the residual."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from mpi4py import MPI

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import (
    Numbers,
    empty_like,
)
from prdp_hpc.linalg.bad_rows import bad_row
from prdp_hpc.linalg.early_ends import zero_is_no_iterate
from prdp_hpc.linalg.ksp_pair import Direction
from prdp_hpc.linalg.method_types import (
    BLOCK_PCS,
    DIRECT_PCS,
    EARLY_KSPS,
    LEFT_INVALID_KSPS,
    NATURAL_KSPS,
    NORMAL_EQUATION_KSPS,
    NORMAL_KSPS,
    ONE_APPLICATION_KSPS,
    RECURRENCE_KSPS,
    RELATIVE_KSPS,
    TRANSFORMING_PCS,
    UNGUARDED_KSPS,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.promises import absolute_product, row_maxima
from prdp_hpc.linalg.reductions import anywhere, longer_rows, zero_rows
from prdp_hpc.linalg.residual_norms import ResidualNorms
from prdp_hpc.linalg.solution_sizes import Scale
from prdp_hpc.linalg.torch_petsc import Memory, is_aij, placed
from prdp_hpc.petsc import PETSc

# A relative residual that is attributed to rounding, after a breakdown of a converged method.
SOLVED = 1e-10
# Largest ratio of the residual of a solution to the tolerance.
LOST = 100.0
# Rounding errors of a residual, relative to that of the guess.
ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
# Largest relative residual that may be due to the rounding of a recurrence.
DRIFT = 1e-3
# A relative residual that is an error at any tolerance.
NOTHING_SOLVED = 0.1
# Largest ratio of the relative residual to the tolerance, in another norm than that of the method.
HIDDEN = 10.0
# A relative residual that is an error at any tolerance up to 0.1, in another norm.
HALF = 0.5
# Largest relative residual of a fixed number of iterations that ended early.
ARRIVED = 1e-6
# Largest relative residual of a direct factorisation of a nearly singular matrix.
DIRECT = 1e-3

# Methods that may end a fixed number of iterations before its end.
CHECKED_AT_THE_END = EARLY_KSPS | UNGUARDED_KSPS

# The second is that of normal equations, which petsc4py's versions name differently.
_ABSOLUTE = (PETSc.KSP.ConvergedReason.CONVERGED_ATOL, 9)


class ResidualChecks(ResidualNorms):
    """The part of a `LinearSystem` that checks solutions; all methods are collective."""

    _memory: Memory
    # The reasons at which the solves for the last right-hand sides stopped.
    _codes: list[int]
    # Directions without a converged solve since the last set-up.
    _unchecked: set[str]
    # The state of the matrix, and what `scale` found for it.
    _scale_of: tuple[int, Scale] = (-1, Scale(0.0, False))

    @property
    def method(self) -> str:
        """Names of KSP and PC, for messages."""
        return f"ksp={self.ksp_name!r}, pc={self.pc_name!r}"

    @abstractmethod
    def _discard(self) -> None: ...

    @abstractmethod
    def _used_operator(self) -> Operator: ...

    def _check_result(
        self,
        direction: Direction,
        code: int,
        repeated: int,
        iterations: int,
        right: Numbers,
        result: Numbers,
        whole: Numbers,
    ) -> None:
        """Raise SolveError for a solve that stopped with a negative code, and with another when
        repeated, unless the result is right relative to the right-hand side `whole`. `right` is the
        residual of the guess.
        """
        level = direction.level
        is_invalid = self.ksp_name in LEFT_INVALID_KSPS and errors.is_unfinished(code)
        if is_invalid or (self.pc_name in BLOCK_PCS and errors.is_set_up_failure(code)):
            self._discard()
        if repeated == PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT and level.max_it is not None:
            return
        # Without a norm, a Krylov method breaks down if the right-hand side or the residual is 0.
        if level.is_fixed and not errors.is_set_up_failure(code):
            if zero_rows(self._comm, right[None])[0]:
                result[:] = 0.0
                return
            residual = self._lengths(direction, right, result)[0]
            if residual <= SOLVED * self._length_of(whole) < np.inf:
                return
        where = bad_row(self._matrix, self._residual, errors.is_set_up_failure(code))
        raise errors.failed_solve(direction.name, self.method, code, iterations, level, where)

    def _without_false_success(self, direction: Direction, code: int) -> int:
        """The code of a solve; DIVERGED_MAX_IT for a success that is the end of all iterations, as
        multigrid reports it to Richardson's method.
        """
        ended = code == PETSc.KSP.ConvergedReason.CONVERGED_ITS
        is_level = direction.level.max_it is not None or self.ksp_name in ONE_APPLICATION_KSPS
        return int(errors.MAX_IT) if ended and not is_level else code

    def _check_application(
        self, direction: Direction, right: Numbers, result: Numbers, whole: Numbers
    ) -> None:
        """Raise SolveError unless one application of the preconditioner reached the tolerance,
        which PETSc does not check.
        """
        level = direction.level
        if level.max_it == 1:
            return
        residual, _, size = self._lengths(direction, right, result)
        length = self._length_of(whole)
        if residual <= float(level.rtol or 0.0) * length:
            return
        # For nearly singular matrices, rounding limits the accuracy of a factorisation.
        rounding = SOLVED * size * self._matrix.norm(PETSc.NormType.FROBENIUS)
        if self.pc_name in DIRECT_PCS and residual <= min(rounding, DIRECT * length):
            return
        raise errors.inexact_application(direction.name, self.method, residual / length, level)

    def _check_no_iteration(self, direction: Direction, right: Numbers) -> None:
        """Raise SolveError if a non-zero right-hand side needed no iteration, because its
        preconditioned residual is 0.
        """
        if not direction.has_absolute_tolerance and not zero_rows(self._comm, right[None])[0]:
            raise errors.vanished(direction.name, self.method, direction.level)

    def _check_early_end(
        self,
        direction: Direction,
        code: int,
        iterations: int,
        right: Numbers,
        result: Numbers,
        whole: Numbers,
    ) -> None:
        """Raise SolveError for a fixed number of iterations that a method ended because of its
        residual, unless it arrived at the solution.
        """
        if self.ksp_name not in CHECKED_AT_THE_END:
            return
        is_whole = iterations >= (direction.level.max_it or 0)
        has_converged = code != errors.ALL_ITERATIONS and self.ksp_name in UNGUARDED_KSPS
        if is_whole and not has_converged and not self._is_wrongly_zero(direction, right, result):
            return
        residual, length = self._lengths(direction, right, result)[0], self._length_of(whole)
        if not residual <= ARRIVED * length:
            raise errors.not_the_solution(
                direction.name, self.method, residual / length, iterations, direction.level
            )

    def _is_wrongly_zero(self, direction: Direction, right: Numbers, result: Numbers) -> bool:
        """Whether the result is 0, although no iterate of the method is."""
        if self.ksp_name not in EARLY_KSPS or not zero_rows(self._comm, result[None])[0]:
            return False
        if self.pc_name in TRANSFORMING_PCS:
            return True
        z = self._preconditioned(direction, right[None])[0]
        return zero_is_no_iterate(self._comm, self._matrix, (self._b, self._x), z)

    def _reached_absolute(self, direction: Direction, code: int) -> bool:
        """Whether a solve ended at the user's absolute tolerance, however large its residual is."""
        return code in _ABSOLUTE and direction.has_absolute_tolerance

    def _is_to_be_checked(self, direction: Direction) -> bool:
        """Whether a residual is computed for a solve that converged: after each solve of some
        methods, and for others after the first one with a set-up, because a preconditioner that is
        nearly singular leaves parts of the residual out.
        """
        if self.pc_name in TRANSFORMING_PCS:
            return False
        is_first = direction.name in self._unchecked
        self._unchecked.discard(direction.name)
        return is_first or self.ksp_name in RECURRENCE_KSPS

    def _check_recurrence(
        self, direction: Direction, iterations: int, right: Numbers, result: Numbers, whole: Numbers
    ) -> None:
        """Raise SolveError if the residual that a method tested is not that of its solution."""
        spaces = self._nullspaces
        if spaces is not None:  # A large part in it may solve by the rounding errors of A.
            result = spaces.of_result(direction.name == "adjoint").removed_from(result[None])[0]
        lost, name = self._lost(direction, right, result, whole), direction.name
        if lost is not None:
            normal = self.ksp_name in NORMAL_EQUATION_KSPS | NORMAL_KSPS
            raise errors.lost_residual(name, self.method, lost, iterations, direction.level, normal)

    def _lost(
        self, direction: Direction, right: Numbers, result: Numbers, whole: Numbers
    ) -> float | None:
        """The relative residual of a solution, in the norm of the method, if it is far above the
        tolerance.
        """
        residual = empty_like(right)
        with placed((self._residual, residual)):
            left, _, size = self._lengths(direction, right, result)
        length, rtol = self._length_of(whole), float(direction.level.rtol or 0.0)
        if left <= rtol * length:
            return None
        hidden = max(NOTHING_SOLVED, 2.0 * rtol, min(LOST * rtol, HALF), HIDDEN * rtol)
        if self.ksp_name in NORMAL_EQUATION_KSPS:
            return self._unsolved(direction, left / length, hidden, residual, whole, result)
        rows, kind = [residual, whole], direction.ksp.getNormType()
        if self.ksp_name in NORMAL_KSPS:
            rows = [self._normal_product(direction, row) for row in rows]
            kind = PETSc.KSP.NormType.UNPRECONDITIONED
        elif self.ksp_name in NATURAL_KSPS:
            kind = PETSc.KSP.NormType.NATURAL
        tested, first = (self._norm_of(direction, row, kind) for row in rows)
        if tested <= max(2.0 * rtol, min(LOST * rtol, DRIFT)) * first:
            # The norm of a nearly singular preconditioner leaves parts of the residual out.
            return self._unsolved(direction, left / length, hidden, residual, whole, result)
        rounding = SOLVED * (size * self.scale().norm + length)
        if left <= min(rounding, ARRIVED * length):
            return None
        return tested / first

    def _is_rounded(self, direction: Direction, b: Numbers, rest: Numbers, x: Numbers) -> bool:
        """Whether a guess left so much of b that the rounding errors of its residual `rest` keep x
        from the tolerance: the KSP tested the correction only. SolveError if x is no better.
        """
        rtol = direction.level.rtol
        if rtol is None or direction.has_absolute_tolerance:
            return False
        is_rounded = False
        for row in np.flatnonzero(longer_rows(self._comm, ROUNDING * rest, rtol * b)):
            if self._codes[row] in (errors.MAX_IT, errors.ALL_ITERATIONS):
                continue
            left, length, _ = self._lengths(direction, b[row], x[row])
            if left > 0.1 * self._length_of(rest[row]):
                normal = self.ksp_name in NORMAL_EQUATION_KSPS | NORMAL_KSPS
                iterations, level = direction.ksp.getIterationNumber(), direction.level
                raise errors.lost_residual(
                    direction.name, self.method, left / length, iterations, level, normal
                )
            is_rounded |= left > rtol * length
        return is_rounded

    def _unsolved(
        self,
        direction: Direction,
        relative: float,
        nothing: float,
        residual: Numbers,
        right: Numbers,
        result: Numbers,
    ) -> float | None:
        """The relative residual, if it is above `nothing` and not small by rows."""
        if relative <= nothing:
            return None
        is_small = self._is_small_by_rows(direction, residual, right, result, nothing)
        return None if is_small else relative

    def _is_small_by_rows(
        self,
        direction: Direction,
        residual: Numbers,
        right: Numbers,
        result: Numbers,
        share: float,
    ) -> bool:
        """Whether each row's residual is at most a share of the terms of the row, for rows of any
        scale; True where the host does not store the rows.
        """
        if self._memory.kind or not is_aij(self._matrix):
            return True
        if direction.transposed:
            terms = absolute_product(self._matrix, result, self._x, self._residual)
        else:
            largest = row_maxima(self._matrix, self._residual)
            if largest is None:
                return True
            size = self._comm.allreduce(float(np.abs(result).max(initial=0.0)), op=MPI.MAX)
            terms = largest * size
        terms = terms + np.abs(right)
        return not anywhere(self._comm, bool((np.abs(residual) > share * terms).any()))

    def _check_solution(self, direction: Direction, right: Numbers, result: Numbers) -> None:
        """Raise SolveError for a suspicious solution, e.g. one that is very large, unless its
        residual is small.
        """
        residual, length, _ = self._lengths(direction, right, result)
        if residual <= max(NOTHING_SOLVED, 2.0 * float(direction.level.rtol or 0.0)) * length:
            return
        if self.scale().ignores_rows or self._lost(direction, right, result, right) is not None:
            raise errors.not_the_solution(
                direction.name, self.method, residual / length, None, direction.level
            )

    def scale(self) -> Scale:
        """What the sizes of solutions are judged by; not where the host does not store the entries
        of the matrix. Collective after a change of the matrix.
        """
        state = self._matrix.stateGet()
        if self._scale_of[0] != state:
            norm, ignores_rows = self._used_operator().norm(), False
            has_entries = is_aij(self._matrix) and not self._memory.kind
            if has_entries and self.pc_name == PETSc.PC.Type.JACOBI:
                self._matrix.getDiagonal(self._residual)
                ignores_rows = not self._residual.getArray(readonly=True).all()
            self._scale_of = state, Scale(norm, ignores_rows)
        return self._scale_of[1]

    def _is_left_to_do(
        self, direction: Direction, right: Numbers, aim: Numbers, absolute: float
    ) -> bool:
        """Set the tolerance of a correction so that it refers to the original right-hand side
        `aim`; False if the residual is within it already.
        """
        rtol, ksp = direction.level.rtol, direction.ksp
        if rtol is None or self.ksp_name in ONE_APPLICATION_KSPS:
            return True
        norm, is_transforming = ksp.getNormType(), self.pc_name in TRANSFORMING_PCS
        if self.ksp_name in NORMAL_EQUATION_KSPS:  # They test the residual of the normal equations.
            right, aim = (self._normal_product(direction, row) for row in (right, aim))
        target = rtol * self._norm_of(direction, aim, norm)
        if target == absolute == 0.0 and not zero_rows(self._comm, aim[None])[0]:
            raise errors.vanished(direction.name, self.method, direction.level)
        self._require_finite(direction, target)
        if ksp.getType() not in RELATIVE_KSPS and not is_transforming:
            ksp.setTolerances(rtol=0.0, atol=max(target, absolute))
            return True
        # Richardson's method may delegate its iterations to a preconditioner, which uses the
        # unpreconditioned norm.
        plain = PETSc.KSP.NormType.UNPRECONDITIONED
        targets = target, rtol * self._norm_of(direction, aim, plain)
        found = [self._norm_of(direction, right, kind) for kind in (norm, plain)]
        self._require_finite(direction, *targets, *found)
        ratios = [t / n for t, n in zip(targets, found, strict=True) if n > t]
        if ratios:
            ksp.setTolerances(rtol=min(ratios))
        return bool(ratios)

    def _require_finite(self, direction: Direction, *norms: float) -> None:
        if not np.isfinite(norms).all():
            reason = PETSc.KSP.ConvergedReason.DIVERGED_NANORINF
            raise errors.failed_solve(direction.name, self.method, reason, 0, direction.level)
