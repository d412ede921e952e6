"""Which KSPs can do a fixed number of iterations without computing a norm."""

from __future__ import annotations

from typing import Any

from prdp_hpc.petsc import PETSc


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


def skips_norm(ksp: Any) -> bool:
    """Set the norm to none if the KSP allows it on its preconditioning side; whether it does."""
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    try:
        ksp.getNormType()
    except PETSc.Error:
        return False
    return True
