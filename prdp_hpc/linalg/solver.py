"""How linear systems are solved."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.linear_system import LinearSystem
from prdp_hpc.linalg.method_types import check_unrolled, checked_ksp, checked_pc
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import check_owned, options_under
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.report import SolveReport

DIFFERENTIATIONS = ("implicit", "unrolled")


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
    adjoint : level of adjoint solves; default: that of forward solves, also after `refine`.
    petsc_options : any other PETSc options, without the dash: `{"ksp_gmres_restart": 8}`. Those
        that begin with "adjoint_" are for the adjoint KSP alone: `{"adjoint_ksp_gmres_restart":
        20}`.
    differentiation : "implicit" (default): the backward pass solves the adjoint system at its own
        level; "unrolled": it goes through the iterations of the forward solve (`ksp` one of
        richardson, steepest_descent, cg, gmres, bcgs).
    options_prefix : what options for this solver begin with on the command line of a script that
        called `petsc4py.init(sys.argv)`: with "heat_", `-heat_ksp_type cg -heat_pc_type icc` choose
        the method, and others go before those of `petsc_options`. They are read when the solver is
        made. Default: none are read; options without a prefix are never read.

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
        For a KSP or PC that this PETSc does not have or that cannot be used, an option that an
        argument is there for (`ksp_type`, `ksp_rtol`, `ksp_max_it`, ...), another differentiation,
        a KSP or PC that cannot be unrolled where it is to be, or a level out of range.

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
        options_prefix: str | None = None,
    ) -> None:
        if differentiation not in DIFFERENTIATIONS:
            raise InputError(
                f"differentiation must be one of {', '.join(DIFFERENTIATIONS)}, not "
                f"{differentiation!r}"
            )
        self.differentiation = differentiation
        self.petsc_options = dict(petsc_options or {})
        check_owned(self.petsc_options)
        self.options_prefix = options_prefix
        if options_prefix is not None:
            chosen = options_under(options_prefix)
            ksp, pc = chosen.pop("ksp_type", ksp), chosen.pop("pc_type", pc)
            check_owned(chosen, options_prefix)
            self.petsc_options |= chosen
        self.ksp, self.pc = checked_ksp(ksp), checked_pc(pc)
        if differentiation == "unrolled":
            check_unrolled(self.ksp, self.pc)
        self.report = SolveReport()
        self._systems: weakref.WeakKeyDictionary[Operator, LinearSystem] = (
            weakref.WeakKeyDictionary()
        )
        self._own_adjoint: Refinement | None = None
        self.refine(Refinement() if refinement is None else refinement, adjoint)

    def __repr__(self) -> str:
        return (
            f"Solver(ksp={self.ksp!r}, pc={self.pc!r}, refinement=({self.refinement}), "
            f"adjoint=({self.adjoint}))"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or pickled: a new solver with the same settings, that has solved nothing yet."""
        settings = {
            "ksp": self.ksp,
            "pc": self.pc,
            "refinement": self.refinement,
            "adjoint": self.adjoint,
            "petsc_options": dict(self.petsc_options),
            "differentiation": self.differentiation,
            "options_prefix": self.options_prefix,
        }
        return _with_settings, (settings,)

    def refine(
        self, level: Refinement | int | float, adjoint: Refinement | int | float | None = None
    ) -> None:
        """Change the level of the solves to come; the preconditioner stays as it is.

        `adjoint` is the level of the adjoint solves; default: the one given last, here or when the
        solver was made; if none ever was, the same level as forward. A solve keeps both levels that
        it was made with, for its derivatives too.
        """
        self.refinement = Refinement.of(level)
        if adjoint is not None:
            self._own_adjoint = Refinement.of(adjoint)
        self.adjoint = self._own_adjoint or self.refinement
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


def _with_settings(settings: dict[str, Any]) -> Solver:
    # What the prefix chose is among the settings; the options may have changed since.
    prefix = settings.pop("options_prefix")
    solver = Solver(**settings)
    solver.options_prefix = prefix
    return solver
