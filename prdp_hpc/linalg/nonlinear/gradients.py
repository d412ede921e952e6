"""Gradients of one function with respect to several tensors at once, and products with its
Jacobian, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prdp_hpc.autograd.recomputed import Function, gradient_of, recomputed, tangent_of


def gradients_of(
    function: Function, tensors: Sequence[Tensor], cotangent: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The vjp of `function(*tensors)` with respect to each tensor that needs it.

    The function is evaluated once for all; the result is differentiable to any order.
    """
    if not any(needed):
        return [None] * len(tensors)
    packed = recomputed(_packed_gradient(function, needed), *tensors, cotangent)
    found: list[Tensor | None] = []
    first = 0
    for tensor, is_needed in zip(tensors, needed, strict=True):
        if not is_needed:
            found.append(None)
            continue
        found.append(packed[first : first + tensor.numel()].view(tensor.shape))
        first += tensor.numel()
    return found


def product(residual: Function, u: Tensor, *others: Tensor) -> Tensor:
    """`J(u, p) v` with `others = (*p, v)`."""
    return tangent_of(residual, 0)(u, *others)


def transposed_product(residual: Function, u: Tensor, *others: Tensor) -> Tensor:
    """`J(u, p)ᵀ w` with `others = (*p, w)`."""
    return gradient_of(residual, 0)(u, *others)


def _packed_gradient(function: Function, needed: Sequence[bool]) -> Function:
    """`(*tensors, cotangent) ↦` the needed gradients, one after the other in one vector."""

    def packed(*arguments: Tensor) -> Tensor:
        *tensors, cotangent = arguments
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            for index, is_needed in enumerate(needed):
                if is_needed and not tensors[index].requires_grad:
                    tensors[index] = tensors[index].detach().requires_grad_()
            variables = [t for t, is_needed in zip(tensors, needed, strict=True) if is_needed]
            result = function(*tensors)
            found: Sequence[Tensor | None] = [None] * len(variables)
            if result.requires_grad:
                found = torch.autograd.grad(
                    result, variables, cotangent, create_graph=recording, allow_unused=True
                )
        return torch.cat(
            [
                (torch.zeros_like(variable) if own is None else own).reshape(-1)
                for own, variable in zip(found, variables, strict=True)
            ]
        )

    return packed
