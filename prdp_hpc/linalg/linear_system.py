"""Solves with one operator, forward and adjoint, which share one preconditioner."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.adopted_ksp import adopted_pair
from prdp_hpc.linalg.arrays import Numbers, as_tensor, copied, set_rows, times_power_of_two
from prdp_hpc.linalg.inverses import BatchedInverse
from prdp_hpc.linalg.ksp_level import NEVER, apply_level, maximum, rounding, set_level
from prdp_hpc.linalg.ksp_pair import Direction, create_pair, forget
from prdp_hpc.linalg.method_types import (
    NORM_KSPS,
    ONE_APPLICATION_KSPS,
    OWN_PRECONDITIONERS,
    STATIONARY_KSPS,
    SYMMETRIC_KSPS,
    SYMMETRIC_PCS,
    UNGUARDED_KSPS,
    WITHOUT_PRODUCTS,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.preconditioner_set_up import PreconditionerSetUp
from prdp_hpc.linalg.products import BatchedProduct
from prdp_hpc.linalg.reductions import longer_rows, zero_rows
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.residual_checks import CHECKED_AT_THE_END
from prdp_hpc.linalg.scaling import (
    ORDINARY,
    ORDINARY_OF,
    exponents_of,
    ordinary_squares,
    scaled_guess,
)
from prdp_hpc.linalg.torch_petsc import call_on_arrays
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.solver import Solver


class LinearSystem(PreconditionerSetUp):
    """The two KSPs of one solver for one operator, with their solves and checks."""

    def __init__(self, operator: Operator, solver: Solver) -> None:
        if solver.shell is None:
            operator.check_preconditioner(solver.pc)
        self.broken = False
        self._operator = weakref.ref(operator)
        self._report, self._comm = solver.report, operator.comm
        self._matrix, self._memory = operator.matrix, operator.memory
        self._nullspaces = operator.nullspaces
        self._names, self._shell = (solver.ksp, solver.pc), solver.shell
        self._has_source = operator.preconditioner is not None
        self._made_for = operator.preconditioning_operator.matrix
        # A preconditioner that reads one triangle is symmetric, for any A.
        by_triangle = solver.pc in SYMMETRIC_PCS and not self._has_source
        transposed = not (operator.symmetric or solver.ksp in SYMMETRIC_KSPS or by_triangle)
        # Vectors without memory, into which the caller's arrays are placed.
        self._b, self._x = self._matrix.createVecLeft(), self._matrix.createVecRight()
        self._residual = self._matrix.createVecLeft()
        make = create_pair if solver.adopted is None else adopted_pair
        self._pair = make(operator, solver, transposed)
        self._read_types()
        self._prepare_lag(solver.lag_preconditioner)
        self._needs_second_set_up = bool(self._memory.kind) and solver.pc == "mg"
        self._codes = []
        self._aims: Numbers | None = None  # what tolerances refer to in solves for corrections
        ordinary = ORDINARY_OF.get(self.ksp_name, ORDINARY)
        self._ordinary = ordinary_squares(int(self._b.getLocalSize()), ordinary)
        for direction in (self._pair.forward, self._pair.adjoint):
            direction.is_plain = self._is_plain(direction)
        self._use(self._pair.forward, solver.refinement)
        self._use(self._pair.adjoint, solver.adjoint)

    def _read_types(self) -> None:
        """Note the types, which a user may change between solves on an own KSP."""
        (ksp, pc), pair = self._names, self._pair
        is_own = pc in OWN_PRECONDITIONERS or self._shell is not None
        self.ksp_name = ksp if ksp == "steepest_descent" else str(pair.forward.ksp.getType())
        self.pc_name = pc if is_own else str(pair.preconditioner.getType())
        # Whether a fixed number of iterations ends early when only rounding is left. On a singular
        # matrix further Krylov iterations break down: through rounding, the directions get an
        # unbounded part in the nullspace.
        singular = self._nullspaces is not None and self.ksp_name not in STATIONARY_KSPS
        self._stops_at_rounding = singular or self.ksp_name in UNGUARDED_KSPS | NORM_KSPS

    @property
    def forward_ksp(self) -> Any:
        """The KSP of forward solves."""
        return self._pair.forward.ksp

    @property
    def preconditioner(self) -> Any:
        """The PC of both KSPs."""
        return self._pair.preconditioner

    def is_made_for(self, operator: Operator) -> bool:
        """Whether the preconditioner is made from the matrix that the operator specifies now."""
        pair = operator.preconditioner
        return (operator if pair is None else pair.operator).matrix is self._made_for

    @cached_property
    def product(self) -> BatchedProduct:
        """Products with the matrix."""
        operator = self._operator()
        symmetric = operator is not None and operator.symmetric
        return BatchedProduct(self._matrix, symmetric, self._memory)

    @cached_property
    def inverse(self) -> BatchedInverse:
        """Applications of the preconditioner."""
        return BatchedInverse(self.preconditioner, self._pair.pmat, self._memory)

    def set_level(self, direction: str, level: Refinement) -> None:
        """Set the level of the next solves in one direction, which the solver or a solve owns."""
        own = self._pair.directions[direction]
        if self._pair.is_one_ksp:
            self._read_types()
        if level is not own.level and level != own.level:
            self._use(own, level)

    def _use(self, direction: Direction, level: Refinement) -> None:
        method = self.ksp_name, self.pc_name
        set_level(self._pair, direction, level, method, self._stops_at_rounding)
        direction.is_unchecked = level.is_fixed and self.ksp_name not in CHECKED_AT_THE_END

    def _is_plain(self, direction: Direction) -> bool:
        """Whether a right-hand side of ordinary size is solved by one call of the KSP."""
        has_more = self._pair.is_one_ksp or self._lag is not None or self._nullspaces is not None
        return not has_more and not (direction.transposed and self._lacks_transpose())

    def _apply_level(self, direction: Direction) -> None:
        apply_level(self._pair, direction, self.ksp_name, self._stops_at_rounding)

    def solve(
        self,
        direction: str,
        b: Numbers,
        x: Numbers,
        guess: Numbers | None = None,
        is_guarded: bool = False,
        squares: Sequence[float] | None = None,
    ) -> int:
        """Solve for each row of `b (B, n_local)` into `x`; collective. Returns the iterations of
        the last solve. The caller counts the time.

        `guess (B, n_local)`: where to start; a guarded guess is not used where its residual is
        larger than that of zero. `squares`: the squared length of each row on this rank, if known.

        Raises
        ------
        SolveError
            With the KSP's reason, the iteration, the level and what to try.
        """
        own = self._pair.directions[direction]
        if self._pair.is_one_ksp:
            self._apply_level(own)
        is_scaled = self._is_to_be_scaled(own)
        ordinary = ORDINARY_OF.get(self.ksp_name, ORDINARY)
        exponents = exponents_of(self._comm, b, ordinary, squares) if is_scaled else None
        if exponents is None:
            return self._solve_in_range(own, b, x, guess, is_guarded)
        if guess is not None:
            guess = scaled_guess(self._comm, guess, exponents)
        right = times_power_of_two(b, exponents, -1)
        iterations = self._solve_in_range(own, right, x, guess, is_guarded)
        x[:] = times_power_of_two(x, exponents)
        return iterations

    def solve_vector(self, direction: str, b: Numbers, x: Numbers, square: float) -> int:
        """`solve` for one right-hand side `(n_local,)` on one rank, from zero, with as few calls as
        possible: they take as long as iterations with a small matrix. `square`: the squared length
        of b.
        """
        own, (least, most) = self._pair.directions[direction], self._ordinary
        if not (own.is_plain and least <= square <= most):
            return self.solve(direction, b[None], x[None], squares=[square])
        try:
            self._on_arrays(own, b, x)
            iterations, code = own.ksp.getIterationNumber(), own.ksp.getConvergedReason()
            self._codes = [code]
            self._count(own, 1, iterations)
            if code < 0 or not own.is_unchecked:
                self._check_end(own, code, iterations, b, x, None)
        except PETSc.Error as error:
            raise self.failure(direction, error) from error
        return int(iterations)

    def require_solution(self, direction: str, b: Numbers, x: Numbers, row: int) -> None:
        """Raise SolveError for a suspicious solution `x (1, n_local)` that does not solve for `b`,
        unless the last solve for that row of b ended at the level's iterations; collective.
        """
        if self._codes[row] in (errors.MAX_IT, errors.ALL_ITERATIONS):
            return
        own, spaces = self._pair.directions[direction], self._nullspaces
        exponents = exponents_of(self._comm, b)
        if exponents is not None:
            b, x = (times_power_of_two(rows, exponents, -1) for rows in (b, x))
        if spaces is not None:
            b = spaces.of_right_hand_side(own.name == "adjoint").removed_from(b)
        self._check_solution(own, b[0], x[0])

    def _is_to_be_scaled(self, direction: Direction) -> bool:
        """Whether right-hand sides of extreme size are scaled, because inner products would
        overflow; not if the user set an absolute tolerance.
        """
        is_fixed = direction.level.is_fixed
        if is_fixed and self.ksp_name in WITHOUT_PRODUCTS and self.pc_name != PETSc.PC.Type.KSP:
            return False
        return not direction.has_absolute_tolerance

    def _solve_in_range(
        self, direction: Direction, b: Numbers, x: Numbers, guess: Numbers | None, is_guarded: bool
    ) -> int:
        """Solve without the parts of b, the guess and x in the nullspaces."""
        adjoint, spaces = direction.name == "adjoint", self._nullspaces
        right = b if spaces is None else spaces.of_right_hand_side(adjoint).removed_from(b)
        if guess is None:
            iterations = self._solve_each(direction, right, x)
        else:
            iterations = self._solve_from(direction, right, x, guess, is_guarded)
        if spaces is not None:
            x[:] = spaces.of_result(adjoint).removed_from(x)
        return iterations

    def _solve_from(
        self, direction: Direction, b: Numbers, x: Numbers, guess: Numbers, is_guarded: bool
    ) -> int:
        """`x = g + A⁻¹ (b − A g)`, for any method; a tolerance still refers to b."""
        adjoint, spaces = direction.name == "adjoint", self._nullspaces
        start = copied(guess) if spaces is None else spaces.of_result(adjoint).removed_from(guess)
        # The solution for a right-hand side of 0 is 0.
        set_rows(start, zero_rows(self._comm, b), 0.0)
        rest = b - self._product(direction, start)
        if is_guarded:
            worse = longer_rows(self._comm, rest, b)
            set_rows(start, worse, 0.0)
            set_rows(rest, worse, b)
        if spaces is not None:
            rest = spaces.of_right_hand_side(adjoint).removed_from(rest)
        self._aims = b
        try:
            iterations = self._solve_each(direction, rest, x)
        finally:
            self._aims = None
        x += start
        if self._is_rounded(direction, b, rest, x):
            iterations += self._solve_from(direction, b, x, copied(x), False)
        return iterations

    def _product(self, direction: Direction, x: Numbers) -> Numbers:
        try:
            product = self.product(as_tensor(x), direction.transposed)
        except PETSc.Error as error:
            raise self.failure(direction.name, error) from error
        return product if isinstance(x, Tensor) else product.numpy()

    def _solve_each(self, direction: Direction, b: Numbers, x: Numbers) -> int:
        """Solve for right-hand sides in the range of the matrix; a failure with a lagged
        preconditioner is repeated with a new one.
        """
        if direction.transposed:
            self._check_transposed(direction)
        if self._lag is None:
            return self._solve_rows(direction, b, x)
        solves, self._costs = self._report.counters(direction.name).solves, []
        try:
            iterations = self._solve_rows(direction, b, x)
            if self._is_trusted(direction, b, x):
                return iterations
        except errors.SolveError:
            if self.broken or not self._lag.is_stale:
                raise
        self.set_up_anew(direction.name)
        self._costs = []
        self._report.counters(direction.name).solves = solves
        iterations = self._solve_rows(direction, b, x)
        self._is_trusted(direction, b, x)
        return iterations

    def _solve_rows(self, direction: Direction, b: Numbers, x: Numbers) -> int:
        iterations, multi_rhs, self._codes = 0, self._pair.multi_rhs, []
        try:
            if multi_rhs is not None and multi_rhs.solves(direction.level, len(b)):
                max_it = int(direction.level.max_it or 0)
                if multi_rhs.solve(b, x, max_it, direction.transposed):
                    self._count(direction, len(b), max_it * len(b))
                    return max_it
            # By index: the end of an iteration over an array takes longer than a small product.
            one = self._solve_row if self._aims is None else self._correct_row
            for row in range(len(b)):
                iterations = one(direction, b, x, row)
        except PETSc.Error as error:
            raise self.failure(direction.name, error) from error
        return iterations

    def _solve_row(self, direction: Direction, b: Numbers, x: Numbers, row: int) -> int:
        right, result = b[row], x[row]
        self._on_arrays(direction, right, result)
        return self._ended(direction, right, result, None)

    def _correct_row(self, direction: Direction, b: Numbers, x: Numbers, row: int) -> int:
        """Solve for a correction, unless it is zero at the original right-hand side's tolerance."""
        assert self._aims is not None
        right, result, aim = b[row], x[row], self._aims[row]
        absolute = float(direction.ksp.getTolerances()[1])
        if not self._is_left_to_do(direction, right, aim, absolute):
            result[:] = 0.0
            self._count(direction, 1, 0)
            self._codes.append(0)
            return 0
        try:
            self._on_arrays(direction, right, result)
        finally:
            self._apply_level(direction)
            direction.ksp.setTolerances(atol=absolute)
        return self._ended(direction, right, result, aim)

    def _ended(
        self, direction: Direction, right: Numbers, result: Numbers, aim: Numbers | None
    ) -> int:
        """Count a solve and check its result, see `_check_end`; returns the iterations."""
        ksp = direction.ksp
        iterations, code = int(ksp.getIterationNumber()), ksp.getConvergedReason()
        self._count(direction, 1, iterations)
        self._codes.append(code)
        self._check_end(direction, code, iterations, right, result, aim)
        if self._lag is not None:
            self._note_cost(direction, iterations)
        return iterations

    def _check_end(
        self,
        direction: Direction,
        code: int,
        iterations: int,
        right: Numbers,
        result: Numbers,
        aim: Numbers | None,
    ) -> None:
        """Raise SolveError unless the result of a solve, which stopped with a code, is right.
        `aim`: the original right-hand side, if the solve is for a correction.
        """
        whole = right if aim is None else aim
        code = self._without_false_success(direction, code)
        if code < 0:
            repeated = self._repeated(direction, code, right, result)
            self._check_result(direction, code, repeated, iterations, right, result, whole)
        elif direction.level.rtol is None:
            self._check_early_end(direction, code, iterations, right, result, whole)
        elif iterations == 0:
            if aim is None:
                self._check_no_iteration(direction, right)
        elif self.ksp_name in ONE_APPLICATION_KSPS:
            self._check_application(direction, right, result, whole)
        elif code == errors.ALL_ITERATIONS or self._reached_absolute(direction, code):
            return
        elif self._is_to_be_checked(direction):
            self._check_recurrence(direction, iterations, right, result, whole)

    def _count(self, direction: Direction, solves: int, iterations: int) -> None:
        counters = self._report.counters(direction.name)
        counters.solves += solves
        counters.iterations += iterations

    def _on_arrays(self, direction: Direction, right: Numbers, result: Numbers) -> None:
        """Run the KSP on vectors that use these numbers."""
        ksp = direction.ksp
        if self._pair.is_stateful:
            forget(ksp)
        run = ksp.solveTranspose if direction.transposed else ksp.solve
        call_on_arrays(run, (self._b, right), (self._x, result))

    def _repeated(self, direction: Direction, code: int, right: Numbers, result: Numbers) -> int:
        """Repeat a solve that broke down without computing a norm; returns its code.

        It stops when only rounding is left, at most after the fixed number of iterations. PETSc's
        GMRES breaks down where the Krylov space ends, and then does not build the solution.
        """
        ksp = direction.ksp
        fixed = direction.level.is_fixed
        if not fixed or errors.is_set_up_failure(code) or self._stops_at_rounding:
            return code
        ksp.setNormType(direction.norm)
        ksp.setConvergenceTest(None)
        max_it = maximum(self.ksp_name, direction.level.max_it, self._pair.max_it, direction.norm)
        ksp.setTolerances(rtol=rounding(self.ksp_name), divtol=NEVER, max_it=max_it)
        try:
            self._on_arrays(direction, right, result)
            return int(ksp.getConvergedReason())
        finally:
            self._apply_level(direction)
