"""Steepest descent, which PETSc has no KSP for, made of those that it has."""

from __future__ import annotations

from typing import Any

from prdp_hpc.petsc import PETSc


def line_search(ksp: Any) -> Any:
    """Make a KSP do steepest descent; returns the PC that is to precondition it.

    Richardson's method with one iteration of CG as preconditioner: from zero, that is `α z` with `z
    = M⁻¹ r` and `α = ⟨r, z⟩ / ⟨z, A z⟩`. PETSc manual page: PCKSP.
    """
    ksp.setType(PETSc.KSP.Type.RICHARDSON)
    # The correction, which Richardson's method takes for a preconditioned residual, says little of
    # the error.
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.getPC().setType(PETSc.PC.Type.KSP)
    # The search is one for the matrix that is solved with, whatever M is made from.
    ksp.getPC().setUseAmat(True)
    inner = ksp.getPC().getKSP()
    inner.setType(PETSc.KSP.Type.CG)
    inner.setNormType(PETSc.KSP.NormType.NONE)
    inner.setConvergenceTest(None)
    inner.setTolerances(max_it=1)
    # Its options are those of any other solver's preconditioner, not "ksp_pc_…".
    inner.getPC().setOptionsPrefix(ksp.getOptionsPrefix())
    return inner.getPC()
