"""Products of a sparsity pattern with values and vectors."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.memory import HOST, Memory


class PatternProducts(BilinearProducts):
    """The entries `(row_k, col_k)` of a distributed square matrix, without their values; the
    pairing is `λ[row_k] · x[col_k]`.

    Parameters
    ----------
    rows, cols : global indices of this rank's entries, shape `(nnz,)`.
    template : a PETSc vector with the rows' layout.
    memory : where values and vectors are; default: the host.
    """

    def __init__(
        self,
        rows: NDArray[np.integer],
        cols: NDArray[np.integer],
        template: Any,
        memory: Memory = HOST,
    ) -> None:
        super().__init__(template, memory)
        self._rows, self._cols = rows, cols

    def diagonal_entries(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """See `BilinearProducts`."""
        where = np.flatnonzero(self._rows == self._cols)
        return where, self._rows[where]

    def multiply(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        """See `BilinearProducts`."""
        source, target = (
            (self._row_index, self._col_index) if transposed else (self._col_index, self._row_index)
        )
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        for r in range(x.shape[-2]):
            result[..., r, :] = target.scatter_add(source.gather(x[..., r, :]).mul_(values))
        return result

    def pair(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """See `BilinearProducts`; one array of the values' size for each argument at a time."""
        total: Tensor | None = None
        for rows, cols in zip(left.unbind(-2), right.unbind(-2), strict=True):
            one, other = self._factors(rows, cols, scale)
            total = one.mul_(other) if total is None else total.addcmul_(one, other)
        shape = *left.shape[:-2], len(self._rows)
        return left.new_zeros(shape) if total is None else total

    def pair_vectors(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """See `BilinearProducts`; without a view, which takes as long as a small product."""
        one, other = self._factors(left, right, scale)
        return one.mul_(other)

    def _factors(self, rows: Tensor, cols: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        # Scaled before the entries are gathered, because there are more of them.
        scaled = rows if scale == 1.0 else rows * scale
        return self._row_index.gather(scaled), self._col_index.gather(cols)

    @cached_property
    def _row_index(self) -> GhostedIndex:
        return GhostedIndex(self._rows, self.template, self.memory)

    @cached_property
    def _col_index(self) -> GhostedIndex:
        return GhostedIndex(self._cols, self.template, self.memory)
