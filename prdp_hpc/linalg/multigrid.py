"""Geometric multigrid on the operator's grid."""

from __future__ import annotations

from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.grid import Grid
from prdp_hpc.linalg.operator import Operator

# One symmetric sweep of Gauss-Seidel smooths best, but PETSc has no transpose of it; two damped
# Jacobi sweeps have one.
_SYMMETRIC_SMOOTHER = {"mg_levels_ksp_max_it": 1, "mg_levels_pc_type": "sor"}
_TRANSPOSED_SMOOTHER = {
    "mg_levels_ksp_max_it": 2,
    "mg_levels_pc_type": "jacobi",
    "mg_levels_ksp_richardson_scale": 0.8,
}


def attach_hierarchy(pc: Any, operator: Operator, transposed: bool) -> dict[str, Any]:
    """Give a PCMG its levels: each grid has half the points per axis of the one above.

    The coarse matrices are Galerkin products `Pᵀ A P` with multilinear interpolation `P`, so any
    matrix on the grid will do. `transposed`: whether adjoint solves will apply the transpose.
    Returns the options that go with the hierarchy, which a user's options may replace.

    Raises
    ------
    ValueError
        If the operator has no grid.

    Notes
    -----
    PETSc manual pages: PCMG, PCMGSetInterpolation, PCMGSetGalerkin.
    """
    if operator.grid is None:
        raise InputError(
            "pc='mg' makes its hierarchy from a grid, and this operator has none: use pc='gamg'"
        )
    grids = hierarchy(operator.grid)
    pc.setMGLevels(len(grids))
    for level in range(1, len(grids)):
        fine, coarse = grids[-1 - level], grids[-level]
        pc.setMGInterpolation(level, fine.interpolation_from(coarse))
    options = {
        "pc_mg_galerkin": "both",
        "mg_levels_ksp_type": "richardson",
        **(_TRANSPOSED_SMOOTHER if transposed else _SYMMETRIC_SMOOTHER),
    }
    if operator.matrix.getNullSpace():
        # The coarsest matrix is singular then too: LU divides by a pivot of rounding errors, and
        # the huge constant that comes out costs half of the digits.
        options |= {"mg_coarse_pc_type": "redundant", "mg_coarse_redundant_pc_type": "svd"}
    return options


def hierarchy(grid: Grid) -> list[Grid]:
    """The grid and its coarser ones, finest first."""
    grids = [grid]
    while (coarse := grids[-1].coarsen()) is not None:
        grids.append(coarse)
    return grids
