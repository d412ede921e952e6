"""Applications of a PETSc preconditioner, and of its transpose, to batches of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import Numbers, empty_like, inner
from prdp_hpc.linalg.promises import SINGLE
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.torch_petsc import HOST, Memory, placed, to_memory

ROUNDING = 1e-10
"""Relative difference of `⟨u, M⁻¹ v⟩` and `⟨v, M⁻ᵀ u⟩` that is attributed to rounding."""


class BatchedInverse:
    """`M⁻¹ r` and `M⁻ᵀ r` of a PC that is set up; collective.

    A symmetric matrix need not have a symmetric preconditioner: restricted additive Schwarz and a
    forward sweep of SOR are not symmetric. Some symmetric preconditioners have no transposed
    application in PETSc (SOR on a matrix without the option MAT_SYMMETRIC), and one has a wrong
    application (3.26: restricted additive Schwarz with several blocks on a rank). Therefore the
    symmetry of M is tested with random vectors, and not derived from the matrix or the type of the
    PC; it is tested after each change of the matrix while M is symmetric. PETSc manual page:
    PCApplyTranspose.
    """

    def __init__(self, pc: Any, matrix: Any, memory: Memory = HOST) -> None:
        self._pc, self._matrix = pc, matrix
        self._comm = matrix.comm.tompi4py()
        self._vectors = matrix.createVecs()
        draw = np.random.default_rng(self._comm.rank)
        random = draw.standard_normal((2, 1, matrix.getLocalSize()[0]))
        self._u, self._v = (to_memory(one, memory) for one in random)
        self._linear: bool | None = None
        self._uses_transposed = False
        self._checked_state = -1

    def why_not_transposed(self) -> str | None:
        """Determine how M⁻ᵀ is applied; None, or the reason why it cannot be. Collective.

        Raises
        ------
        PETSc.Error
            Where M is not symmetric and PETSc refuses to apply its transpose.
        """
        state = self._matrix.stateGet()
        if self._uses_transposed or state == self._checked_state:
            return None
        mu, mv = self._run(self._pc.apply, self._u), self._run(self._pc.apply, self._v)
        if not self._is_linear(mu, mv):
            return "it is not linear: it iterates until a tolerance, or with a Krylov method"
        if not self._are_adjoint(mv, mu, 0.0):
            transposed = self._run(self._pc.applyTranspose, self._u)
            if not self._are_adjoint(mv, transposed, self._noise(mv)):
                return "PETSc's transposed application of it is not its transpose"
            # This depends on the method and its options, not on the values of the matrix.
            self._uses_transposed = True
        self._checked_state = state
        return None

    def require_symmetric(self, method: str, is_single: Callable[[], bool]) -> None:
        """Raise InputError on all ranks unless `⟨u, M⁻¹ v⟩ = ⟨v, M⁻¹ u⟩`; collective.

        `method`: names of KSP and PC; `is_single`: returns whether this rank's values were
        converted from single precision, called only if rounding does not explain a difference.
        """
        if anywhere(self._comm, bool(self._pc.getFailedReason())):
            return  # The solve raises the error.
        mu, mv = self._run(self._pc.apply, self._u), self._run(self._pc.apply, self._v)
        if self._are_adjoint(mv, mu, 0.0):
            return
        tolerance = SINGLE if anywhere(self._comm, is_single()) else ROUNDING
        if not self._are_adjoint(mv, mu, self._noise(mv), tolerance):
            raise errors.not_symmetric_inverse(method)

    def __call__(self, right: Numbers, transposed: bool = False) -> Numbers:
        """For each row of `(B, n_local)`, in a new array; transposed only after
        `why_not_transposed`.
        """
        return self.applied(right, transposed and self._uses_transposed)

    def applied(self, right: Numbers, by_transposed: bool) -> Numbers:
        """The result of PETSc's (transposed) application to each row of `(B, n_local)`."""
        return self._run(self._pc.applyTranspose if by_transposed else self._pc.apply, right)

    def _is_linear(self, mu: Numbers, mv: Numbers) -> bool:
        if self._linear is None:
            off = self._length(self._run(self._pc.apply, self._u + self._v) - mu - mv)
            size = ROUNDING * (self._length(mu) + self._length(mv))
            self._linear = off <= size or off <= size + self._noise(mv)
        return self._linear

    def _noise(self, mv: Numbers) -> float:
        """An upper estimate of the rounding error of `M⁻¹ v`, which an exact inverse of an
        ill-conditioned matrix amplifies.
        """
        again = self._run(self._pc.apply, 3.0 * self._v) / 3.0
        return 100.0 * self._length(mv - again)

    def _are_adjoint(
        self, mv: Numbers, mu: Numbers, noise: float, tolerance: float = ROUNDING
    ) -> bool:
        """Whether `⟨u, M⁻¹ v⟩ = ⟨v, mu⟩`, which holds for `mu = M⁻ᵀ u`; `noise`: of `M⁻¹ v`."""
        sums = np.array([inner(self._u, mv), inner(self._v, mu)])
        self._comm.Allreduce(MPI.IN_PLACE, sums)
        u, v = self._length(self._u), self._length(self._v)
        size = u * self._length(mv) + v * self._length(mu)
        return bool(abs(sums[0] - sums[1]) <= tolerance * size + noise * u)

    def _length(self, x: Numbers) -> float:
        return float(np.sqrt(self._comm.allreduce(inner(x, x), op=MPI.SUM)))

    def _run(self, apply: Any, right: Numbers) -> Numbers:
        result = empty_like(right)
        source, target = self._vectors
        for row, out in zip(right, result, strict=True):
            with placed((source, row), (target, out)):
                apply(source, target)
        return result
