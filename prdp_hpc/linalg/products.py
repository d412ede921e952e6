"""Products of a PETSc matrix with batches of vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg.torch_petsc import HOST, Memory, is_aij, placed
from prdp_hpc.petsc import PETSc

MOST_TRANSPOSED = 50_000
"""Largest size of X on a rank for which PETSc's `Aᵀ X` is faster than one product per column."""
MOST_SIZES = 4
"""Number of batch sizes, separately for `A x` and `Aᵀ x`, whose dense matrices are kept."""


class BatchedProduct:
    """`A x` and `Aᵀ x` for batches of distributed vectors; collective.

    A batch of B vectors is a dense matrix of B columns, which shares the memory of a `(B, n_local)`
    array, so there are one product and one message for all vectors (PETSc manual pages: MatMatMult,
    MatTransposeMatMult). The dense matrices are kept for the last values of B.
    """

    def __init__(self, matrix: Any, symmetric: bool, memory: Memory = HOST) -> None:
        self._matrix, self._symmetric = matrix, symmetric
        self._vectors = matrix.createVecs()
        self._dense: dict[tuple[int, bool], tuple[Any, Any]] = {}
        self._share = matrix.getSize()[0] / matrix.comm.size
        # PETSc's dense matrices are filled on the host.
        self._is_stored = is_aij(matrix) and not memory.uses_tensors
        self._memory = memory

    def __call__(self, x: Tensor, transposed: bool = False) -> Tensor:
        """`A x`, or `Aᵀ x`, for float64 `(B, n_local)`, in a new tensor."""
        transposed = transposed and not self._symmetric
        few = not transposed or len(x) * self._share <= MOST_TRANSPOSED
        if self._is_stored and len(x) > 1 and few:
            return self._all(x, transposed)
        result = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        product = self._matrix.multTranspose if transposed else self._matrix.mult
        source, target = self._vectors
        pair = (x.contiguous(), result)
        rows, outs = pair if self._memory.uses_tensors else (one.numpy() for one in pair)
        for row, out in zip(rows, outs, strict=True):
            with placed((source, row), (target, out)):
                product(source, target)
        return result

    def _all(self, x: Tensor, transposed: bool) -> Tensor:
        product = self._matrix.transposeMatMult if transposed else self._matrix.matMult
        found = self._dense.get((len(x), transposed))
        if found is None:
            while len(self._dense) >= MOST_SIZES:
                # Freed now, because on several ranks PETSc delays it.
                for matrix in self._dense.pop(next(iter(self._dense))):
                    matrix.destroy()
            rows = self._matrix.getSizes()[0]
            # On several ranks PETSc also distributes the column numbers, which does not affect the
            # memory layout.
            source = PETSc.Mat().createDense((rows, (PETSc.DECIDE, len(x))), comm=self._matrix.comm)
            source.setUp()
            source.getDenseArray()[:] = 0.0
            source.assemble()
            found = self._dense[len(x), transposed] = source, product(source)
        source, target = found
        source.getDenseArray()[:] = x.numpy().T
        product(source, target)
        return torch.from_numpy(target.getDenseArray(readonly=True).T.copy())
