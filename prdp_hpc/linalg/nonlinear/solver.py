"""How nonlinear systems are solved."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from mpi4py import MPI

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.nonlinear.jacobians import MatrixFreeJacobian
from prdp_hpc.linalg.nonlinear.levels import EISENSTAT_WALKER, Levels, adjoint_level
from prdp_hpc.linalg.nonlinear.newton import Newton
from prdp_hpc.linalg.nonlinear.options import check_snes_options, snes_options_under
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import checked_options
from prdp_hpc.linalg.refinement_level import Refinement, register
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.solver import Solver

REFINES = ("newton", "inner")


class NonlinearSolver:
    """How nonlinear systems `F(u) = 0` are solved: Newton's method with a line search.

    It is PETSc's SNES of type newtonls, with a level, a line search (by default PETSc's
    backtracking, `bt`) and a solver of the linear systems `J δu = −F`. It may be used for several
    residuals.

    Parameters
    ----------
    solver : Solver, optional
        Solver of the linear systems, forward and adjoint. It belongs to this solver afterwards.
        Default: GMRES without a preconditioner, to a relative residual of 1e-8.
    refinement : Refinement, int or float, optional
        Level of Newton's method, default `Refinement(rtol=1e-8)`:

        - `Refinement(rtol=r)`: iterate until `‖F(u)‖ ≤ r ‖F(u0)‖`; it is an error if 50 iterations
          (`snes_max_it`) do not reach it, or if the line search finds no smaller residual. From a
          far start, whose residual is large, give a tolerance far below rounding, e.g. 1e-100: the
          iteration ends when its steps are rounding only;
        - `Refinement(max_it=K)`: K Newton iterations without a convergence test; fewer if the
          residual is 0, a step is rounding only, or no step decreases the residual;
        - both: the iteration ends at the first of the two.
    inner : Refinement, int, float or "eisenstat_walker", optional
        Level of the linear solves. "eisenstat_walker" adapts their tolerance to the convergence of
        Newton's method (SNESKSPSetUseEW; its parameters are `snes_ksp_ew_...` options). Default:
        the level of `solver`.
    adjoint : Refinement, int or float, optional
        Level of the adjoint's linear solve, as for `refine`. Default: the adjoint level of `solver`
        if it has one, else the level of forward linear solves.
    refines : {"newton", "inner"}, default "newton"
        Which level `refine`, and hence a coordinator, changes.
    petsc_options : dict, optional
        PETSc's SNES options, without the dash: `{"snes_linesearch_type": "l2", "snes_max_it":
        100}`. Options of KSP and PC belong to `solver`.
    options_prefix : str, optional
        As for `Solver`: with "flow_" the command line's `-flow_snes_monitor` is read.

    Attributes
    ----------
    refinement : Refinement
        The level that `refine` changes.
    report : SolveReport
        The report of `solver`: its linear solves, Newton iterations and evaluations of the
        residual.

    Raises
    ------
    InputError
        For a level out of range, options that duplicate an argument, or a solver that
        differentiates its iterations or does not start from 0.

    Notes
    -----
    PETSc manual pages: SNESNEWTONLS, SNESLINESEARCHBT, SNESKSPSetUseEW.

    Examples
    --------
    Three Newton iterations, with linear solves to 1e-3:

    >>> import torch
    >>> from prdp_hpc import NonlinearSolver, Solver, solve_nonlinear
    >>> solver = NonlinearSolver(Solver("gmres", "none"), refinement=3, inner=1e-3)
    >>> u = solve_nonlinear(lambda u: u + u**3 - 2.0, torch.zeros(4).double(), solver=solver)
    >>> solver.report.forward.newton_iterations
    3
    """

    differentiation = "implicit"

    def __init__(
        self,
        solver: Solver | None = None,
        refinement: Refinement | int | float | None = None,
        *,
        inner: Refinement | int | float | Literal["eisenstat_walker"] | None = None,
        adjoint: Refinement | int | float | None = None,
        refines: Literal["newton", "inner"] = "newton",
        petsc_options: Mapping[str, Any] | None = None,
        options_prefix: str | None = None,
    ) -> None:
        if not (isinstance(refines, str) and refines in REFINES):
            raise InputError(f"refines must be one of {', '.join(REFINES)}, not {refines!r}")
        if isinstance(inner, str) and inner != EISENSTAT_WALKER:
            raise InputError(f"inner must be a level or {EISENSTAT_WALKER!r}, not {inner!r}")
        self.solver = Solver("gmres", "none") if solver is None else solver
        if self.solver.differentiation != "implicit":
            raise InputError(
                "a NonlinearSolver differentiates implicitly: use a "
                "Solver(differentiation='implicit'), not 'unrolled'"
            )
        if self.solver.batched is not None:
            raise InputError(
                "the linear solves of Newton's method are PETSc's: use a "
                f"Solver(ksp={self.solver.batched!r}), not {self.solver.ksp!r}"
            )
        if self.solver.initial_guess != "zero":
            raise InputError(
                "the linear solves of Newton's method start from 0: "
                f"use a Solver(initial_guess='zero'), not {self.solver.initial_guess!r}"
            )
        self.refines = refines
        self.uses_eisenstat_walker = isinstance(inner, str)
        if refines == "inner" and self.uses_eisenstat_walker:
            raise InputError("refines='inner' needs an inner level, not 'eisenstat_walker'")
        self.snes_options = checked_options(petsc_options)
        check_snes_options(self.snes_options)
        self.options_prefix = options_prefix
        if options_prefix is not None:
            self.snes_options |= snes_options_under(options_prefix)
        self.newton = Refinement() if refinement is None else Refinement.of(refinement)
        self._own_adjoint = None if adjoint is None else Refinement.of(adjoint)
        if inner is not None and not isinstance(inner, str):
            self.solver.refine(Refinement.of(inner))
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
        """Copy or pickle the settings only: the copy is a new solver without a SNES."""
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
        """The report of the linear solver, see `SolveReport`."""
        return self.solver.report

    @property
    def ksp(self) -> str:
        """The KSP of the linear solver."""
        return self.solver.ksp

    @property
    def pc(self) -> str:
        """The preconditioner of the linear solver."""
        return self.solver.pc

    @property
    def petsc_options(self) -> dict[str, Any]:
        """The PETSc options of the linear solver."""
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
        """The levels of a solve that starts now, also for its derivatives."""
        return Levels(self.newton, self._inner, self.adjoint)

    def refine(
        self, level: Refinement | int | float, adjoint: Refinement | int | float | None = None
    ) -> None:
        """Change the level of later solves.

        It is the level of Newton's method, or with `refines="inner"` of its linear solves.

        Parameters
        ----------
        level : Refinement, int or float
            The level.
        adjoint : Refinement, int or float, optional
            Level of the adjoint. Default: the one that was set last; if there is none, `level`.
            With `refines="newton"` an adjoint of K iterations stands for one linear solve that does
            as much as the linear solves of K Newton iterations: K times as many iterations if
            `inner` is a number of iterations, the tolerance `ηᴷ` if it is a tolerance η (not below
            1e-10), and the linear solver's own adjoint level with "eisenstat_walker". A tolerance
            is that of the adjoint solve.
        """
        if self.refines == "inner":
            self.solver.refine(level, adjoint)
            return
        self.newton = Refinement.of(level)
        if adjoint is not None:
            self._own_adjoint = Refinement.of(adjoint)

    @property
    def own_levels(self) -> tuple[Refinement, Refinement | None]:
        """The levels that are not those of `solver`."""
        return self.newton, self._own_adjoint

    def set_levels(self, newton: Refinement, adjoint: Refinement | None) -> None:
        """Set the levels that `own_levels` returned."""
        self.newton, self._own_adjoint = newton, adjoint

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `solver`."""
        return self.solver.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `solver`."""
        self.solver.load_state_dict(state)

    def samples(self, names: Sequence[Any]) -> AbstractContextManager[None]:
        """Name the samples of later solves, see `Solver.samples`.

        Linear solves of Newton steps start from 0 all the same.
        """
        return self.solver.samples(names)

    def restored_solutions(self) -> AbstractContextManager[None]:
        """Restore the stored solutions after a block, see `Solver.restored_solutions`."""
        return self.solver.restored_solutions()

    def system(self, operator: Operator) -> Newton:
        """Return Newton's method for one Jacobian; it is made on first use, which is collective."""
        found = self._systems.get(operator)
        if found is None or found.broken:
            found = Newton(operator, self.solver, self.snes_options)
            self._systems[operator] = found
        return found

    def matrix_free(
        self, sizes: tuple[int, ...], comm: MPI.Comm, symmetric: bool
    ) -> MatrixFreeJacobian:
        """Return the Jacobian by torch's products for these numbers of unknowns per rank.

        It is made on first use, which is collective.
        """
        key = (sizes, comm.py2f(), symmetric)
        if key not in self._matrix_free:
            self._matrix_free[key] = MatrixFreeJacobian(sizes[comm.rank], comm, symmetric)
        return self._matrix_free[key]


def _with_settings(solver: Solver, settings: dict[str, Any]) -> NonlinearSolver:
    return NonlinearSolver(solver, **settings)
