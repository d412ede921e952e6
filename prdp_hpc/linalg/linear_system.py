"""Forward and adjoint KSP with one preconditioner between them."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prdp_hpc.distributed.collective import RemoteError, raise_together, tell_or_end_job
from prdp_hpc.errors import InputError
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.bad_rows import bad_row, zero_diagonal
from prdp_hpc.linalg.fixed_iterations import allow_skipping_the_norm
from prdp_hpc.linalg.inverses import BatchedInverse
from prdp_hpc.linalg.method_types import (
    DIAGONAL_PCS,
    DIRECT_PCS,
    MIRRORED_KSPS,
    NATURAL_NORM_KSPS,
    NO_TRANSPOSE_KSPS,
    NO_TRANSPOSE_PCS,
    ONE_APPLICATION_KSPS,
    OWN_PRECONDITIONERS,
    RECURRENCE_KSPS,
    STATIONARY_KSPS,
    SYMMETRIC_KSPS,
    SYMMETRIC_PCS,
    UNGUARDED_KSPS,
    WITHOUT_PRODUCTS,
)
from prdp_hpc.linalg.multi_rhs import multi_rhs_richardson
from prdp_hpc.linalg.multigrid import attach_hierarchy
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import (
    ADJOINT,
    check_owned,
    meaningless,
    new_prefix,
    refused,
    remove_options,
    repeatable,
    set_options,
    take_options,
    unused_options,
)
from prdp_hpc.linalg.products import BatchedProduct
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.linalg.report import Counters
from prdp_hpc.linalg.residual_checks import ResidualChecks
from prdp_hpc.linalg.scaling import exponents_of, times_power_of_two
from prdp_hpc.linalg.steepest_descent import line_search
from prdp_hpc.linalg.torch_petsc import Array, placed
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.solver import Solver

# A relative residual by which a Krylov method is stopped where only rounding is left.
ROUNDING = 1e-14
# A growth of the residual that no solve reaches.
NEVER = 1e150


class LinearSystem(ResidualChecks):
    """The two KSPs of one solver for one operator."""

    def __init__(self, operator: Operator, solver: Solver) -> None:
        operator.check_preconditioner(solver.pc)
        # Set when a PETSc call failed half-way: locks and counts inside the KSP are then wrong.
        self.broken = False
        self._operator = weakref.ref(operator)
        self._report, self._comm = solver.report, operator.comm
        self._matrix = operator.matrix
        self._nullspaces = operator.nullspaces
        self._names = solver.ksp, solver.pc
        self._transposed = not (
            operator.symmetric or solver.ksp in SYMMETRIC_KSPS or solver.pc in SYMMETRIC_PCS
        )
        self._state = -1
        # These only carry arrays that belong to the caller.
        self._b, self._x = self._matrix.createVecLeft(), self._matrix.createVecRight()
        self._residual = self._matrix.createVecLeft()
        self._prefix = new_prefix()
        self._ksps = {"forward": self._create_ksp(operator, solver)}
        self._norms = {"forward": self._ksps["forward"].getNormType()}
        self._divtol = self._ksps["forward"].getTolerances()[2]
        self._ksps["adjoint"] = self._create_adjoint()

    def _create_ksp(self, operator: Operator, solver: Solver) -> Any:
        check_owned(solver.petsc_options)
        ksp = PETSc.KSP().create(comm=operator.comm)
        try:
            self._configure(ksp, operator, solver)
        except Exception:
            PETSc.Object.incRef(ksp)  # As in `_give_up`.
            raise
        return ksp

    def _configure(self, ksp: Any, operator: Operator, solver: Solver) -> None:
        # The prefix comes first: the levels of a hierarchy, and the parts of a split, take it over
        # when they are made.
        ksp.setOptionsPrefix(self._prefix)
        ksp.setOperators(self._matrix)
        if solver.ksp == "steepest_descent":
            self.preconditioner = line_search(ksp)
        else:
            ksp.setType(solver.ksp)
            self.preconditioner = ksp.getPC()
        pc = self.preconditioner
        if solver.pc not in OWN_PRECONDITIONERS:
            pc.setType(solver.pc)
        operator.attach_preconditioner(pc, solver.pc)
        hierarchy = attach_hierarchy(pc, operator, self._transposed) if solver.pc == "mg" else {}
        # No right-hand side is too small to be solved for.
        ksp.setTolerances(atol=0.0)
        self._take_options(
            ksp, {**hierarchy, **repeatable(solver.pc, solver.petsc_options)}, solver
        )
        self._can_skip_norm = self._allow_skipping_the_norm(ksp, solver)
        self._stacked = multi_rhs_richardson(ksp, self._matrix)

    def _allow_skipping_the_norm(self, ksp: Any, solver: Solver) -> bool:
        try:
            return allow_skipping_the_norm(ksp)
        except PETSc.Error as error:
            # A side or a norm that the method does not have, which PETSc notices only now.
            raise refused(solver.petsc_options, error) from error

    def _take_options(self, ksp: Any, defaults: dict[str, Any], solver: Solver) -> None:
        options = {**defaults, **solver.petsc_options}
        names = set_options(self._prefix, options)
        weakref.finalize(self, remove_options, names)
        self._unchecked_options = dict(solver.petsc_options)
        take_options(ksp, options)

    def _create_adjoint(self) -> Any:
        forward = self._ksps["forward"]
        ksp = PETSc.KSP().create(comm=forward.comm)
        ksp.setType(forward.getType())
        # Its options are read without the preconditioner, which has read its own.
        ksp.getPC().setType(PETSc.PC.Type.NONE)
        ksp.setTolerances(atol=0.0)
        for prefix in (self._prefix, self._prefix + ADJOINT):
            ksp.setOptionsPrefix(prefix)
            take_options(ksp, self._unchecked_options)
        ksp.setPC(forward.getPC())
        side = forward.getPCSide()
        ksp.setPCSide(side)
        self._norms["adjoint"] = self._norms["forward"]
        if self._transposed and side == PETSc.PC.Side.LEFT and forward.getType() in MIRRORED_KSPS:
            ksp.setPCSide(PETSc.PC.Side.RIGHT)
            self._norms["adjoint"] = PETSc.KSP.NormType.UNPRECONDITIONED
        return ksp

    @property
    def ksp_name(self) -> str:
        """The live type of the KSPs."""
        own = self._names[0] == "steepest_descent"
        return self._names[0] if own else str(self._ksps["forward"].getType())

    @property
    def pc_name(self) -> str:
        """The live type of the preconditioner."""
        own = self._names[1] in OWN_PRECONDITIONERS
        return self._names[1] if own else str(self.preconditioner.getType())

    @property
    def method(self) -> str:
        """KSP and PC in words."""
        return f"ksp={self.ksp_name!r}, pc={self.pc_name!r}"

    @property
    def forward_ksp(self) -> Any:
        """The KSP of forward solves."""
        return self._ksps["forward"]

    @cached_property
    def product(self) -> BatchedProduct:
        """Products with the matrix."""
        operator = self._operator()
        return BatchedProduct(self._matrix, operator is not None and operator.symmetric)

    @cached_property
    def inverse(self) -> BatchedInverse:
        """Applications of the preconditioner."""
        return BatchedInverse(self.preconditioner, self._matrix)

    def refine(self, forward: Refinement, adjoint: Refinement) -> None:
        """Set tolerances and tests of both KSPs; nothing is set up again."""
        self._levels = {"forward": forward, "adjoint": adjoint}
        for direction, level in self._levels.items():
            ksp = self._ksps[direction]
            self._check_one_application(level)
            if level.is_fixed and not self._can_skip_norm:
                raise InputError(
                    f"ksp={self.ksp_name!r} cannot do a fixed number of iterations: give an rtol "
                    "too, or use another ksp"
                )
            rtol, divtol, norm = level.rtol, self._divtol, self._norms[direction]
            if level.is_fixed and self._stops_at_rounding():
                rtol, divtol = ROUNDING, NEVER
                is_free = self.ksp_name in NATURAL_NORM_KSPS
                norm = PETSc.KSP.NormType.NATURAL if is_free else norm
            elif level.is_fixed:
                norm = PETSc.KSP.NormType.NONE
            ksp.setNormType(norm)
            # None means the test that goes with the norm; the norm alone would end as
            # DIVERGED_MAX_IT.
            ksp.setConvergenceTest(None)
            # 0: Richardson's method leaves its iterations to some preconditioners, which know rtol
            # but no norm.
            max_it = level.max_it or DEFAULT_MAX_IT
            ksp.setTolerances(rtol=rtol or 0.0, divtol=divtol, max_it=max_it)

    def set_up(self, direction: str) -> None:
        """Set the preconditioner up if the matrix changed since; collective."""
        state = self._matrix.stateGet()
        if state == self._state:
            return
        with self._report.part(direction, "set_up"):
            self._set_up(direction)
        self._counters(direction).set_ups += 1
        self._state = state
        self._check_options()

    def _set_up(self, direction: str) -> None:
        ksp = self._ksps[direction]
        try:
            self._check_promises()
            self._check_rows(direction)
            self._ksps["forward"].setOperators(self._matrix)
            ksp.setUp()
            ksp.setUpOnBlocks()
            # What belongs to one rank alone may have failed there.
            raise_together(self._comm, None)
        except PETSc.Error as error:
            raise self.failure(direction, error) from error
        except RemoteError:
            # The ranks that failed make new KSPs next time, which is collective.
            self._give_up()
            raise

    def _stops_at_rounding(self) -> bool:
        """Whether a fixed number of iterations must end early where only rounding is left.

        On a singular matrix a Krylov method that goes on breaks down: rounding gives its directions
        a part in the nullspace, which nothing bounds.
        """
        singular = self._nullspaces is not None and self.ksp_name not in STATIONARY_KSPS
        return singular or self.ksp_name in UNGUARDED_KSPS

    def _check_one_application(self, level: Refinement) -> None:
        once = self.ksp_name in ONE_APPLICATION_KSPS and self.pc_name not in DIRECT_PCS
        if once and level.is_fixed and level.max_it != 1:
            raise InputError(
                f"ksp={self.ksp_name!r} applies the preconditioner once and cannot do "
                f"{level.max_it} iterations: use ksp='richardson' for that many applications, or "
                "max_it=1"
            )

    def _check_rows(self, direction: str) -> None:
        """Raise SolveError for a zero on the diagonal where the preconditioner would fail on the
        rank that has it and leave the others waiting.
        """
        if self._comm.size == 1 or self.pc_name not in DIAGONAL_PCS:
            return
        where = bad_row(self._matrix, self._residual, in_set_up=True)
        if where:
            reason = PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED
            level = self._levels[direction]
            raise errors.failed_solve(direction, self.method, reason, 0, level, where)

    def _check_promises(self) -> None:
        """Raise ValueError if the values break what the operator promises or the method needs."""
        operator = self._operator()
        assert operator is not None, "its solver outlived an operator that is being used"
        promised = operator.symmetric and operator.promises_hold
        relying = [
            f"{what}={name!r}"
            for what, name, needy in (
                ("ksp", self.ksp_name, SYMMETRIC_KSPS),
                ("pc", self.pc_name, SYMMETRIC_PCS),
            )
            if name in needy
        ] + (["symmetric=True"] if operator.symmetric else [])
        if relying and not promised:
            operator.promises.require_symmetric(" and ".join(relying))
            operator.failure = None  # A function without a transpose is not at fault.
        if self._nullspaces is not None and not operator.promises_hold:
            operator.promises.require_nullspaces(self._nullspaces, operator.symmetric)

    def _check_options(self) -> None:
        """Raise ValueError for options that nothing asked for by the end of the first set-up."""
        unused = unused_options(self._prefix, self._unchecked_options)
        self._unchecked_options = {}
        if unused:
            self._give_up()
            raise meaningless(unused, self.method)

    def solve(self, direction: str, b: Array, x: Array, level: Refinement | None = None) -> int:
        """Solve for each row of `b (B, n_local)` into `x`, at the level given or else set last;
        collective. Returns the iterations of the last one.

        Raises
        ------
        SolveError
            With the KSP's reason, the iteration, the level and what to try.
        """
        if level is not None and level != self._levels[direction]:
            levels = {**self._levels, direction: level}
            self.refine(levels["forward"], levels["adjoint"])
        with self._report.part(direction, "solve"):
            exponents = exponents_of(self._comm, b) if self._is_to_be_scaled(direction) else None
            if exponents is None:
                return self._solve_in_range(direction, b, x)
            iterations = self._solve_in_range(direction, times_power_of_two(b, exponents, -1), x)
            x[:] = times_power_of_two(x, exponents)
            return iterations

    def _is_to_be_scaled(self, direction: str) -> bool:
        """Whether the size of a right-hand side may matter: for inner products, but not where the
        user gave an absolute tolerance.
        """
        fixed = self._levels[direction].is_fixed
        if fixed and self.ksp_name in WITHOUT_PRODUCTS and self.pc_name != PETSc.PC.Type.KSP:
            return False
        return bool(self._ksps[direction].getTolerances()[1] == 0.0)

    def _solve_in_range(self, direction: str, b: Array, x: Array) -> int:
        """Solve without the parts of b and x in the nullspaces."""
        if self._nullspaces is None:
            return self._solve_each(direction, b, x)
        adjoint = direction == "adjoint"
        right = self._nullspaces.of_right_hand_side(adjoint).removed_from(b)
        iterations = self._solve_each(direction, right, x)
        x[:] = self._nullspaces.of_result(adjoint).removed_from(x)
        return iterations

    def _solve_each(self, direction: str, b: Array, x: Array) -> int:
        """Solve for right-hand sides in the range of the matrix."""
        ksp, level, counters = (
            self._ksps[direction],
            self._levels[direction],
            self._counters(direction),
        )
        transposed = direction == "adjoint" and self._transposed
        if transposed and (self.ksp_name in NO_TRANSPOSE_KSPS or self.pc_name in NO_TRANSPOSE_PCS):
            raise errors.no_transpose(self.method, level)
        run = ksp.solveTranspose if transposed else ksp.solve
        iterations = 0
        try:
            if self._solve_stacked(direction, b, x, transposed):
                return int(level.max_it or 0)
            for right, result in zip(b, x, strict=True):
                self._on_arrays(run, right, result)
                iterations = int(ksp.getIterationNumber())
                code = ksp.getConvergedReason()
                counters.iterations += iterations
                counters.solves += 1
                if code < 0:
                    repeated = self._repeated(direction, code, run, right, result)
                    self._judge(direction, code, repeated, iterations, right, result)
                elif level.rtol is not None and iterations == 0:
                    self._judge_no_iteration(direction, right)
                elif level.rtol is not None and self.ksp_name in ONE_APPLICATION_KSPS:
                    self._judge_one_application(direction, right, result)
                elif level.rtol is not None and self.ksp_name in RECURRENCE_KSPS:
                    self._judge_recurrence(direction, iterations, right, result)
        except PETSc.Error as error:
            raise self.failure(direction, error) from error
        return iterations

    def _solve_stacked(self, direction: str, b: Array, x: Array, transposed: bool) -> bool:
        """Solve all at once, if the method and the level allow it; a failure is left to those that
        solve one by one.
        """
        level, counters = self._levels[direction], self._counters(direction)
        if (
            self._stacked is None
            or not level.is_fixed
            or level.max_it is None
            or not self._stacked.fits(len(b))
        ):
            return False
        if not self._stacked.solve(b, x, level.max_it, transposed):
            return False
        counters.iterations += level.max_it * len(b)
        counters.solves += len(b)
        return True

    def _on_arrays(self, run: Any, right: Array, result: Array) -> None:
        with placed((self._b, right), (self._x, result)):
            run(self._b, self._x)

    def _repeated(self, direction: str, code: int, run: Any, right: Array, result: Array) -> int:
        """How a solve ends that is repeated until only rounding is left, at most the fixed number
        of iterations, after one that did not look at the norm broke down: PETSc's GMRES does where
        the Krylov space ends, and then leaves the solution out.
        """
        level, ksp = self._levels[direction], self._ksps[direction]
        if not level.is_fixed or errors.is_set_up_failure(code) or self._stops_at_rounding():
            return code
        ksp.setNormType(self._norms[direction])
        ksp.setConvergenceTest(None)
        ksp.setTolerances(rtol=ROUNDING, divtol=NEVER)
        try:
            self._on_arrays(run, right, result)
            return int(ksp.getConvergedReason())
        finally:
            self.refine(self._levels["forward"], self._levels["adjoint"])

    def failure(self, direction: str, error: PETSc.Error) -> Exception:
        """What to raise for a PETSc call that failed: the exception of the operator's or
        preconditioner's own code if that was why. Ends the job if other ranks wait inside that
        call.
        """
        self._give_up()
        operator = self._operator()
        failure = error.__cause__ if isinstance(error.__cause__, Exception) else None
        if operator is not None:
            failure, operator.failure = operator.failure or failure, None
        if failure is None:
            failure = self._petsc_failure(direction, error)
        tell_or_end_job(self._comm, failure)
        return failure

    def _give_up(self) -> None:
        """Have these KSPs replaced before the next solve, and never freed: PETSc ends the program
        when it frees some that failed half-way.
        """
        if not self.broken:
            self.broken = True
            for ksp in self._ksps.values():
                PETSc.Object.incRef(ksp)

    def _petsc_failure(self, direction: str, error: PETSc.Error) -> Exception:
        # On this rank alone: the others may not have failed.
        stored = str(self._matrix.getType()).endswith("aij")
        row = zero_diagonal(self._matrix, self._residual) if stored else None
        return errors.petsc_failure(direction, self.method, error, self._levels[direction], row)

    def _counters(self, direction: str) -> Counters:
        return self._report.counters(direction)
