"""Products of element matrices with vectors, cell by cell."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.torch_petsc import HOST, Memory


class ElementProducts(BilinearProducts):
    """`A(K) = Σ_e P_eᵀ K_e Q_e`, where P_e and Q_e select the k numbers of a cell from a vector.

    The pairing of λ and x is `(P_e λ) (Q_e x)ᵀ` for each cell: vectors are looked up k times per
    cell, not k² times as for k² entries.

    Parameters
    ----------
    cells : global dof numbers of this rank's cells, `(n_cells, k)`.
    template : a PETSc vector with the rows' layout.
    memory : where values and vectors are; default: the host.
    in_rows, in_cols : which numbers of a cell P_e and Q_e select, `(n_cells, k)` of 1.0 and 0.0;
        the others are 0.

    Values are `(*L, n_cells k k)`, the matrices of the cells one after the other.
    """

    def __init__(
        self,
        cells: NDArray[np.integer],
        template: Any,
        in_rows: Tensor,
        in_cols: Tensor,
        memory: Memory = HOST,
    ) -> None:
        super().__init__(template, memory)
        self._cells, self._in_rows, self._in_cols = cells, in_rows, in_cols

    def diagonal_entries(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """See `BilinearProducts`; a cell may touch a dof twice, as in a periodic mesh."""
        same = self._cells[:, :, None] == self._cells[:, None, :]
        taken = (self._in_rows[:, :, None] * self._in_cols[:, None, :]).cpu().numpy() > 0.0
        cell, row, col = np.nonzero(same & taken)
        k = self._cells.shape[1]
        return (cell * k + row) * k + col, self._cells[cell, row]

    def multiply(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        """See `BilinearProducts`."""
        matrices = self._matrices(values)
        source, target = self._in_cols, self._in_rows
        if transposed:
            matrices, source, target = matrices.mT, target, source
        # (*L, R, n_cells, k) to (*L, n_cells, k, R) and back
        products = matrices @ self._of_cells(x, source).movedim(-3, -1)
        return self._index.scatter_add((products.movedim(-1, -3) * target).flatten(-2))

    def pair(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """See `BilinearProducts`."""
        rows = self._of_cells(left, self._in_rows).mul_(scale).movedim(-3, -1)
        return (rows @ self._of_cells(right, self._in_cols).movedim(-3, -2)).flatten(-3)

    def _matrices(self, values: Tensor) -> Tensor:
        """`(*L, n_cells, k, k)`."""
        return values.reshape(*values.shape[:-1], *self._cells.shape, self._cells.shape[1])

    def _of_cells(self, x: Tensor, mask: Tensor) -> Tensor:
        """The masked numbers of each cell: `(*L, R, n_local)` to `(*L, R, n_cells, k)`."""
        return self._index.gather(x).view(*x.shape[:-1], *self._cells.shape).mul_(mask)

    @cached_property
    def _index(self) -> GhostedIndex:
        return GhostedIndex(self._cells.reshape(-1), self.template, self.memory)
