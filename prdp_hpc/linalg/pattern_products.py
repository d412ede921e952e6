"""Products of a sparsity pattern with values and vectors, differentiable to any order."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply
from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.linalg.ghosts import GhostedIndex


class PatternProducts:
    """The entries `(row_k, col_k)` of a distributed square matrix, whatever their values.

    `A(v) x` and the pairing `λ[row_k] · x[col_k]` are linear in each argument, and each is made of
    the other's derivatives, so that the two are differentiable to any order. All methods are
    collective, also in backward passes.

    Parameters
    ----------
    rows, cols : global indices of this rank's entries, shape `(nnz,)`.
    template : a PETSc vector with the rows' layout.

    Shapes: values `(*L, nnz)`, vectors `(*L, R, n_local)` with the same leading axes L (those of
    M matrices, or none) and R vectors for each; float64 on the host.
    """

    def __init__(self, rows: NDArray[np.integer], cols: NDArray[np.integer], template: Any) -> None:
        self._rows, self._cols, self._template = rows, cols, template

    def product(self, values: Tensor, x: Tensor, transposed: bool = False) -> Tensor:
        """`A(values) x`, or `A(values)ᵀ x`, shape of x."""
        return apply(_Product, values, x, self, transposed)

    def pairing(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        """`scale · Σ_r left_r[row_k] right_r[col_k]`, shape `(*L, nnz)`."""
        return apply(_Pairing, left, right, self, scale)

    def diagonal(self, values: Tensor) -> Tensor:
        """The sum of each row's entries on the diagonal, whichever rank gave them: `(*L, nnz)` to
        `(*L, n_local)`, float64 on the host.
        """
        where, rows = self._diagonal
        own = values.index_select(-1, where.to(values.device))
        return LinearMap(rows.scatter_add, rows.gather)(own.to("cpu", torch.float64))

    def multiply(self, values: Tensor, x: Tensor, transposed: bool) -> Tensor:
        """`product` without gradients."""
        source, target = (
            (self._row_index, self._col_index) if transposed else (self._col_index, self._row_index)
        )
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        for r in range(x.shape[-2]):
            result[..., r, :] = target.scatter_add(source.gather(x[..., r, :]).mul_(values))
        return result

    def pair(self, left: Tensor, right: Tensor, scale: float) -> Tensor:
        """`pairing` without gradients; one array of the values' size for each argument at a
        time.
        """
        total = torch.zeros(*left.shape[:-2], len(self._rows), dtype=torch.float64)
        for r in range(left.shape[-2]):
            rows, cols = left[..., r, :], right[..., r, :]
            total.addcmul_(self._row_index.gather(rows), self._col_index.gather(cols), value=scale)
        return total

    @cached_property
    def _row_index(self) -> GhostedIndex:
        return GhostedIndex(self._rows, self._template)

    @cached_property
    def _col_index(self) -> GhostedIndex:
        return GhostedIndex(self._cols, self._template)

    @cached_property
    def _diagonal(self) -> tuple[Tensor, GhostedIndex]:
        """Which entries are on the diagonal, and their rows."""
        where = np.flatnonzero(self._rows == self._cols)
        return torch.from_numpy(where), GhostedIndex(self._rows[where], self._template)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor, x: Tensor, pattern: PatternProducts, transposed: bool) -> Tensor:
        return pattern.multiply(values, x, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, x, ctx.pattern, ctx.transposed = inputs
        ctx.save_for_backward(
            values if ctx.needs_input_grad[1] else None, x if ctx.needs_input_grad[0] else None
        )
        ctx.save_for_forward(values, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (values, x), (grad,), pattern = ctx.saved_tensors, grads, ctx.pattern
        values_grad = x_grad = None
        if ctx.needs_input_grad[0]:
            values_grad = pattern.pairing(*((x, grad) if ctx.transposed else (grad, x)))
        if ctx.needs_input_grad[1]:
            x_grad = pattern.product(values, grad, not ctx.transposed)
        return values_grad, x_grad, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (values, x), (values_t, x_t, *_), product = ctx.saved_tensors, tangents, ctx.pattern.product
        parts = [] if values_t is None else [product(values_t, x, ctx.transposed)]
        parts += [] if x_t is None else [product(values, x_t, ctx.transposed)]
        return _total(parts)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        values: Tensor,
        x: Tensor,
        pattern: PatternProducts,
        transposed: bool,
    ) -> tuple[Tensor, int]:
        if in_dims[0] is not None:
            values, x = (_first(t, d, info) for t, d in zip((values, x), in_dims, strict=False))
            return pattern.product(values, x, transposed), 0
        assert in_dims[1] is not None
        # One matrix for all: the batch is more vectors for it.
        many = x.movedim(in_dims[1], -3)
        result = pattern.product(values, many.flatten(-3, -2), transposed)
        # Torch's older batches need their axis to be the first in memory.
        return result.view(many.shape).movedim(-3, 0).contiguous(), 0


class _Pairing(torch.autograd.Function):
    @staticmethod
    def forward(left: Tensor, right: Tensor, pattern: PatternProducts, scale: float) -> Tensor:
        return pattern.pair(left, right, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        left, right, ctx.pattern, ctx.scale = inputs
        ctx.save_for_backward(
            left if ctx.needs_input_grad[1] else None, right if ctx.needs_input_grad[0] else None
        )
        ctx.save_for_forward(left, right)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (left, right), (grad,), product = ctx.saved_tensors, grads, ctx.pattern.product
        left_grad = right_grad = None
        if ctx.needs_input_grad[0]:
            left_grad = ctx.scale * product(grad, right)
        if ctx.needs_input_grad[1]:
            right_grad = ctx.scale * product(grad, left, True)
        return left_grad, right_grad, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (left, right), (left_t, right_t, *_) = ctx.saved_tensors, tangents
        pairing, scale = ctx.pattern.pairing, ctx.scale
        parts = [] if left_t is None else [pairing(left_t, right, scale)]
        parts += [] if right_t is None else [pairing(left, right_t, scale)]
        return _total(parts)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        left: Tensor,
        right: Tensor,
        pattern: PatternProducts,
        scale: float,
    ) -> tuple[Tensor, int]:
        left, right = (_first(t, d, info) for t, d in zip((left, right), in_dims, strict=False))
        return pattern.pairing(left, right, scale), 0


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _first(tensor: Tensor, dim: int | None, info: Any) -> Tensor:
    """A batch with its axis first; what is the same for all is repeated."""
    if dim is None:
        return tensor.expand(info.batch_size, *tensor.shape)
    return tensor.movedim(dim, 0)
