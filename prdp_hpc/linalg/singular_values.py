"""The singular values that `pc="svd"` takes for 0."""

from __future__ import annotations

from typing import Any

import numpy as np

from prdp_hpc.petsc import PETSc

ZERO = 1e-12
"""PETSc's number, which it compares with the singular values of matrices of any size; here it is
relative to the matrix if that is smaller than 1.
"""
ROUNDED = 8.0 * float(np.finfo(np.float64).eps)
"""Singular values that are smaller than this, relative to the matrix, are rounding errors."""
_OPTION = "pc_svd_zero_sing"


def relate_zero(pc: Any, matrix: Any) -> None:
    """Choose the number below which the singular values of a matrix are taken for 0, before a
    set-up, unless the user did; collective. For other preconditioners nothing is done.
    """
    if pc.getType() != PETSc.PC.Type.SVD:
        return
    database, name = PETSc.Options(), f"{pc.getOptionsPrefix() or ''}{_OPTION}"
    if database.hasName(name):
        return
    size = float(matrix.norm(PETSc.NormType.FROBENIUS))
    database.setValue(name, max(ZERO * min(1.0, size), ROUNDED * size))
    try:
        pc.setFromOptions()
    finally:
        database.delValue(name)
