"""`Solver`: how linear systems are solved."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.adopted_ksp import check_adoptable, level_of
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.initial_guesses import InitialGuess, InitialGuesses, checked_guess
from prdp_hpc.linalg.linear_system import LinearSystem
from prdp_hpc.linalg.method_types import (
    BATCHED_KSPS,
    Lag,
    check_batched,
    check_lag,
    check_symmetric,
    check_unrolled,
    checked_ksp,
    checked_lag,
    checked_pc,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import check_owned, checked_options, options_under
from prdp_hpc.linalg.refinement_level import Refinement, register
from prdp_hpc.linalg.report import SolveReport
from prdp_hpc.linalg.shell_preconditioner import ShellPreconditioner
from prdp_hpc.petsc import PETSc

Differentiation = Literal["implicit", "unrolled"]
DIFFERENTIATIONS: tuple[Differentiation, ...] = get_args(Differentiation)


class Solver(InitialGuesses):
    """How linear systems `A x = b` are solved: KSP, preconditioner and level.

    The backward pass of a solve solves the adjoint system `Aᵀ λ = ∂L/∂x` with the same method, at
    its own level. A solver can be used for several operators. For each operator it keeps a forward
    and an adjoint KSP that share one preconditioner, which is set up again only after the
    operator's values have changed.

    Parameters
    ----------
    ksp : str, default "gmres"
        PETSc's name of the Krylov method, e.g. "cg", "gmres", "bcgs", "richardson", "preonly"; also
        "steepest_descent", for symmetric positive definite matrices; and "batched_cg",
        "batched_gmres", "batched_bcgs", "batched_richardson", which solve for all right-hand sides
        together in tensors on their device (docs/howto/batched.md).
    pc : str or ShellPreconditioner, default "jacobi"
        PETSc's name of the preconditioner, e.g. "jacobi", "bjacobi", "asm", "ilu", "lu", "gamg",
        "none". "mg" is geometric multigrid on the operator's grid; "constraint" is the
        preconditioner of the Navier–Stokes operator; a `ShellPreconditioner` wraps functions of the
        user.
    refinement : Refinement, int or float, optional
        Level of forward solves, and of adjoint solves unless `adjoint` is given. An int is a number
        of iterations, a float a relative tolerance. Default: `Refinement(rtol=1e-8)`.
    adjoint : Refinement, int or float, optional
        Level of adjoint solves. Default: the level of forward solves, also after `refine`.
    petsc_options : dict, optional
        Other PETSc options, without the dash: `{"ksp_gmres_restart": 8}`. Options that begin with
        "adjoint_" are for the adjoint KSP only: `{"adjoint_ksp_gmres_restart": 20}`.
    differentiation : {"implicit", "unrolled"}, default "implicit"
        "implicit": the backward pass solves the adjoint system. "unrolled": it differentiates the
        iterations of the forward solve (`ksp` must be richardson, steepest_descent, cg, gmres or
        bcgs).
    options_prefix : str, optional
        Prefix of this solver's options on the command line of a script that calls
        `petsc4py.init(sys.argv)`: with "heat_", `-heat_ksp_type cg -heat_pc_type icc` selects the
        method, and other options take precedence over `petsc_options`. They are read when the
        solver is made. Default: no options are read; options without a prefix are never read.
    lag_preconditioner : int or "auto", optional
        When the preconditioner is set up again. None (default): after each change of the matrix; n:
        after every n-th change; "auto": when solves need 1.5 times as many iterations as with a new
        preconditioner (docs/howto/solving.md). Not available for M matrices at once, for
        matrix-free operators, or with `differentiation="unrolled"`.
    initial_guess : {"zero", "state", "last"}, default "zero"
        Where solves start (docs/howto/solving.md). "zero": at zero, unless `solve` is called with a
        guess; "state": at the state before the time step, which must be passed to each `solve` as
        its guess; "last": at the last solution of the same sample (see `samples`), forward and
        adjoint. With "zero" and "state", adjoint solves start at zero.
    precision : {"float64", "float32"}, default "float64"
        Precision of the iterations of a batched method (docs/howto/batched.md).

    Attributes
    ----------
    batched : str or None
        PETSc's name of the iteration of a batched method; None for other methods.
    engine : Any
        State of batched solves, made on first use.
    report : SolveReport
        Numbers of solves, iterations and set-ups, and the seconds of each part, separately for
        forward and adjoint solves.

    Raises
    ------
    InputError
        If this PETSc does not have the KSP or PC, if a solver cannot use it, if an option
        duplicates an argument (`ksp_type`, `ksp_rtol`, `ksp_max_it`, ...), or if a level or another
        argument is out of range.

    Notes
    -----
    PETSc manual pages: KSPSolve, KSPSolveTranspose, KSPSetTolerances.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Solver, SparseOperator, solve
    >>> operator = SparseOperator([0, 1], [0, 1], (2, 2), symmetric=True)
    >>> solver = Solver("cg", "jacobi", refinement=1e-10, adjoint=3)
    >>> b = torch.ones(2, dtype=torch.float64, requires_grad=True)
    >>> solve(operator, torch.tensor([2.0, 4.0]).double(), b, solver).sum().backward()
    >>> b.grad
    tensor([0.5000, 0.2500], dtype=torch.float64)
    >>> solver.report.forward.solves, solver.report.adjoint.solves
    (1, 1)
    """

    def __init__(
        self,
        ksp: str = "gmres",
        pc: str | ShellPreconditioner = "jacobi",
        refinement: Refinement | int | float | None = None,
        adjoint: Refinement | int | float | None = None,
        petsc_options: Mapping[str, Any] | None = None,
        differentiation: Differentiation = "implicit",
        options_prefix: str | None = None,
        lag_preconditioner: Lag = None,
        initial_guess: InitialGuess = "zero",
        precision: Literal["float64", "float32"] = "float64",
    ) -> None:
        if not (isinstance(differentiation, str) and differentiation in DIFFERENTIATIONS):
            raise InputError(
                f"differentiation must be one of {', '.join(DIFFERENTIATIONS)}, not "
                f"{differentiation!r}"
            )
        self.differentiation = differentiation
        self.petsc_options = checked_options(petsc_options)
        check_owned(self.petsc_options)
        self.options_prefix = options_prefix
        self.shell = pc if isinstance(pc, ShellPreconditioner) else None
        self.adopted: Any = None
        if options_prefix is not None:
            chosen = options_under(options_prefix)
            ksp = chosen.pop("ksp_type", ksp)
            if self.shell is None:
                pc = chosen.pop("pc_type", pc)
            check_owned(chosen, options_prefix)
            self.petsc_options |= chosen
        self.ksp = checked_ksp(ksp)
        self.pc = "shell" if self.shell is not None else checked_pc(pc)
        check_symmetric(self.ksp, self.pc, self.petsc_options)
        check_batched(self.ksp, self.pc, precision, differentiation)
        self.precision = precision
        self.batched = BATCHED_KSPS.get(self.ksp)
        self.engine: Any = None
        if differentiation == "unrolled":
            check_unrolled(self.ksp, self.pc)
        self.lag_preconditioner = checked_lag(lag_preconditioner)
        check_lag(self.lag_preconditioner, self.ksp, differentiation)
        InitialGuesses.__init__(self, initial_guess)
        self.report = SolveReport()
        self._systems: weakref.WeakKeyDictionary[Operator, LinearSystem] = (
            weakref.WeakKeyDictionary()
        )
        self._earlier: dict[int, dict[str, Any]] = {}
        self._own_adjoint: Refinement | None = None
        self.refine(Refinement() if refinement is None else refinement, adjoint)
        register(self)

    @classmethod
    def from_ksp(
        cls,
        ksp: PETSc.KSP,
        refinement: Refinement | int | float | None = None,
        adjoint: Refinement | int | float | None = None,
        lag_preconditioner: Lag = None,
        initial_guess: InitialGuess = "zero",
    ) -> Solver:
        """Make a solver from a petsc4py KSP that the user configured, for one operator.

        The KSP keeps its type, its PC (also a PC in Python, or one with another matrix), options,
        monitors, absolute tolerance and divergence tolerance. Its matrix is replaced by the
        operator's. Adjoint solves call its `solveTranspose`, or for a symmetric matrix its `solve`;
        a PC in Python then needs `applyTranspose`. `differentiation` is "implicit".

        Parameters
        ----------
        ksp : petsc4py.PETSc.KSP
            A KSP with its types set, on the operator's ranks. It belongs to the solver afterwards,
            which sets its relative tolerance, norm type and maximum of iterations at each solve.
        refinement : Refinement, int or float, optional
            Level of forward solves. Default: the KSP's rtol, where reaching the KSP's maximum of
            iterations is an error; for a KSP that computes no norm, that many iterations.
        adjoint : Refinement, int or float, optional
            Level of adjoint solves, as for `Solver`.
        lag_preconditioner : int or "auto", optional
            As for `Solver`. "auto" uses the KSP's residual history; a KSP with a separate matrix
            for its preconditioner is never lagged.
        initial_guess : {"zero", "state", "last"}, default "zero"
            As for `Solver`.

        Returns
        -------
        Solver
            The solver, whose KSP is `ksp`.

        Raises
        ------
        InputError
            For a KSP without types, with an initial guess, with a user-defined convergence test,
            with diagonal scaling, or of a type that a solver cannot use; at the first solve for a
            KSP of other ranks or sizes, or one that computes its matrix itself.

        Notes
        -----
        PETSc manual pages: KSPSolve, KSPSolveTranspose.

        Examples
        --------
        >>> import torch
        >>> from prdp_hpc import Solver, SparseOperator, solve
        >>> from prdp_hpc.petsc import PETSc
        >>> ksp = PETSc.KSP().create()
        >>> ksp.setType("fgmres")
        >>> ksp.setGMRESRestart(50)
        >>> ksp.getPC().setType("bjacobi")
        >>> ksp.setTolerances(rtol=1e-9)
        >>> operator = SparseOperator([0, 1], [0, 1], (2, 2))
        >>> values, b = torch.tensor([2.0, 4.0]).double(), torch.ones(2).double()
        >>> solve(operator, values, b, Solver.from_ksp(ksp))
        tensor([0.5000, 0.2500], dtype=torch.float64)
        """
        check_adoptable(ksp)
        solver = cls(refinement=level_of(ksp) if refinement is None else refinement)
        solver.ksp, solver.pc = str(ksp.getType()), str(ksp.getPC().getType())
        solver.adopted = ksp
        solver.lag_preconditioner = checked_lag(lag_preconditioner)
        check_lag(solver.lag_preconditioner, solver.ksp, solver.differentiation)
        solver.initial_guess = checked_guess(initial_guess)
        solver.refine(solver.refinement, adjoint)
        return solver

    def __repr__(self) -> str:
        return (
            f"Solver(ksp={self.ksp!r}, pc={self.pc!r}, refinement=({self.refinement}), "
            f"adjoint=({self.adjoint}))"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy or pickle the settings only: the copy is a new solver without KSPs."""
        if self.adopted is not None:
            raise InputError(
                "a Solver made from a KSP cannot be copied or pickled, because PETSc cannot copy a "
                "KSP: make another KSP, and call Solver.from_ksp with it"
            )
        settings = {
            "ksp": self.ksp,
            "pc": self.pc if self.shell is None else self.shell,
            "refinement": self.refinement,
            "adjoint": self._own_adjoint,
            "petsc_options": dict(self.petsc_options),
            "differentiation": self.differentiation,
            "options_prefix": self.options_prefix,
            "lag_preconditioner": self.lag_preconditioner,
            "initial_guess": self.initial_guess,
            "precision": self.precision,
        }
        return _with_settings, (settings, self.own_levels)

    def refine(
        self, level: Refinement | int | float, adjoint: Refinement | int | float | None = None
    ) -> None:
        """Change the level of later solves; preconditioners are kept.

        A solve keeps the levels that were set when it was called, for its derivatives too.

        Parameters
        ----------
        level : Refinement, int or float
            Level of forward solves.
        adjoint : Refinement, int or float, optional
            Level of adjoint solves. Default: the adjoint level that was set last, here or in the
            constructor; if there is none, `level`.
        """
        refinement = Refinement.of(level)
        if adjoint is not None:
            self._own_adjoint = Refinement.of(adjoint)
        self.refinement, self.adjoint = refinement, self._own_adjoint or refinement

    @property
    def own_levels(self) -> tuple[Refinement, Refinement]:
        """The levels of forward and of adjoint solves."""
        return self.refinement, self.adjoint

    def set_levels(self, refinement: Refinement, adjoint: Refinement) -> None:
        """Set both levels, without changing the adjoint level that `refine` uses by default."""
        self.refinement, self.adjoint = refinement, adjoint

    def system(self, operator: Operator) -> LinearSystem:
        """Return the KSPs of one operator; they are made on first use, which is collective."""
        found = self._systems.get(operator)
        if found is None or found.broken or not found.is_made_for(operator):
            self._check_adopted(found)
            found = LinearSystem(operator, self)
            self._systems[operator] = found
            self._resume(operator, found)
        return found

    def replace_systems(self, operators: Iterable[Operator]) -> None:
        """Make new KSPs for these operators at their next solves, because a solve has failed.

        A KSP that the user made is kept.
        """
        for operator in operators if self.adopted is None else ():
            found = self._systems.get(operator)
            if found is not None:
                found.broken = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later solves depend on, besides levels and arguments, on this rank.

        It holds the values that lagged preconditioners were made from and, with
        `initial_guess="last"`, the stored solutions. Not collective.

        Returns
        -------
        dict
            Plain values and tensors, for `load_state_dict`.
        """
        lags = dict(self._earlier)
        for operator, system in self._systems.items():
            state = system.lag_state()
            if state is not None:
                lags[self._numbers[operator]] = state
        return {"lags": lags, "last": self._last.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`, so that later solves give the same numbers; not collective.

        Operators are identified by the order of their first solves.

        Parameters
        ----------
        state : dict
            The result of `state_dict`.
        """
        self._last.load_state_dict(state["last"])
        self._earlier = dict(state["lags"])
        for operator, system in self._systems.items():
            self._resume(operator, system)

    def _resume(self, operator: Operator, system: LinearSystem) -> None:
        """Load a system's state from an earlier run."""
        if isinstance(operator, BatchMatrix):
            return
        number = self._number(operator)
        if number in self._earlier:
            system.load_lag_state(self._earlier.pop(number))

    def device_for(self, operator: Operator, device: torch.device) -> torch.device:
        """Return where solves for tensors of a device compute; collective at first."""
        return device if self.batched is not None else operator.on(device).memory.device

    def _check_adopted(self, found: LinearSystem | None) -> None:
        """Raise an InputError if another system would need another KSP."""
        if self.adopted is None or not self._systems:
            return
        what = "solves with one matrix, but this is another operator or a batch of matrices"
        if found is not None and found.broken:
            what = "failed inside PETSc in its last solve"
        elif found is not None:
            return
        raise InputError(f"the KSP of Solver.from_ksp {what}: make another KSP and Solver")


def _with_settings(settings: dict[str, Any], levels: tuple[Refinement, Refinement]) -> Solver:
    # The settings include options under the prefix, which may have changed since.
    prefix = settings.pop("options_prefix")
    solver = Solver(**settings)
    solver.options_prefix = prefix
    solver.set_levels(*levels)
    return solver
