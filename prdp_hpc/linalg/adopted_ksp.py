"""KSPs that the user made and configured, for `Solver.from_ksp`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.ksp_level import iterate_with_the_matrix
from prdp_hpc.linalg.ksp_pair import Direction, KspPair, skips_norm
from prdp_hpc.linalg.lagged_matrix import create_lagged_matrix
from prdp_hpc.linalg.method_types import unfit
from prdp_hpc.linalg.operator import LoadedValues, Operator
from prdp_hpc.linalg.options import bare, check_owned, symmetric_parts_under
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.solver import Solver

_HONOURED = ("ksp_type", "pc_type", "ksp_rtol", "ksp_max_it", "ksp_norm_type")


def check_adoptable(ksp: Any) -> None:
    """Raise a ValueError for a KSP whose settings a `Solver` cannot use; not collective."""
    if not isinstance(ksp, PETSc.KSP) or not ksp.handle:
        raise InputError(f"from_ksp takes a petsc4py KSP, not {type(ksp).__name__}")
    names = {"ksp": ksp.getType(), "pc": ksp.getPC().getType()}
    for what, name in names.items():
        if name is None:
            raise InputError(
                f"the KSP has no {what} type yet: set the type, or call its setFromOptions()"
            )
        why = unfit(what, name)
        if why is not None:
            raise InputError(f"a KSP with {what}={name!r} cannot be used in a Solver: {why}")
    if ksp.getInitialGuessNonzero() or ksp.getInitialGuessKnoll():
        raise InputError(
            "the KSP has an initial guess, but a Solver sets it by "
            "Solver.from_ksp(ksp, initial_guess=...): call setInitialGuessNonzero(False)"
        )
    if ksp.getConvergenceTest() is not None:
        raise InputError(
            "the KSP has a convergence test in Python, but a Solver sets the test of each level: "
            "call setConvergenceTest(None)"
        )
    prefix = ksp.getOptionsPrefix() or ""
    options = {
        key.removeprefix(prefix): value
        for key, value in PETSc.Options().getAll().items()
        if key.startswith(prefix) and bare(key.removeprefix(prefix)) not in _HONOURED
    }
    check_owned(options, prefix)


def level_of(ksp: Any) -> Refinement:
    """The level that a user's KSP is set to: its rtol, or its iterations where it computes no
    norm.

    Raises
    ------
    ValueError
        Where neither is a level.
    """
    rtol, _, _, max_it = ksp.getTolerances()
    if ksp.getNormType() == PETSc.KSP.NormType.NONE:
        return Refinement(max_it=int(max_it))
    if not 0.0 < rtol < 1.0:
        raise InputError(
            f"the KSP's rtol is {rtol:g}, which is not between 0 and 1: set the level by "
            "Solver.from_ksp(ksp, refinement=...)"
        )
    return Refinement(rtol=float(rtol))


def adopted_pair(operator: Operator, solver: Solver, transposed: bool) -> KspPair:
    """A user's KSP in both directions: adjoint solves are its KSPSolveTranspose, or for symmetric
    matrices its KSPSolve; collective.

    Raises
    ------
    ValueError
        For a KSP of other ranks or, once it is set up, of other sizes.
    """
    ksp = solver.adopted
    own = ksp.getOperators()[1]
    is_other = (
        own.handle and own.getType() is not None and own.handle != ksp.getOperators()[0].handle
    )
    pmat = own if is_other else operator.matrix
    if operator.preconditioner is not None:
        pmat = operator.preconditioning_operator.matrix
    # The values of a separate matrix of the user do not come from this operator.
    lagged = None
    if pmat is not own and solver.lag_preconditioner not in (None, 1):
        lagged = create_lagged_matrix(operator, solver.pc)
    if lagged is not None:
        pmat = lagged.matrix
    try:
        ksp.setOperators(operator.matrix, pmat)
    except PETSc.Error as error:
        raise InputError(
            "the KSP was made for other ranks, or set up for a matrix of other sizes, than this "
            "operator's: make another KSP, or call its reset()"
        ) from error
    iterate_with_the_matrix(ksp)
    if lagged is not None:
        ksp.getPC().setUseAmat(False)
    norm = ksp.getNormType()
    counts = norm == PETSc.KSP.NormType.NONE
    norm = PETSc.KSP.NormType.DEFAULT if counts else norm
    tolerances = ksp.getTolerances()
    return KspPair(
        Direction("forward", ksp, norm),
        Direction("adjoint", ksp, norm, transposed),
        pmat=pmat,
        preconditioner=ksp.getPC(),
        # The level and its norm are set before each solve.
        can_skip_norm=skips_norm(ksp),
        divtol=tolerances[2],
        max_it=DEFAULT_MAX_IT if counts else int(tolerances[3]),
        lagged=lagged,
        is_one_ksp=True,
        symmetric_parts=symmetric_parts_under(ksp.getOptionsPrefix() or ""),
    )


def set_up(ksp: Any, operator: Operator) -> None:
    """Set a user's KSP up; collective.

    Raises
    ------
    ValueError
        If the KSP computes its matrix itself (KSPSetComputeOperators).
    """
    before = operator.matrix.stateGet()
    ksp.setUp()
    if ksp.getOperators()[0].handle == operator.matrix.handle:
        if operator.matrix.stateGet() == before:
            return
        # The set-up has overwritten the values that were loaded.
        operator.loaded = LoadedValues()
    raise InputError(
        "the KSP computes its matrix itself (setComputeOperators), so it would not use this "
        "operator's: make a KSP without setComputeOperators"
    )
