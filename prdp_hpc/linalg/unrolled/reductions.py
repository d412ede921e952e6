"""Differentiable scalar products of batches of distributed vectors, with one reduction each.

A scalar is replicated, and each rank has a part of its cotangent, so the adjoint of an all-reduce
is an all-reduce.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.transport import transport_for

Pair = tuple[Tensor, Tensor]


def all_reduce(local: Tensor, comm: MPI.Comm) -> Tensor:
    """The sum over all ranks, on any device; the tensor itself on one rank."""
    if comm.size == 1:
        return local.detach()
    return transport_for(comm, None, local.device).all_reduce(local)


def dots(comm: MPI.Comm, *pairs: Pair) -> list[Tensor]:
    """`⟨x, y⟩` for each pair of `(B, n_local)`, each `(B, 1)`; one reduction for all pairs and the
    whole batch.
    """
    flat = [vector for pair in pairs for vector in pair]
    products: Tensor = _Dots.apply(comm, *flat)  # type: ignore[no-untyped-call]
    return list(products.split(1, dim=1))


def orthogonalise(comm: MPI.Comm, w: Tensor, basis: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Classical Gram–Schmidt: `w − Σ h_i v_i` and `h_i = ⟨w, v_i⟩ (B, j)`; one reduction.

    The basis is saved by reference: j vectors for a whole cycle of GMRES, not j² / 2.
    """
    rest: Tensor
    rest, coefficients = _Orthogonalise.apply(comm, w, *basis)  # type: ignore[no-untyped-call]
    return rest, coefficients


def combine(weights: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """`Σ y_i v_i` for weights `(B, j)`; the basis is saved by reference."""
    result: Tensor = _Combine.apply(weights, *basis)  # type: ignore[no-untyped-call]
    return result


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: MPI.Comm, *vectors: Tensor) -> Tensor:
        ctx.comm = comm
        ctx.save_for_backward(*vectors)
        local = [
            torch.linalg.vecdot(x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        return all_reduce(torch.stack(local, dim=1), comm)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        vectors = ctx.saved_tensors
        total = all_reduce(grads[0], ctx.comm).split(1, dim=1)
        pairs = zip(total, vectors[::2], vectors[1::2], strict=True)
        return (None, *(gradient for g, x, y in pairs for gradient in (g * y, g * x)))


class _Orthogonalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, comm: MPI.Comm, w: Tensor, *basis: Tensor) -> tuple[Tensor, Tensor]:
        h = all_reduce(torch.stack([torch.linalg.vecdot(w, v) for v in basis], dim=1), comm)
        rest = w.clone()
        for coefficient, v in zip(h.split(1, dim=1), basis, strict=True):
            rest.addcmul_(coefficient, v, value=-1.0)
        ctx.comm = comm
        ctx.save_for_backward(h, w, *basis)
        return rest, h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad, grad_h = grads
        h, w, *basis = ctx.saved_tensors
        along = torch.stack([torch.linalg.vecdot(grad, v) for v in basis], dim=1)
        total = all_reduce(grad_h - along, ctx.comm).split(1, dim=1)
        grad_w, grad_basis = grad.clone(), []
        for g, coefficient, v in zip(total, h.split(1, dim=1), basis, strict=True):
            grad_w.addcmul_(g, v)
            grad_basis.append(g * w - coefficient * grad)
        return (None, grad_w, *grad_basis)


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *basis: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *basis)
        result = torch.zeros_like(basis[0])
        for weight, v in zip(weights.split(1, dim=1), basis, strict=True):
            result.addcmul_(weight, v)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        # This rank's part of the cotangent of the weights, which are replicated.
        weights, *basis = ctx.saved_tensors
        along = torch.stack([torch.linalg.vecdot(grads[0], v) for v in basis], dim=1)
        return along, *(weight * grads[0] for weight in weights.split(1, dim=1))
