"""The forward and the adjoint KSP of one solver for one operator, with equal settings."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.ksp_level import has_monitors, iterate_with_the_matrix
from prdp_hpc.linalg.lagged_matrix import LaggedMatrix, create_lagged_matrix
from prdp_hpc.linalg.method_types import MIRRORED_KSPS, OWN_PRECONDITIONERS, STATEFUL_KSPS
from prdp_hpc.linalg.multi_rhs import MultiRhsRichardson, multi_rhs_richardson
from prdp_hpc.linalg.multigrid import attach_hierarchy
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import (
    ADJOINT,
    check_owned,
    check_shifts,
    new_prefix,
    refused,
    relative_breakdown,
    relative_estimates,
    relative_inner_solves,
    remove_options,
    remove_prefix,
    repeatable,
    set_options,
    smoothing,
    symmetric_overlap,
    symmetric_parts,
    take_options,
)
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.linalg.shell_preconditioner import ShellContext
from prdp_hpc.linalg.stalled import RESTARTING_KSPS, end_without_progress
from prdp_hpc.linalg.steepest_descent import line_search
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.solver import Solver

UNSET = Refinement()
"""The level of a direction before the solver sets one."""


@dataclass
class Direction:
    """Solves with A, or those of the adjoint system.

    Attributes
    ----------
    name : "forward" or "adjoint", as in `SolveReport` and messages.
    ksp : the KSP.
    norm : the norm that a tolerance refers to.
    transposed : whether the KSP solves with Aᵀ (KSPSolveTranspose).
    level : the level of the solver, or of a solve, that the KSP is set to.
    is_monitored, owns_monitors : whether the package has set a monitor at this level, and whether
        all monitors are its own, see `ksp_level`.
    is_plain : whether a solve is one call of the KSP.
    is_unchecked : whether that call's result needs no check at this level, if the KSP succeeded.
    """

    name: str
    ksp: Any
    norm: Any
    transposed: bool = False
    level: Refinement = UNSET
    is_monitored: bool = False
    owns_monitors: bool = False
    is_plain: bool = False
    is_unchecked: bool = False

    @property
    def has_absolute_tolerance(self) -> bool:
        """Whether the user set an absolute tolerance, in petsc_options or on the KSP."""
        return bool(self.ksp.getTolerances()[1] > 0.0)


@dataclass(eq=False)
class KspPair:
    """Both directions, and the data that they share.

    Attributes
    ----------
    pmat : the matrix that the preconditioner is made from.
    preconditioner : the PC of both.
    can_skip_norm : whether the method can do a fixed number of iterations.
    divtol, max_it : growth of the residual, and number of iterations, at which a solve with a
        tolerance fails.
    prefix : prefix of the KSPs' options in PETSc's database.
    options : the user's options, until PETSc has used them.
    multi_rhs : multi-right-hand-side solves, where they are equivalent.
    lagged : `pmat` where it is a copy of earlier values, see `Solver`.
    is_one_ksp : whether one KSP, which the user made, does the solves of both directions.
    directions : both by their names.
    symmetric_parts : options for parts of the preconditioner that rely on `A = Aᵀ`.
    """

    forward: Direction
    adjoint: Direction
    pmat: Any
    preconditioner: Any
    can_skip_norm: bool
    divtol: float
    max_it: int = DEFAULT_MAX_IT
    prefix: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    multi_rhs: MultiRhsRichardson | None = None
    lagged: LaggedMatrix | None = None
    is_one_ksp: bool = False
    symmetric_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.directions = {one.name: one for one in (self.forward, self.adjoint)}

    @cached_property
    def is_stateful(self) -> bool:
        """Whether the method, which a user may change only on an own KSP, starts with what the
        solve before left.
        """
        return self.is_one_ksp or self.forward.ksp.getType() in STATEFUL_KSPS

    def keep(self) -> None:
        """Never free the KSPs: PETSc aborts when it frees KSPs that failed in a set-up."""
        for direction in (self.forward, self.adjoint):
            PETSc.Object.incRef(direction.ksp)


def create_pair(operator: Operator, solver: Solver, transposed: bool) -> KspPair:
    """KSPs with a solver's method and options; collective. `transposed`: whether the adjoint system
    is solved with Aᵀ.

    Raises
    ------
    ValueError
        For a preconditioner that this operator does not support, or options that PETSc refuses.
    """
    ksp = PETSc.KSP().create(comm=operator.comm)
    try:
        return _configured(ksp, operator, solver, transposed)
    except BaseException:
        PETSc.Object.incRef(ksp)  # As in `KspPair.keep`.
        remove_prefix(ksp.getOptionsPrefix())
        raise


def _configured(ksp: Any, operator: Operator, solver: Solver, transposed: bool) -> KspPair:
    # The prefix is set first, because the levels of a hierarchy and the parts of a split copy it
    # when they are made.
    check_shifts(solver.pc, solver.petsc_options)
    parts = symmetric_parts(solver.petsc_options)
    check_owned(solver.petsc_options)
    prefix = new_prefix()
    ksp.setOptionsPrefix(prefix)
    lagged = None
    if solver.lag_preconditioner not in (None, 1):
        lagged = create_lagged_matrix(operator, solver.pc)
    source = operator.preconditioning_operator
    pmat = source.matrix if lagged is None else lagged.matrix
    ksp.setOperators(operator.matrix, pmat)
    if solver.ksp == "steepest_descent":
        pc = line_search(ksp)
    else:
        ksp.setType(solver.ksp)
        pc = ksp.getPC()
    hierarchy = _set_preconditioner(pc, operator, solver, transposed)
    if lagged is not None:
        # Multigrid smooths the finest level with A, for which its earlier bounds of the spectrum
        # are no longer valid.
        pc.setUseAmat(False)
    # No absolute tolerance: small right-hand sides are solved too.
    ksp.setTolerances(atol=0.0)
    given = solver.petsc_options
    defaults = {
        **hierarchy,
        **relative_breakdown(solver.ksp),
        **relative_estimates(solver.ksp, solver.pc),
        **relative_inner_solves(solver.pc),
        **repeatable(solver.pc, given),
        **symmetric_overlap(solver.ksp, solver.pc),
        **smoothing(solver.ksp, solver.pc, given, bool(operator.memory.kind)),
    }
    names = set_options(prefix, {**defaults, **solver.petsc_options})
    take_options(ksp, given)
    can_skip_norm = _allow_skipping_the_norm(ksp, solver)
    forward = Direction("forward", ksp, ksp.getNormType())
    adjoint = _adjoint_of(forward, prefix, solver.petsc_options, transposed)
    for one in (forward, adjoint):
        if one.ksp.getType() in RESTARTING_KSPS:
            end_without_progress(one.ksp)
    multi_rhs = None
    if ksp.getType() == PETSc.KSP.Type.RICHARDSON:
        for one in (forward, adjoint):
            iterate_with_the_matrix(one.ksp)
            one.owns_monitors = operator.matrix.handle == pmat.handle and not has_monitors(given)
        if source is operator and not operator.memory.uses_tensors:
            multi_rhs = multi_rhs_richardson(ksp, operator.matrix, pmat)
    pair = KspPair(
        forward,
        adjoint,
        pmat=pmat,
        preconditioner=pc,
        can_skip_norm=can_skip_norm,
        divtol=ksp.getTolerances()[2],
        prefix=prefix,
        options=dict(solver.petsc_options),
        multi_rhs=multi_rhs,
        lagged=lagged,
        symmetric_parts=parts,
    )
    weakref.finalize(pair, remove_options, names)
    return pair


def _set_preconditioner(
    pc: Any, operator: Operator, solver: Solver, transposed: bool
) -> dict[str, Any]:
    """Set the type and its data; returns the default options of a hierarchy."""
    if solver.shell is not None:
        pc.setType(PETSc.PC.Type.PYTHON)
        pc.setPythonContext(ShellContext(solver.shell))
        return {}
    if solver.pc not in OWN_PRECONDITIONERS:
        try:
            pc.setType(solver.pc)
        except PETSc.Error as error:
            # E.g. a type for all ranks of the job only.
            raise errors.unusable_preconditioner(solver.pc, error) from error
    operator.attach_preconditioner(pc, solver.pc)
    return attach_hierarchy(pc, operator, transposed) if solver.pc == "mg" else {}


def _allow_skipping_the_norm(ksp: Any, solver: Solver) -> bool:
    try:
        return allow_skipping_the_norm(ksp)
    except PETSc.Error as error:
        # The method does not support this side or norm, which PETSc detects only here.
        raise refused(solver.petsc_options, error) from error


def allow_skipping_the_norm(ksp: Any) -> bool:
    """Whether the KSP can do a fixed number of iterations.

    Some methods can skip the norm only with right preconditioning; they are switched to it. PETSc
    manual page: KSPSetPCSide.
    """
    wanted, side = ksp.getNormType(), ksp.getPCSide()
    if skips_norm(ksp):
        ksp.setNormType(wanted)
        return True
    # PETSc's bcgsl (3.26) omits the last application of a right preconditioner, so its solution is
    # wrong.
    if ksp.getType() != PETSc.KSP.Type.BCGSL:
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
        if skips_norm(ksp):
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
            return True
    ksp.setPCSide(side)
    ksp.setNormType(wanted)
    return False


def forget(ksp: Any) -> None:
    """Free the work vectors of a method that would start with their numbers."""
    if ksp.getType() in STATEFUL_KSPS:
        # KSPReset would also reset the preconditioner.
        pc, matrices = ksp.getPC(), ksp.getOperators()
        ksp.setPC(PETSc.PC().create(ksp.comm))
        ksp.reset()
        ksp.setPC(pc)
        ksp.setOperators(*matrices)


def skips_norm(ksp: Any) -> bool:
    """Set the norm to none if the KSP allows it on its preconditioning side; whether it does."""
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    try:
        ksp.getNormType()
    except PETSc.Error:
        return False
    return True


def _adjoint_of(
    forward: Direction, prefix: str, options: dict[str, Any], transposed: bool
) -> Direction:
    """A KSP of the same type and options that shares the preconditioner."""
    ksp = PETSc.KSP().create(comm=forward.ksp.comm)
    ksp.setType(forward.ksp.getType())
    # Its options are read without the preconditioner, whose options were read before.
    ksp.getPC().setType(PETSc.PC.Type.NONE)
    ksp.setTolerances(atol=0.0)
    for own in (prefix, prefix + ADJOINT):
        ksp.setOptionsPrefix(own)
        take_options(ksp, options)
    ksp.setPC(forward.ksp.getPC())
    side = forward.ksp.getPCSide()
    ksp.setPCSide(side)
    norm = forward.norm
    if transposed and side == PETSc.PC.Side.LEFT and ksp.getType() in MIRRORED_KSPS:
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
        norm = PETSc.KSP.NormType.UNPRECONDITIONED
    return Direction("adjoint", ksp, norm, transposed)
