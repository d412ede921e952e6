"""Forward and adjoint KSP with one preconditioner between them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from petsc4py import PETSc

from prdp_hpc.errors import InputError
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.bridge import Array
from prdp_hpc.linalg.fixed_iterations import allow_skipping_the_norm
from prdp_hpc.linalg.inverses import BatchedInverse
from prdp_hpc.linalg.multigrid import attach_hierarchy
from prdp_hpc.linalg.operator import OWN_PRECONDITIONERS, Operator
from prdp_hpc.linalg.options import apply_options, known_type, new_prefix, remove_unused_options
from prdp_hpc.linalg.products import BatchedProduct
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.linalg.report import Counters, SolveReport
from prdp_hpc.linalg.stacked import stacked_richardson

DIFFERENTIATIONS = ("implicit", "unrolled")
OWN_KSPS = ("steepest_descent",)
UNROLLED_KSPS = ("richardson", "steepest_descent", "cg", "gmres", "bcgs")
# A relative residual that is rounding: what is left after a breakdown of a method that had
# converged.
SOLVED = 1e-10
# These methods are only right for A = Aᵀ, so the adjoint solve may use A itself.
_SYMMETRIC_KSPS = frozenset(
    {
        "cg",
        "pipecg",
        "pipecg2",
        "pipecgrr",
        "pipelcg",
        "groppcg",
        "fcg",
        "pipefcg",
        "minres",
        "symmlq",
        "cr",
        "pipecr",
    }
    | {"steepest_descent"}
)
# These are only fast where M⁻¹A is near the identity in norm. The transpose of a solve
# preconditioned from the left, (M⁻¹A)ᵀ = AᵀM⁻ᵀ, is one preconditioned from the right; M⁻ᵀAᵀ breaks
# down for badly scaled rows.
_MIRRORED_KSPS = frozenset({"gmres", "lgmres", "dgmres", "pgmres"})


class Solver:
    """How linear systems are solved: the KSP, its preconditioner, and the level of refinement.

    Parameters
    ----------
    ksp : PETSc's name of the method, as "cg", "gmres", "bcgs", "richardson", "preonly"; default
        "gmres". Also "steepest_descent", for symmetric positive definite matrices.
    pc : PETSc's name of the preconditioner, as "jacobi", "bjacobi", "asm", "ilu", "lu", "gamg",
        "none"; default "jacobi". "mg" is a geometric multigrid hierarchy made from the operator's
        grid; "constraint" the one that the Navier–Stokes operator brings along.
    refinement : level of forward solves, and of adjoint solves too unless `adjoint` is given;
        default `Refinement(rtol=1e-8)`. An int or float is short for iterations or a tolerance.
    adjoint : level of adjoint solves.
    petsc_options : any other PETSc options, without the dash: `{"ksp_gmres_restart": 8}`. Options
        on the command line of a script that called `petsc4py.init(sys.argv)` go before these.

    differentiation : "implicit" (default): the backward pass solves the adjoint system at its own
        level; "unrolled": it goes through the iterations of the forward solve (`ksp` one of
        richardson, steepest_descent, cg, gmres, bcgs).

    The initial guess is zero always. The solver may serve several operators; for each it keeps a
    forward and an adjoint KSP that share one preconditioner, set up again only when the operator's
    values changed.

    Attributes
    ----------
    report : a `SolveReport`: solves, iterations, set-ups, and the seconds of each part, forward and
        adjoint apart.

    Raises
    ------
    ValueError
        For a KSP or PC that PETSc does not have, another differentiation, a KSP or PC that cannot
        be unrolled where it is to be, or a level out of range.

    Notes
    -----
    PETSc manual pages: KSPSolve, KSPSolveTranspose, KSPSetTolerances.
    """

    def __init__(
        self,
        ksp: str = "gmres",
        pc: str = "jacobi",
        refinement: Refinement | int | float | None = None,
        adjoint: Refinement | int | float | None = None,
        petsc_options: Mapping[str, Any] | None = None,
        differentiation: str = "implicit",
    ) -> None:
        if differentiation not in DIFFERENTIATIONS:
            raise InputError(
                f"differentiation must be one of {', '.join(DIFFERENTIATIONS)}, not "
                f"{differentiation!r}"
            )
        self.differentiation = differentiation
        self.ksp = ksp if ksp in OWN_KSPS else known_type("ksp", ksp, PETSc.KSP.Type)
        self.pc = pc if pc in OWN_PRECONDITIONERS else known_type("pc", pc, PETSc.PC.Type)
        if differentiation == "unrolled":
            check_unrolled(self.ksp, self.pc)
        self.petsc_options = dict(petsc_options or {})
        self.report = SolveReport()
        self._systems: weakref.WeakKeyDictionary[Operator, LinearSystem] = (
            weakref.WeakKeyDictionary()
        )
        self.refine(Refinement() if refinement is None else refinement, adjoint)

    def __repr__(self) -> str:
        return (
            f"Solver(ksp={self.ksp!r}, pc={self.pc!r}, refinement=({self.refinement}), "
            f"adjoint=({self.adjoint}))"
        )

    def refine(
        self, level: Refinement | int | float, adjoint: Refinement | int | float | None = None
    ) -> None:
        """Change the level in place; the preconditioner stays as it is.

        `adjoint` is the level of the adjoint solves; default: the same level.
        """
        self.refinement = Refinement.of(level)
        self.adjoint = self.refinement if adjoint is None else Refinement.of(adjoint)
        for system in self._systems.values():
            system.refine(self.refinement, self.adjoint)

    def system(self, operator: Operator) -> LinearSystem:
        """The KSPs for one operator, made on first use; collective then."""
        found = self._systems.get(operator)
        if found is None or found.broken:
            found = LinearSystem(operator, self)
            found.refine(self.refinement, self.adjoint)
            self._systems[operator] = found
        return found


class LinearSystem:
    """The two KSPs of one solver for one operator."""

    def __init__(self, operator: Operator, solver: Solver) -> None:
        operator.check_preconditioner(solver.pc)
        # Set when a PETSc call failed half-way: locks and counts inside the KSP are then wrong.
        self.broken = False
        self._operator = weakref.ref(operator)
        self._report = solver.report
        self.method = f"ksp={solver.ksp!r}, pc={solver.pc!r}"
        self._matrix = operator.matrix
        self._nullspace = operator.matrix.getNullSpace()
        self._transposed = not (operator.symmetric or solver.ksp in _SYMMETRIC_KSPS)
        self._state = -1
        self._unchecked_options = dict(solver.petsc_options)
        # These only carry arrays that belong to the caller.
        self._b, self._x = self._matrix.createVecLeft(), self._matrix.createVecRight()
        self._ksps = {"forward": self._create_ksp(operator, solver)}
        self._norms = {"forward": self._ksps["forward"].getNormType()}
        self._ksps["adjoint"] = self._create_adjoint()
        self._ksp_name = solver.ksp

    def _create_ksp(self, operator: Operator, solver: Solver) -> Any:
        ksp = PETSc.KSP().create(comm=operator.comm)
        # The prefix comes first: the levels of a hierarchy, and the parts of a split, take it over
        # when they are made.
        ksp.setOptionsPrefix(new_prefix())
        ksp.setOperators(self._matrix)
        if solver.ksp == "steepest_descent":
            self.preconditioner = _line_search(ksp)
        else:
            ksp.setType(solver.ksp)
            self.preconditioner = ksp.getPC()
        pc = self.preconditioner
        if solver.pc not in OWN_PRECONDITIONERS:
            pc.setType(solver.pc)
        operator.attach_preconditioner(pc, solver.pc)
        hierarchy = attach_hierarchy(pc, operator, self._transposed) if solver.pc == "mg" else {}
        apply_options(ksp, {**hierarchy, **solver.petsc_options})
        self._can_skip_norm = allow_skipping_the_norm(ksp)
        self._stacked = stacked_richardson(ksp, self._matrix)
        return ksp

    def _create_adjoint(self) -> Any:
        forward = self._ksps["forward"]
        ksp = PETSc.KSP().create(comm=forward.comm)
        ksp.setType(forward.getType())
        ksp.setPC(forward.getPC())
        ksp.setOptionsPrefix(forward.getOptionsPrefix())
        ksp.setFromOptions()
        side = forward.getPCSide()
        ksp.setPCSide(side)
        self._norms["adjoint"] = self._norms["forward"]
        if self._transposed and side == PETSc.PC.Side.LEFT and forward.getType() in _MIRRORED_KSPS:
            ksp.setPCSide(PETSc.PC.Side.RIGHT)
            self._norms["adjoint"] = PETSc.KSP.NormType.UNPRECONDITIONED
        return ksp

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
            if level.is_fixed and not self._can_skip_norm:
                raise InputError(
                    f"ksp={self._ksp_name!r} cannot do a fixed number of iterations: give an rtol "
                    "too, or use another ksp"
                )
            ksp.setNormType(PETSc.KSP.NormType.NONE if level.is_fixed else self._norms[direction])
            # None means the test that goes with the norm; the norm alone would end as
            # DIVERGED_MAX_IT.
            ksp.setConvergenceTest(None)
            # 0: Richardson's method leaves its iterations to some preconditioners, which know rtol
            # but no norm.
            ksp.setTolerances(rtol=level.rtol or 0.0, max_it=level.max_it or DEFAULT_MAX_IT)

    def set_up(self, direction: str) -> None:
        """Set the preconditioner up if the matrix changed since; collective."""
        state = self._matrix.stateGet()
        if state == self._state:
            return
        ksp = self._ksps[direction]
        with self._report.part(direction, "set_up"):
            try:
                self._ksps["forward"].setOperators(self._matrix)
                ksp.setUp()
                ksp.setUpOnBlocks()
            except PETSc.Error as error:
                raise self.failure(direction, error) from error
        self._counters(direction).set_ups += 1
        self._state = state
        self._check_options()

    def _check_options(self) -> None:
        """Raise ValueError for options that nothing asked for by the end of the first set-up."""
        unused = remove_unused_options(
            self._ksps["forward"].getOptionsPrefix(), self._unchecked_options
        )
        self._unchecked_options = {}
        if unused:
            self.broken = True
            raise InputError(
                f"petsc_options: {', '.join(map(repr, unused))} means nothing to {self.method}: "
                "look at the spelling, or whether it belongs to another ksp or pc"
            )

    def solve(self, direction: str, b: Array, x: Array) -> int:
        """Solve for each row of `b (B, n_local)` into `x`; collective. Returns the iterations of
        the last one.

        Raises
        ------
        SolveError
            With the KSP's reason, the iteration, the level and what to try.
        """
        with self._report.part(direction, "solve"):
            return self._solve_all(direction, b, x)

    def _solve_all(self, direction: str, b: Array, x: Array) -> int:
        counters, ksp = self._counters(direction), self._ksps[direction]
        transposed = direction == "adjoint" and self._transposed
        run = ksp.solveTranspose if transposed else ksp.solve
        iterations = 0
        try:
            if self._solve_stacked(direction, b, x, transposed):
                return int(self._levels[direction].max_it or 0)
            for right, result in zip(b, x, strict=True):
                iterations = self._solve_one(ksp, run, right, result)
                code = ksp.getConvergedReason()
                counters.iterations += iterations
                counters.solves += 1
                if code < 0:
                    self._judge(direction, code, iterations, right, result)
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

    def _solve_one(self, ksp: Any, run: Any, right: Array, result: Array) -> int:
        self._on_arrays(run, right, result)
        # Preconditioned from the left, PETSc keeps every iterate orthogonal to it; from the right,
        # M⁻¹ comes last.
        if self._nullspace and ksp.getPCSide() == PETSc.PC.Side.RIGHT:
            self._on_arrays(lambda _, x: self._nullspace.remove(x), right, result)
        return int(ksp.getIterationNumber())

    def _on_arrays(self, run: Any, right: Array, result: Array) -> None:
        self._b.placeArray(right)
        self._x.placeArray(result)
        try:
            run(self._b, self._x)
        finally:
            self._b.resetArray()
            self._x.resetArray()

    def _judge(
        self, direction: str, code: int, iterations: int, right: Array, result: Array
    ) -> None:
        level = self._levels[direction]
        if code == PETSc.KSP.ConvergedReason.DIVERGED_MAX_IT and level.max_it is not None:
            return
        # A Krylov method that does not look at the norm breaks down when there is nothing to solve,
        # or nothing is left to.
        if level.is_fixed and not errors.is_set_up_failure(code):
            if zero_rows(self._b.comm.tompi4py(), right[None])[0]:
                result[:] = 0.0
                return
            if self._is_solved(direction, right, result):
                return
        raise errors.failed_solve(direction, self.method, code, iterations, level)

    def _is_solved(self, direction: str, right: Array, result: Array) -> bool:
        """Whether the residual is down to rounding; collective."""
        transposed = direction == "adjoint" and self._transposed
        residual = self._b.duplicate()
        self._x.placeArray(result)
        (self._matrix.multTranspose if transposed else self._matrix.mult)(self._x, residual)
        self._x.resetArray()
        self._b.placeArray(right)
        residual.aypx(-1.0, self._b)
        length = self._b.norm()
        solved = residual.norm() <= SOLVED * length < np.inf
        self._b.resetArray()
        residual.destroy()  # PETSc would keep what Python drops, on several ranks.
        return bool(solved)

    def failure(self, direction: str, error: PETSc.Error) -> Exception:
        """What to raise for a PETSc call that failed: the operator's own exception if that was
        why.
        """
        self.broken = True
        operator = self._operator()
        if operator is not None and operator.failure is not None:
            failure, operator.failure = operator.failure, None
            return failure
        return errors.petsc_failure(direction, self.method, error, self._levels[direction])

    def _counters(self, direction: str) -> Counters:
        return self._report.counters(direction)


def _line_search(ksp: Any) -> Any:
    """Make a KSP do steepest descent; returns the PC that is to precondition it.

    Richardson's method with one iteration of CG as preconditioner: from zero, that is `α z` with `z
    = M⁻¹ r` and `α = ⟨r, z⟩ / ⟨z, A z⟩`. PETSc manual page: PCKSP.
    """
    ksp.setType(PETSc.KSP.Type.RICHARDSON)
    # The correction, which Richardson's method takes for a preconditioned residual, says little of
    # the error.
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.getPC().setType(PETSc.PC.Type.KSP)
    inner = ksp.getPC().getKSP()
    inner.setType(PETSc.KSP.Type.CG)
    inner.setNormType(PETSc.KSP.NormType.NONE)
    inner.setConvergenceTest(None)
    inner.setTolerances(max_it=1)
    # Its options are those of any other solver's preconditioner, not "ksp_pc_…".
    inner.getPC().setOptionsPrefix(ksp.getOptionsPrefix())
    return inner.getPC()


def check_unrolled(ksp: str, pc: str) -> None:
    """Raise ValueError for a method that has no unrolled form."""
    if ksp not in UNROLLED_KSPS:
        raise InputError(
            f"differentiation='unrolled' knows the iterations of ksp={', '.join(UNROLLED_KSPS)}, "
            f"not of {ksp!r}: "
            "choose one of them, or differentiation='implicit'"
        )
    if pc == "ksp":
        raise InputError(
            "differentiation='unrolled' needs a linear preconditioner, and pc='ksp' is an "
            "iteration itself: choose another, "
            "or differentiation='implicit'"
        )


def zero_rows(comm: MPI.Comm, right: Array) -> NDArray[np.bool_]:
    """Which right-hand sides of a batch `(B, n_local)` are zero on every rank; collective."""
    nonzero: NDArray[np.bool_] = np.any(right, axis=1)
    comm.Allreduce(MPI.IN_PLACE, nonzero, op=MPI.LOR)
    return np.logical_not(nonzero)
