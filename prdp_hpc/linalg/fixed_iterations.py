"""Which KSPs can do a fixed number of iterations, without looking at a norm."""

from __future__ import annotations

from typing import Any

from prdp_hpc.petsc import PETSc


def allow_skipping_the_norm(ksp: Any) -> bool:
    """Whether the KSP can do a fixed number of iterations.

    Some methods can only skip the norm when they precondition from the right, and are switched to
    that; PETSc manual page: KSPSetPCSide.
    """
    wanted, side = ksp.getNormType(), ksp.getPCSide()
    if skips_norm(ksp):
        ksp.setNormType(wanted)
        return True
    # PETSc's bcgsl (3.26) leaves out the last application of a right preconditioner and so gives a
    # wrong solution.
    if ksp.getType() != PETSc.KSP.Type.BCGSL:
        ksp.setPCSide(PETSc.PC.Side.RIGHT)
        if skips_norm(ksp):
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
            return True
    ksp.setPCSide(side)
    ksp.setNormType(wanted)
    return False


def skips_norm(ksp: Any) -> bool:
    """Whether the KSP, on its side, can do without a norm; its norm is then set to none."""
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    try:
        ksp.getNormType()
    except PETSc.Error:
        return False
    return True
