"""Geometric multigrid on the operator's grid."""

from __future__ import annotations

import math
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.petsc import PETSc

NEARLY = math.sqrt(2.0)
"""Axes whose spacing is at most this multiple of the smallest spacing are coarsened too."""
SOLVED_DIRECTLY = 5_000
"""Largest number of points for which LU of a grid is cheaper than a poor coarser grid."""
SINGULAR = 1e-10
"""A product with constants, relative to the matrix, that is treated as 0."""

# A symmetric sweep of Gauss-Seidel is the best smoother, but PETSc cannot apply its transpose; for
# adjoint solves two damped Jacobi sweeps are used instead.
_SYMMETRIC_SMOOTHER = {"mg_levels_ksp_max_it": 1, "mg_levels_pc_type": "sor"}
_TRANSPOSED_SMOOTHER = {
    "mg_levels_ksp_max_it": 2,
    "mg_levels_pc_type": "jacobi",
    "mg_levels_ksp_richardson_scale": 0.8,
}


def attach_hierarchy(pc: Any, operator: Operator, transposed: bool) -> dict[str, Any]:
    """Set the levels of a PCMG: each coarser grid has half the points along the axes with the
    smallest spacing.

    The coarse matrices are Galerkin products `Pᵀ A P` with multilinear interpolation `P`, so any
    matrix on the grid can be used. `transposed`: whether adjoint solves apply the transpose.
    Returns the default options of the hierarchy, which the user's options may replace.

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
            "pc='mg' makes its hierarchy from a grid, but this operator has no grid: use pc='gamg'"
        )
    grids = hierarchy(operator.grid)
    pc.setMGLevels(len(grids))
    for level in range(1, len(grids)):
        fine, coarse = grids[-1 - level], grids[-level]
        matrix = fine.interpolation_from(coarse)
        if operator.memory.kind:
            matrix.convert(operator.memory.matrix_type)
        pc.setMGInterpolation(level, matrix)
    if operator.nullspaces is not None:
        coarse = pc.getMGCoarseSolve().getPC()
        coarse.setType(PETSc.PC.Type.PYTHON)
        coarse.setPythonContext(SingularLU())
    return {
        "pc_mg_galerkin": "both",
        "mg_levels_ksp_type": "richardson",
        # SOR would run on the host.
        **(_TRANSPOSED_SMOOTHER if transposed or operator.memory.kind else _SYMMETRIC_SMOOTHER),
    }


def hierarchy(grid: Grid) -> list[Grid]:
    """The grid and its coarser ones, finest first."""
    grids = [grid]
    # With one level only, the system would be smoothed, not solved.
    while (coarse := _coarser(grids[-1])) is not None and (
        len(grids) == 1 or not _is_last(grids[-1], coarse)
    ):
        grids.append(coarse)
    return grids


def _coarser(grid: Grid) -> Grid | None:
    """The grid with half the points along the axis with the smallest spacing, and along those with
    nearly the same: pointwise smoothing does not reduce errors along the others.
    """
    closest = min((grid.spacing[axis] for axis in grid.axes_to_coarsen), default=0.0)
    return grid.coarsen(
        [axis for axis in grid.axes_to_coarsen if grid.spacing[axis] <= NEARLY * closest]
    )


def _is_last(grid: Grid, coarse: Grid) -> bool:
    """Whether a grid is better solved than coarsened: it is small, and an axis that cannot be
    coarsened has a much smaller spacing than the others would have.
    """
    kept = [h for h, n, m in zip(grid.spacing, grid.shape, coarse.shape, strict=True) if n == m]
    return grid.size <= SOLVED_DIRECTLY and min(kept, default=1.0) < 0.5 * max(coarse.spacing)


class SingularLU:
    """The coarse solve where the matrix may be singular, in PETSc's interface for PCs in Python.


    LU would divide by a pivot of rounding errors, and the large constant in the result would cost
    half of the digits. If the coarse matrix maps constants to 0, a number is added to its first
    diagonal entry, which makes it regular and changes solutions only by a constant; the constant
    is removed from the right-hand side and the solution.
    """

    def __init__(self) -> None:
        self._lu: Any = None
        self._regular: Any = None
        self._constant: Any = None
        self._removes = {"in": False, "out": False}

    def setUp(self, pc: Any) -> None:
        """Factor the coarse matrix; collective."""
        matrix = pc.getOperators()[1]
        if self._lu is None:
            self._regular = matrix.duplicate(copy=True)
            self._constant = PETSc.NullSpace().create(constant=True, comm=matrix.comm)
            self._right, self._product = matrix.createVecs()
            self._lu = PETSc.PC().create(comm=matrix.comm)
            self._lu.setType("lu" if matrix.comm.size == 1 else "redundant")
        else:
            matrix.copy(self._regular, structure=PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        scale = matrix.norm(PETSc.NormType.INFINITY)
        self._removes = {
            "out": self._vanishes(matrix.mult, scale),
            "in": self._vanishes(matrix.multTranspose, scale),
        }
        if any(self._removes.values()):
            if matrix.getOwnershipRange()[0] == 0 < matrix.getLocalSize()[0]:
                self._regular.setValue(0, 0, scale, addv=PETSc.InsertMode.ADD_VALUES)
            self._regular.assemble()
        self._lu.setOperators(self._regular)
        self._lu.setUp()

    def apply(self, pc: Any, x: Any, y: Any) -> None:
        """`y = A⁺ x`, where A may have the constants as its nullspace."""
        self._solve(self._lu.apply, x, y, "in", "out")

    def applyTranspose(self, pc: Any, x: Any, y: Any) -> None:  # noqa: N802 - PETSc's name
        """The same for the transpose."""
        self._solve(self._lu.applyTranspose, x, y, "out", "in")

    def _solve(self, run: Any, x: Any, y: Any, before: str, after: str) -> None:
        x.copy(self._right)
        if self._removes[before]:
            self._constant.remove(self._right)
        run(self._right, y)
        if self._removes[after]:
            self._constant.remove(y)

    def _vanishes(self, product: Any, scale: float) -> bool:
        self._right.set(1.0)
        product(self._right, self._product)
        return bool(self._product.norm(PETSc.NormType.INFINITY) <= SINGULAR * scale)
