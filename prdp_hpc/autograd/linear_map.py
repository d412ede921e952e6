"""User-defined linear maps, differentiable to any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearMap:
    """A linear map of tensors with its adjoint, which are each other's derivatives.

    Both may communicate; derivatives of any order, forward and backward, are then collective too.

    Parameters
    ----------
    run : `x ↦ L x`, a new tensor; x may have additional leading axes.
    adjoint : `y ↦ Lᵀ y`, a new tensor; y may have additional leading axes.
    """

    run: Map
    adjoint: Map

    def __call__(self, x: Tensor) -> Tensor:
        """`L x`."""
        return apply(_Linear, x, self)

    @property
    def transposed(self) -> LinearMap:
        """`Lᵀ`."""
        return LinearMap(self.adjoint, self.run)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, linear: LinearMap) -> Tensor:
        return linear.run(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LinearMap], output: Tensor) -> None:
        ctx.linear = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.linear.transposed(grads[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        result: Tensor = ctx.linear(tangents[0])
        return result

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, linear: LinearMap
    ) -> tuple[Tensor, int]:
        assert in_dims[0] is not None
        return linear(x.movedim(in_dims[0], 0)), 0
