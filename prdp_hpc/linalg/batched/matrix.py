"""Matrices of one pattern in torch tensors: their products with batches of vectors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.sparse_operator import SparseOperator


class BatchedMatrix(ABC):
    """M matrices, or their transposes.

    Attributes
    ----------
    count : M.
    """

    count: int

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """`A x` for `(M R, n_local)`, R consecutive vectors per matrix, in a new tensor.

        Collective, not recorded.
        """

    def product_and_dot(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`A x`, and this rank's part of `⟨x, A x⟩`, `(B, 1)`."""
        product = self.product(x)
        return product, torch.linalg.vecdot(x, product)[:, None]

    @abstractmethod
    def transposed(self) -> BatchedMatrix:
        """The transposes; collective."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonals, `(M, n_local)`."""

    @abstractmethod
    def row_sizes(self) -> Tensor:
        """The largest size of an entry of each row, `(M, n_local)`."""

    def row_sums(self) -> Tensor:
        """The sums of the sizes of each row's entries, `(M, n_local)`; collective."""
        first = self.tensors[0]
        n_local = self.diagonal().shape[1]
        return self.map(torch.abs).product(first.new_ones(self.count, n_local))

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The tensors that products read, except index tensors."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> BatchedMatrix:
        """The same with `function(tensor)` for each of `tensors`, e.g. in another precision."""


class BatchedPattern(BilinearProducts):
    """The common pattern of an operator's matrices, with products that are differentiable to any
    order in the values and vectors, on their device.
    """

    def __init__(self, operator: SparseOperator, entries: OwnedEntries) -> None:
        super().__init__(None)
        self.operator, self.entries = operator, entries

    @abstractmethod
    def matrix(self, values: Tensor, constant: float = 1.0) -> BatchedMatrix:
        """The matrices of values `(M, nnz_local)`; collective. `constant`: see `OwnedEntries`."""

    @abstractmethod
    def pair_entries(self, left: Tensor, right: Tensor) -> Tensor:
        """`Σ_r λ[row_k] x[col_k]` for λ, x `(M, R, n_local)`, for each entry of this rank's rows:
        `(M, count)`; collective.
        """

    def multiply(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        """See `BilinearProducts`; without the constant entries of the matrix."""
        matrix = self.matrix(torch.atleast_2d(values).flatten(0, -2), constant=0.0)
        if transposed:
            matrix = matrix.transposed()
        return matrix.product(torch.atleast_2d(x).flatten(0, -2)).view(x.shape)

    def pair(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """See `BilinearProducts`."""
        # Not −1: a batch may have no right-hand sides, and a rank no rows.
        shape = (math.prod(left.shape[:-2]), *left.shape[-2:])
        entries = self.pair_entries(left.reshape(shape), right.reshape(shape)).mul_(scale)
        whole = self.entries.adjoint(entries)
        return whole.view(*left.shape[:-2], whole.shape[-1])

    def diagonal_entries(self) -> Any:
        """Not used; see `BatchedMatrix.diagonal`."""
        raise NotImplementedError
