"""Richardson's method where PETSc delegates its iterations to the preconditioner.

PETSc delegates to SOR, multigrid and telescope (PCApplyRichardson), and only if there is no
monitor. SOR computes no residual: it does the maximum number of iterations and reports
convergence, for any tolerance (3.26). A monitor that does nothing prevents that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.ksp_pair import Direction

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
