"""How a level is set on a KSP of PETSc.

PETSc counts the iterations of some methods differently (3.26): with a norm they do one iteration
after the maximum (`LATE_KSPS`), or they do two at a time and end before the maximum
(`PAIRED_KSPS`). It leaves the iterations of Richardson's method to SOR, multigrid and telescope
(PCApplyRichardson) if there is no monitor. SOR computes no residual: it does the maximum number of
iterations and reports convergence, for any tolerance. A monitor that does nothing prevents that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import (
    DIRECT_PCS,
    NATURAL_NORM_KSPS,
    ONE_APPLICATION_KSPS,
    ORTHOGONAL_KSPS,
    UNGUARDED_KSPS,
)
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.ksp_pair import Direction, KspPair

# A growth of the residual that no solve reaches.
NEVER = 1e150

LATE_KSPS = frozenset({"pipecg", "pipecgrr", "pipecr", "pipeprcg"})
PAIRED_KSPS = frozenset({"pipecg2"})


def set_level(
    pair: KspPair, direction: Direction, level: Refinement, method: tuple[str, str], ends: bool
) -> None:
    """Set the level of a direction; InputError for a level that the method cannot do.

    `method`: the types of KSP and PC; `ends`: see `apply_level`.
    """
    ksp, pc = method
    check_count(ksp, pc, level)
    if level.is_fixed and not pair.can_skip_norm:
        raise InputError(
            f"ksp={ksp!r} cannot do a fixed number of iterations: set an rtol too, or use another "
            "ksp"
        )
    direction.level = level
    apply_level(pair, direction, ksp, ends)


def apply_level(pair: KspPair, direction: Direction, name: str, ends: bool) -> None:
    """Give the level of a direction to its KSP, of the type `name`. `ends`: whether a fixed number
    of iterations ends early when only rounding is left.
    """
    ksp, level = direction.ksp, direction.level
    rtol, divtol, norm = level.rtol, pair.divtol, direction.norm
    if level.is_fixed and ends:
        rtol, divtol = rounding(name), NEVER
        norm = PETSc.KSP.NormType.NATURAL if name in NATURAL_NORM_KSPS else norm
    elif rtol is not None and level.max_it is not None and name in UNGUARDED_KSPS:
        # Else they would iterate on rounding up to the level's iterations.
        rtol = max(rtol, rounding(name))
    elif level.is_fixed:
        norm = PETSc.KSP.NormType.NONE
    ksp.setNormType(norm)
    # None: the test of the norm; the norm alone would end as DIVERGED_MAX_IT.
    ksp.setConvergenceTest(None)
    # 0, because Richardson's method delegates its iterations to some preconditioners, which read
    # rtol but not the norm type.
    max_it = maximum(name, level.max_it, pair.max_it, norm)
    ksp.setTolerances(rtol=rtol or 0.0, divtol=divtol, max_it=max_it)
    require_tests(direction)


def check_count(ksp: str, pc: str, level: Refinement) -> None:
    """Raise InputError for a number of iterations that a method cannot do."""
    if ksp in ONE_APPLICATION_KSPS and pc not in DIRECT_PCS:
        if level.is_fixed and level.max_it != 1:
            raise InputError(
                f"ksp={ksp!r} applies the preconditioner once and cannot do {level.max_it} "
                "iterations: use ksp='richardson' for that many applications, or max_it=1"
            )
    elif ksp in PAIRED_KSPS and level.max_it is not None:
        raise InputError(
            f"ksp={ksp!r} does two iterations at a time, and breaks down without an error if "
            "the first one reaches the solution, so its level must be a tolerance, e.g. 1e-8: use "
            "ksp='pipecg' for a number of iterations"
        )


def maximum(ksp: str, max_it: int | None, otherwise: int, norm: int) -> int:
    """PETSc's maximum of iterations for a level's `max_it`, or for none, with this norm."""
    if max_it is None:
        return otherwise
    if ksp in LATE_KSPS and norm != PETSc.KSP.NormType.NONE:
        return max_it - 1
    return max_it


def rounding(ksp: str) -> float:
    """The relative residual at which a fixed number of iterations ends early, because only rounding
    is left.
    """
    return 1e-10 if ksp in UNGUARDED_KSPS and ksp not in ORTHOGONAL_KSPS else 1e-14


_WITHOUT_TESTS = (PETSc.PC.Type.SOR,)
# It can do one delegated iteration, and fails for more.
_NEVER = (PETSc.PC.Type.TELESCOPE,)


def iterate_with_the_matrix(ksp: Any) -> None:
    """Keep Richardson's method from delegating its iterations to a preconditioner that is made from
    another matrix: PETSc's SOR and multigrid would solve with that matrix (3.26).
    """
    matrix, pmat = ksp.getOperators()
    if ksp.getType() == PETSc.KSP.Type.RICHARDSON and matrix.handle != pmat.handle:
        ksp.setMonitor(_ignore)


def has_monitors(options: Iterable[str]) -> bool:
    """Whether options may set monitors of PETSc."""
    return any("monitor" in key for key in options)


def require_tests(direction: Direction) -> None:
    """Keep Richardson's method from delegating iterations at a level with a tolerance to a
    preconditioner that does not test it. With a fixed number of iterations SOR takes about half the
    time if they are delegated.
    """
    ksp = direction.ksp
    if ksp.getType() != PETSc.KSP.Type.RICHARDSON:
        return
    kind = ksp.getPC().getType()
    if kind not in _WITHOUT_TESTS + _NEVER:
        return
    # PETSc removes all monitors of a KSP or none, so not where the user may have set some.
    keeps = kind in _NEVER or not direction.owns_monitors
    wanted = keeps or not direction.level.is_fixed
    if wanted and not direction.is_monitored:
        ksp.setMonitor(_ignore)
    elif direction.is_monitored and not wanted:
        ksp.monitorCancel()
    direction.is_monitored = wanted


def _ignore(ksp: Any, iteration: int, norm: float) -> None:
    pass
