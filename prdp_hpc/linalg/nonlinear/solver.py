"""How nonlinear systems are solved."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.nonlinear.jacobians import MatrixFreeJacobian
from prdp_hpc.linalg.nonlinear.levels import EISENSTAT_WALKER, Levels, adjoint_level
from prdp_hpc.linalg.nonlinear.newton import Newton
from prdp_hpc.linalg.nonlinear.options import check_snes_options, snes_options_under
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.solver_levels import register

REFINES = ("newton", "inner")


class NonlinearSolver:
    """How nonlinear systems are solved: Newton's method with a line search (PETSc's SNES of type
    newtonls), its level, and the solver of its linear systems.

    Parameters
    ----------
    solver : of the linear systems, forward and adjoint; default: GMRES without a preconditioner, to
        a relative residual of 1e-8. It belongs to this solver from now on.
    refinement : level of Newton's method, default `Refinement(rtol=1e-8)`:

        - `Refinement(rtol=r)`: until `‖F(u)‖ ≤ r ‖F(u0)‖`; not getting there in 50 iterations
          (`snes_max_it`), or a line search that finds no smaller residual, is an error;
        - `Refinement(max_it=K)`: K Newton iterations and no convergence test; it ends before where
          the residual is 0, a step is nothing but rounding, or no step makes it smaller;
        - both: whichever comes first.
    inner : level of the linear solves: a `Refinement`, an int, a float, or "eisenstat_walker": each
        as accurate as the Newton iteration is worth (SNESKSPSetUseEW; its parameters are
        `snes_ksp_ew_...` options). Default: the level of `solver`.
    adjoint : level of the adjoint's linear solve, as `refine` takes it; default: that of `solver`
        where it has one of its own, else as accurate as the forward solve.
    refines : what `refine`, and so a coordinator, changes: "newton" (default) or "inner".
    petsc_options : PETSc's SNES options, without the dash: `{"snes_linesearch_type": "l2",
        "snes_max_it": 100}`. Those of KSP and PC belong to `solver`.
    options_prefix : as for `Solver`: with "flow_" the command line's `-flow_snes_monitor` is read.

    The line search is PETSc's backtracking (`bt`) by default. The solver may serve several
    residuals.

    Attributes
    ----------
    refinement : the level that `refine` changes.
    report : that of `solver`: besides its linear solves, Newton iterations and evaluations of the
        residual.

    Raises
    ------
    ValueError
        For a level out of range, options that an argument is there for, or a solver that
        differentiates through its iterations or does not start from 0.

    Notes
    -----
    PETSc manual pages: SNESNEWTONLS, SNESLINESEARCHBT, SNESKSPSetUseEW.
    """

    differentiation = "implicit"

    def __init__(
        self,
        solver: Solver | None = None,
        refinement: Refinement | int | float | None = None,
        *,
        inner: Refinement | int | float | str | None = None,
        adjoint: Refinement | int | float | None = None,
        refines: str = "newton",
        petsc_options: Mapping[str, Any] | None = None,
        options_prefix: str | None = None,
    ) -> None:
        if refines not in REFINES:
            raise InputError(f"refines must be one of {', '.join(REFINES)}, not {refines!r}")
        if isinstance(inner, str) and inner != EISENSTAT_WALKER:
            raise InputError(f"inner must be a level or {EISENSTAT_WALKER!r}, not {inner!r}")
        self.solver = Solver("gmres", "none") if solver is None else solver
        if self.solver.differentiation != "implicit":
            raise InputError(
                "a NonlinearSolver differentiates implicitly: give it a "
                "Solver(differentiation='implicit'), not 'unrolled'"
            )
        if self.solver.initial_guess != "zero":
            raise InputError(
                "the linear solves of Newton's method start from 0, where a Newton step begins: "
                f"give it a Solver(initial_guess='zero'), not {self.solver.initial_guess!r}"
            )
        self.refines, self.uses_eisenstat_walker = refines, inner == EISENSTAT_WALKER
        if refines == "inner" and self.uses_eisenstat_walker:
            raise InputError("refines='inner' needs an inner level, not 'eisenstat_walker'")
        self.snes_options = dict(petsc_options or {})
        check_snes_options(self.snes_options)
        self.options_prefix = options_prefix
        if options_prefix is not None:
            self.snes_options |= snes_options_under(options_prefix)
        self.newton = Refinement() if refinement is None else Refinement.of(refinement)
        self._own_adjoint = None if adjoint is None else Refinement.of(adjoint)
        if isinstance(inner, Refinement | int | float):
            self.solver.refine(inner)
        if refines == "inner" and adjoint is not None:
            self.solver.refine(self.solver.refinement, adjoint)
        self._systems: weakref.WeakKeyDictionary[Operator, Newton] = weakref.WeakKeyDictionary()
        self._matrix_free: dict[Any, MatrixFreeJacobian] = {}
        register(self)

    def __repr__(self) -> str:
        inner = EISENSTAT_WALKER if self.uses_eisenstat_walker else str(self.solver.refinement)
        return (
            f"NonlinearSolver({self.solver!r}, newton=({self.newton}), inner=({inner}), "
            f"adjoint=({self.adjoint}), refines={self.refines!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or pickled: a new solver with the same settings, that has solved nothing yet."""
        inner = EISENSTAT_WALKER if self.uses_eisenstat_walker else None
        settings = {
            "refinement": self.newton,
            "inner": inner,
            "adjoint": self._own_adjoint,
            "refines": self.refines,
            "petsc_options": dict(self.snes_options),
        }
        return _with_settings, (self.solver, settings)

    @property
    def report(self) -> SolveReport:
        """What was done, see `SolveReport`."""
        return self.solver.report

    @property
    def ksp(self) -> str:
        """Of the linear solver."""
        return self.solver.ksp

    @property
    def pc(self) -> str:
        """Of the linear solver."""
        return self.solver.pc

    @property
    def petsc_options(self) -> dict[str, Any]:
        """Of the linear solver."""
        return self.solver.petsc_options

    @property
    def refinement(self) -> Refinement:
        """The level that `refine` changes."""
        return self.newton if self.refines == "newton" else self.solver.refinement

    @property
    def adjoint(self) -> Refinement:
        """The level of the adjoint's linear solve."""
        if self.refines == "inner":
            return self.solver.adjoint
        if self._own_adjoint is None and self.solver.adjoint != self.solver.refinement:
            return self.solver.adjoint
        return adjoint_level(self._own_adjoint or self.newton, self._inner, self.solver.adjoint)

    @property
    def _inner(self) -> Refinement | None:
        return None if self.uses_eisenstat_walker else self.solver.refinement

    @property
    def levels(self) -> Levels:
        """Those of a solve that begins now, for its derivatives too."""
        return Levels(self.newton, self._inner, self.adjoint)

    def refine(
        self, level: Refinement | int | float, adjoint: Refinement | int | float | None = None
    ) -> None:
        """Change the level of the solves to come: of Newton's method, or with `refines="inner"` of
        its linear solves.

        `adjoint`: default the one given last; if none ever was, that of forward solves. With
        `refines="newton"` an adjoint of K stands for one linear solve that does what the linear
        solves of K Newton iterations do: K times as many iterations where `inner` is a number of
        them, `ηᴷ` where it is a tolerance η (no less than 1e-10), and the solver's own adjoint
        level with "eisenstat_walker". A tolerance is that of the adjoint solve itself.
        """
        if self.refines == "inner":
            self.solver.refine(level, adjoint)
            return
        self.newton = Refinement.of(level)
        if adjoint is not None:
            self._own_adjoint = Refinement.of(adjoint)

    @property
    def own_levels(self) -> tuple[Refinement, Refinement | None]:
        """Those that `solver` does not have."""
        return self.newton, self._own_adjoint

    def set_levels(self, newton: Refinement, adjoint: Refinement | None) -> None:
        """Set what `own_levels` was."""
        self.newton, self._own_adjoint = newton, adjoint

    def state_dict(self) -> dict[str, Any]:
        """That of `solver`."""
        return self.solver.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """That of `solver`."""
        self.solver.load_state_dict(state)

    def samples(self, names: Sequence[Any]) -> AbstractContextManager[None]:
        """That of `solver`; linear solves of Newton steps start from 0."""
        return self.solver.samples(names)

    def restored_solutions(self) -> AbstractContextManager[None]:
        """That of `solver`."""
        return self.solver.restored_solutions()

    def system(self, operator: Operator) -> Newton:
        """Newton's method with one Jacobian, made on first use; collective then."""
        found = self._systems.get(operator)
        if found is None or found.broken:
            found = Newton(operator, self.solver, self.snes_options)
            self._systems[operator] = found
        return found

    def matrix_free(
        self, sizes: tuple[int, ...], comm: MPI.Comm, symmetric: bool
    ) -> MatrixFreeJacobian:
        """The Jacobian by torch's products for unknowns divided like this, made once; collective
        then.
        """
        key = (sizes, comm.py2f(), symmetric)
        if key not in self._matrix_free:
            self._matrix_free[key] = MatrixFreeJacobian(sizes[comm.rank], comm, symmetric)
        return self._matrix_free[key]


def _with_settings(solver: Solver, settings: dict[str, Any]) -> NonlinearSolver:
    return NonlinearSolver(solver, **settings)
