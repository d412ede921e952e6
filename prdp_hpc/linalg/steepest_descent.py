"""Steepest descent, which PETSc does not have, as a combination of its KSPs."""

from __future__ import annotations

from typing import Any

from prdp_hpc.petsc import PETSc


def line_search(ksp: Any) -> Any:
    """Configure a KSP as steepest descent; returns the PC to configure as its preconditioner.

    Richardson's method with one iteration of CG as preconditioner: from zero, that is `α z` with `z
    = M⁻¹ r` and `α = ⟨r, z⟩ / ⟨z, A z⟩`. PETSc manual page: PCKSP.
    """
    ksp.setType(PETSc.KSP.Type.RICHARDSON)
    # The unpreconditioned norm: Richardson's method would use the correction as the preconditioned
    # residual, which is no estimate of the error.
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.getPC().setType(PETSc.PC.Type.KSP)
    # The line search uses A, also if M is made from another matrix.
    ksp.getPC().setUseAmat(True)
    inner = ksp.getPC().getKSP()
    inner.setType(PETSc.KSP.Type.CG)
    inner.setNormType(PETSc.KSP.NormType.NONE)
    inner.setConvergenceTest(None)
    inner.setTolerances(max_it=1)
    # Its options have the usual names of a preconditioner's options, not "ksp_pc_…".
    inner.getPC().setOptionsPrefix(ksp.getOptionsPrefix())
    return inner.getPC()
