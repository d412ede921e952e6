"""Newton's method for one Jacobian, by PETSc's SNES."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.distributed.collective import share_or_end_job
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.errors import SolveError
from prdp_hpc.linalg.nonlinear.errors import bad_start, failed_newton, reason_name
from prdp_hpc.linalg.nonlinear.inner import linear_solve
from prdp_hpc.linalg.nonlinear.jacobians import collective
from prdp_hpc.linalg.nonlinear.levels import Levels
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import (
    meaningless,
    new_prefix,
    refused,
    remove_options,
    set_options,
    unused_options,
)
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import Array, to_host
from prdp_hpc.petsc import PETSc

MOST_ITERATIONS = 50
ROUNDING = 1e-14
"""A Newton step, relative to the unknowns, that is rounding only."""
SMALL_STEP = 1e-9
"""A relative step below which a failed line search means that only rounding is left."""

Function = Callable[[Tensor], Tensor]


@dataclass
class _Run:
    """The data of one solve.

    Attributes
    ----------
    function : the residual of `u (n_local,)`.
    load : loads the Jacobian at u into the operator.
    levels : the levels of the solve.
    first : the residual at the start, until it is used.
    start : its norm.
    failure : an exception of the user's code.
    linear_failure : the error of a linear solve.
    """

    function: Function
    load: Callable[[Tensor], None]
    levels: Levels
    first: Tensor | None
    start: float = 0.0
    failure: BaseException | None = None
    linear_failure: SolveError | None = None


class Newton:
    """A SNES whose linear systems are solved by a `Solver`; all methods are collective.

    Its KSP applies a Python preconditioner once, which calls the solver. So the features of the
    solver (fixed numbers of iterations, checks, counting, one preconditioner for forward and
    adjoint solves) are available in Newton's method. The tolerances of Eisenstat and Walker are
    those that SNES sets on that KSP.
    """

    def __init__(self, operator: Operator, solver: Solver, options: Mapping[str, Any]) -> None:
        self.broken = False
        self._operator, self._solver = weakref.ref(operator), solver
        self._comm, self._n_local = operator.comm, operator.n_local
        self._run: _Run | None = None
        self._x, self._residual = operator.matrix.createVecRight(), operator.matrix.createVecLeft()
        self._options, self._prefix = dict(options), new_prefix()
        self._snes = PETSc.SNES().create(comm=operator.comm)
        names = set_options(self._prefix, options)
        weakref.finalize(self, remove_options, names)
        self._configure(operator)
        self._max_it = int(self._snes.getTolerances()[3])
        if not any(key.lstrip("-") == "snes_max_it" for key in options):
            self._max_it = MOST_ITERATIONS

    def _configure(self, operator: Operator) -> None:
        snes, callbacks = self._snes, _Callbacks(self)
        snes.setOptionsPrefix(self._prefix)
        snes.setType(PETSc.SNES.Type.NEWTONLS)
        # SNES makes the line search at its first use.
        snes.getLineSearch()
        self._ksp = snes.getKSP()
        try:
            snes.setFromOptions()
        except PETSc.Error as error:
            raise refused(self._options, error) from error
        self._ksp.setType(PETSc.KSP.Type.PREONLY)
        self._pc = self._ksp.getPC()
        self._pc.setType(PETSc.PC.Type.PYTHON)
        self._pc.setPythonContext(_InnerSolve(self))
        snes.setFunction(callbacks.function, self._residual)
        snes.setJacobian(callbacks.jacobian, operator.matrix)
        snes.setConvergenceTest(callbacks.test)

    @property
    def operator(self) -> Operator:
        """The operator whose matrix is the Jacobian."""
        operator = self._operator()
        assert operator is not None, "the operator was freed before its SNES"
        return operator

    @property
    def run(self) -> _Run:
        """The current solve."""
        assert self._run is not None
        return self._run

    def solve(
        self, function: Function, load: Callable[[Tensor], None], u0: Tensor, levels: Levels
    ) -> Tensor:
        """The solution from the start `u0 (n_local,)`.

        Raises
        ------
        NonlinearSolveError
            With SNES's reason, the Newton iteration, the level and what to try; on all ranks.
        """
        report = self._solver.report
        with report.part("forward", "assembly"), torch.no_grad():
            first = self._start(function, u0)
            report.forward.nonlinear_solves += 1
            report.forward.function_evaluations += 1
            self._run = _Run(function, load, levels, first)
            try:
                return self._solve(u0)
            finally:
                self._run = None

    def _start(self, function: Function, u0: Tensor) -> Tensor:
        """The residual at the start, before PETSc is called, so that errors of it are simple."""
        if anywhere(self._comm, has_bad_numbers(to_host(u0))):
            raise bad_start(in_guess=True)
        first: Tensor = collective(self._comm, lambda: function(u0))
        if anywhere(self._comm, has_bad_numbers(to_host(first))):
            raise bad_start(in_guess=False)
        return first

    def _solve(self, u0: Tensor) -> Tensor:
        snes, levels, counters = self._snes, self.run.levels, self._solver.report.forward
        max_it = levels.newton.max_it
        snes.setTolerances(rtol=0.0, atol=0.0, stol=0.0, max_it=max_it or self._max_it)
        snes.setUseEW(levels.inner is None)
        self._x.setArray(to_host(u0))
        before = counters.function_evaluations
        try:
            snes.solve(None, self._x)
        except PETSc.Error as error:
            raise self._failure(error) from error
        except BaseException:
            self._discard()
            raise
        iterations = int(snes.getIterationNumber())
        counters.newton_iterations += iterations
        counters.line_search_evaluations += max(
            counters.function_evaluations - before - iterations, 0
        )
        self._check_options()
        self._check_result(snes.getConvergedReason(), iterations)
        return torch.from_numpy(self._x.getArray(readonly=True).copy())

    def _check_result(self, code: int, iterations: int) -> None:
        if code >= 0:
            return
        run, level = self.run, self.run.levels.newton
        stuck = reason_name(code) in ("DIVERGED_LINE_SEARCH", "DIVERGED_LOCAL_MIN")
        if stuck and run.linear_failure is None and (level.max_it is not None or self._is_solved()):
            return
        norm = float(self._snes.getFunctionNorm())
        raise failed_newton(
            code, iterations, norm / run.start if run.start else norm, level, run.linear_failure
        )

    def _is_solved(self) -> bool:
        """Whether the last Newton step was rounding only."""
        step, size = self._snes.getSolutionUpdate().norm(), self._x.norm()
        return bool(step <= SMALL_STEP * size)

    def evaluate(self, x: Any, result: Any) -> None:
        """Compute the residual at PETSc's vector."""
        run = self.run
        if run.first is not None:
            # SNES evaluates the residual at the start first.
            result.setArray(to_host(run.first))
            run.first = None
            return
        self._solver.report.forward.function_evaluations += 1
        found = collective(self._comm, lambda: run.function(_tensor(x)))
        result.setArray(to_host(found))

    def is_converged(self, iteration: int, size: float, step: float, norm: float) -> int:
        """PETSc's code of the reason to stop, or 0."""
        run, level, reasons = self.run, self.run.levels.newton, PETSc.SNES.ConvergedReason
        if iteration == 0:
            run.start = norm
        if norm == 0.0:
            return int(reasons.CONVERGED_FNORM_ABS)
        if level.rtol is not None and norm <= level.rtol * run.start:
            return int(reasons.CONVERGED_FNORM_RELATIVE)
        if iteration and step <= ROUNDING * size:
            return int(reasons.CONVERGED_SNORM_RELATIVE)
        if level.max_it is not None and iteration >= level.max_it:
            return int(reasons.CONVERGED_ITS)
        return 0

    def solve_linear(self, right: Array) -> Array | None:
        """A Newton step; None if the linear solve failed on all ranks."""
        level = self.run.levels.inner or Refinement(rtol=float(self._ksp.getTolerances()[0]))
        try:
            return linear_solve(self.operator, self._solver, "forward", right, level)
        except SolveError as error:
            self.run.linear_failure = error
            return None

    def _check_options(self) -> None:
        """Raise InputError for options that are unused at the end of the first solve."""
        unused = unused_options(self._prefix, self._options)
        self._options = {}
        if unused:
            self.broken = True
            raise meaningless(unused, "SNES of type 'newtonls'")

    def _failure(self, error: Any) -> BaseException:
        """The exception for a PETSc call that failed: that of the user's code if it was the cause.
        Ends the job if other ranks wait inside the call.
        """
        self._discard()
        failure = self.run.failure or self.operator.failure
        self.operator.failure = None
        if failure is None:
            text = str(error).strip().splitlines()[-1].strip()
            failure = SolveError(f"nonlinear solve failed inside PETSc: {text}")
        if isinstance(failure, Exception):
            share_or_end_job(self._comm, failure)
        # Else as in `PreconditionerSetUp.failure`.
        return failure

    def _discard(self) -> None:
        """Mark this SNES for replacement before the next solve; it is never freed, because PETSc
        aborts when it frees a SNES that failed inside a call.
        """
        if not self.broken:
            self.broken = True
            for kept in (self._snes, self._x, self._residual):
                PETSc.Object.incRef(kept)


class _Callbacks:
    """The callbacks of SNES; PETSc manual pages: SNESSetFunction, SNESSetJacobian."""

    def __init__(self, newton: Newton) -> None:
        # SNES owns this object: a strong reference to Newton would be a cycle, never freed.
        self._newton = weakref.ref(newton)

    def _call(self, call: Callable[[Newton], Any]) -> Any:
        newton = self._newton()
        assert newton is not None
        try:
            return call(newton)
        except BaseException as error:
            newton.run.failure = newton.run.failure or error
            raise

    def function(self, snes: Any, x: Any, result: Any) -> None:
        self._call(lambda newton: newton.evaluate(x, result))

    def jacobian(self, snes: Any, x: Any, matrix: Any, preconditioner: Any) -> None:
        self._call(lambda newton: newton.run.load(_tensor(x)))

    def test(self, snes: Any, iteration: int, norms: tuple[float, float, float]) -> int:
        found: int = self._call(lambda newton: newton.is_converged(iteration, *norms))
        return found


class _InnerSolve:
    """The preconditioner of SNES's KSP; PETSc manual page: PCPYTHON."""

    def __init__(self, newton: Newton) -> None:
        self._newton = weakref.ref(newton)

    def setUp(self, pc: Any) -> None:
        """Nothing to do: the solver sets up its own preconditioner."""

    def apply(self, pc: Any, right: Any, result: Any) -> None:
        newton = self._newton()
        assert newton is not None
        try:
            pc.setFailedReason(PETSc.PC.FailedReason.NOERROR)
            step = newton.solve_linear(np.array(right.getArray(readonly=True)))
        except BaseException as error:
            newton.run.failure = newton.run.failure or error
            raise
        if step is None:
            result.set(0.0)
            pc.setFailedReason(PETSc.PC.FailedReason.SUBPC_ERROR)
        else:
            result.setArray(step)


def _tensor(x: Any) -> Tensor:
    return torch.from_numpy(x.getArray(readonly=True).copy())
