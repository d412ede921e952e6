"""Products with matrices that are linear in their values, differentiable to any order: any such
matrix, and that of a sparsity pattern.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply
from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.torch_petsc import HOST, Memory
from prdp_hpc.petsc import PETSc


class BilinearProducts(ABC):
    """`A(v) x` with a matrix that is linear in its values, and the pairing `∂(λᵀ A(v) x)/∂v`.

    Both are linear in each argument, and the derivatives of each are products of the two kinds, so
    both are differentiable to any order. All methods are collective, also in backward passes.

    Parameters
    ----------
    template : a PETSc vector with the rows' layout.
    memory : where values and vectors are; default: the host.

    Shapes: values `(*L, nnz)`, vectors `(*L, R, n_local)` with the same leading axes L (those of
    M matrices, or none) and R vectors for each, or one vector `(n_local,)`; float64 in that memory.
    """

    def __init__(self, template: PETSc.Vec, memory: Memory = HOST) -> None:
        self.template, self.memory = template, memory

    def product(self, values: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
        """`A(values) x`, or `A(values)ᵀ x`, shape of x."""
        if x.dim() == 1:
            return self.product(values, x.unsqueeze(0), transposed).squeeze(0)
        return apply(_Product, values, x, self, transposed)

    def pairing(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        """`scale · Σ_r ∂(left_rᵀ A(v) right_r)/∂v`, shape `(*L, nnz)`."""
        return apply(_Pairing, left, right, self, scale)

    def diagonal(self, values: Tensor) -> Tensor:
        """The sum of each row's values on the diagonal, over all ranks: `(*L, nnz)` on
        any device to `(*L, n_local)`, float64 in the memory; differentiable.
        """
        where, rows = self._diagonal
        own = values.index_select(-1, where.to(values.device))
        return LinearMap(rows.scatter_add, rows.gather)(own.to(self.memory.device, torch.float64))

    @cached_property
    def _diagonal(self) -> tuple[Tensor, GhostedIndex]:
        """Which values are on the diagonal, and their rows."""
        where, rows = self.diagonal_entries()
        return torch.from_numpy(where), GhostedIndex(rows, self.template, self.memory)

    @abstractmethod
    def diagonal_entries(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Which values are on the diagonal, and their global rows."""

    @abstractmethod
    def multiply(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        """`product` without gradients."""

    @abstractmethod
    def pair(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """`pairing` without gradients, except of one vector on each side."""

    def pair_vectors(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """`pairing` of one vector `(n_local,)` on each side, without gradients."""
        return self.pair(left.unsqueeze(0), right.unsqueeze(0), scale)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, x: Tensor, products: BilinearProducts, transposed: bool) -> Tensor:
        return products.multiply(values, x, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, x, ctx.products, ctx.transposed = inputs
        _save_factors(ctx, values, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (values, x), (grad,), products = ctx.saved_tensors, grads, ctx.products
        values_grad = x_grad = None
        if ctx.needs_input_grad[0]:
            values_grad = products.pairing(*((x, grad) if ctx.transposed else (grad, x)))
        if ctx.needs_input_grad[1]:
            x_grad = products.product(values, grad, not ctx.transposed)
        return values_grad, x_grad, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _tangent(ctx, tangents, lambda v, x: ctx.products.product(v, x, ctx.transposed))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        values: Tensor,
        x: Tensor,
        products: BilinearProducts,
        transposed: bool,
    ) -> tuple[Tensor, int]:
        if in_dims[0] is not None:
            values, x = (_first(t, d, info) for t, d in zip((values, x), in_dims, strict=False))
            return products.product(values, x, transposed), 0
        assert in_dims[1] is not None
        # One matrix is shared by the batch, which is a set of further vectors for it.
        many = x.movedim(in_dims[1], -3)
        result = products.product(values, many.flatten(-3, -2), transposed)
        # Torch's legacy batching needs the batch axis first in memory.
        return result.view(many.shape).movedim(-3, 0).contiguous(), 0


class _Pairing(torch.autograd.Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor, products: BilinearProducts, scale: float) -> Tensor:
        pair = products.pair_vectors if left.dim() == 1 else products.pair
        return pair(left, right, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        left, right, ctx.products, ctx.scale = inputs
        _save_factors(ctx, left, right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (left, right), (grad,), product = ctx.saved_tensors, grads, ctx.products.product
        left_grad = right_grad = None
        if ctx.needs_input_grad[0]:
            left_grad = ctx.scale * product(grad, right)
        if ctx.needs_input_grad[1]:
            right_grad = ctx.scale * product(grad, left, True)
        return left_grad, right_grad, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _tangent(ctx, tangents, lambda u, v: ctx.products.pairing(u, v, ctx.scale))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        left: Tensor,
        right: Tensor,
        products: BilinearProducts,
        scale: float,
    ) -> tuple[Tensor, int]:
        left, right = (_first(t, d, info) for t, d in zip((left, right), in_dims, strict=False))
        if left.dim() == 2:
            left, right = left.unsqueeze(-2), right.unsqueeze(-2)
        return products.pairing(left, right, scale), 0


def _save_factors(ctx: Any, one: Tensor, other: Tensor) -> None:
    """Save the factors of a bilinear function: each is the derivative in the other."""
    ctx.save_for_backward(
        one if ctx.needs_input_grad[1] else None, other if ctx.needs_input_grad[0] else None
    )
    ctx.save_for_forward(one, other)


def _tangent(
    ctx: Any, tangents: tuple[Any, ...], function: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The derivative of a bilinear `function` of the saved factors along their tangents."""
    (one, other), (one_t, other_t, *_) = ctx.saved_tensors, tangents
    parts = [] if one_t is None else [function(one_t, other)]
    parts += [] if other_t is None else [function(one, other_t)]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _first(tensor: Tensor, dim: int | None, info: Any) -> Tensor:
    """A batch with its axis first; a tensor without batch axis is repeated."""
    if dim is None:
        return tensor.expand(info.batch_size, *tensor.shape)
    return tensor.movedim(dim, 0)


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
