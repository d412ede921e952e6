"""Derivatives of a user's function of tensors inside a custom autograd function.

Inside a custom function nothing is recorded and, under `torch.func`, no transform is active. A
result that needs a derivative is therefore computed again with recording. Its derivative is again
such a recomputation, so derivatives of any order are available.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply

Function = Callable[..., Tensor]


def recomputed(function: Function, *tensors: Tensor) -> Tensor:
    """`function(*tensors)`, differentiable to any order, and slice by slice in torch's batches.

    `function` must consist of operations that torch can differentiate to the order that is needed.
    """
    return apply(_Recomputed, function, *tensors)


def gradient_of(function: Function, index: int) -> Function:
    """`(*tensors, cotangent) ↦` the vjp of `function(*tensors)` with respect to one of them."""

    def gradient(*arguments: Tensor) -> Tensor:
        *tensors, cotangent = arguments
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            tensors[index] = variable = _variable(tensors[index])
            result = function(*tensors)
            if not result.requires_grad:
                return torch.zeros_like(variable)
            (found,) = torch.autograd.grad(
                result, variable, cotangent, create_graph=recording, allow_unused=True
            )
        return torch.zeros_like(variable) if found is None else found

    return gradient


def tangent_of(function: Function, index: int) -> Function:
    """`(*tensors, tangent) ↦` the jvp of `function(*tensors)` with respect to one of
    them.

    It is the derivative of the vjp in its cotangent, so only reverse-mode derivatives are needed.
    """
    gradient = gradient_of(function, index)

    def tangent(*arguments: Tensor) -> Tensor:
        *tensors, direction = arguments
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            cotangent = torch.zeros_like(function(*tensors)).requires_grad_()
            linear = gradient(*tensors, cotangent)
            if not linear.requires_grad:
                return torch.zeros_like(cotangent)
            (found,) = torch.autograd.grad(
                linear, cotangent, direction, create_graph=recording, allow_unused=True
            )
        return torch.zeros_like(cotangent) if found is None else found

    return tangent


def slice_by_slice(
    function: Function, size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]
) -> tuple[Tensor, int]:
    """The results of a function for each slice of a batch, and their batch axis.

    `dims` are the batch axes of the tensors; None for a tensor that all slices share.
    """
    slices = [
        [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)]
        for i in range(size)
    ]
    return torch.stack([function(*own) for own in slices]), 0


def _variable(tensor: Tensor) -> Tensor:
    """The tensor itself if it is part of a graph, else a copy that requires a gradient."""
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(function: Function, *tensors: Tensor) -> Tensor:
        # Detached from their graph, because one may depend on another there.
        return function(*(tensor.detach() for tensor in tensors)).detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = [
            recomputed(gradient_of(ctx.function, index), *tensors, grads[0]) if needed else None
            for index, needed in enumerate(ctx.needs_input_grad[1:])
        ]
        return (None, *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tensors = ctx.saved_tensors
        parts = [
            recomputed(tangent_of(ctx.function, index), *tensors, tangent)
            for index, tangent in enumerate(tangents[1:])
            if tangent is not None
        ]
        return torch.stack(parts).sum(dim=0)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], function: Function, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        return slice_by_slice(partial(recomputed, function), info.batch_size, in_dims[1:], tensors)
