"""Differentiable solves by implicit differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.bridge import Array, has_bad_numbers, like, to_host
from prdp_hpc.linalg.inputs import anywhere, is_batch, prepare
from prdp_hpc.linalg.operator import Operator, SparseOperator
from prdp_hpc.linalg.solver import Solver, zero_rows
from prdp_hpc.linalg.unrolled import unrolled_solve


def solve(operator: Operator, values: Any, b: Tensor, solver: Solver) -> Tensor:
    """Solve `A(values) x = b`, differentiably with respect to `values` and `b`.

    With `solver.differentiation = "unrolled"` the derivative goes through the iterations, see
    `unrolled_solve`; by default it is implicit: the backward pass solves the adjoint system `Aᵀ λ =
    ∂L/∂x` at the solver's adjoint level, from zero; then `∂L/∂b = λ` and `∂L/∂value_k = −λ[row_k]
    x[col_k]`. For a symmetric matrix that is a solve with A and the same preconditioner M, not with
    `Mᵀ`: a few iterations of it need not be the transpose of the forward solve's.

    Parameters
    ----------
    operator : a `SparseOperator` or `FunctionOperator`.
    values : the operator's values: `(nnz_local,)` for a `SparseOperator`. They may change from
        solve to solve; in-place changes must go through torch, as everywhere in autograd. `(M,
        nnz_local)` stands for M matrices.
    b : this rank's part of the right-hand side, `(n_local,)`, or of a batch of them, `(B,
        n_local)`; any floating-point type and device. The solve itself runs in double precision on
        the host. With M matrices `(M R, n_local)`: R right-hand sides in a row for each.
    solver : method, preconditioner and level.

    Returns
    -------
    x with the shape, type and device of `b`. Collective over the operator's ranks, also in the
    backward pass.

    Raises
    ------
    ValueError
        For wrong shapes or types, NaN in the values, or ranks that disagree; on all ranks together.
    SolveError
        If the solve diverged or NaN came in or out; on all ranks together.
    """
    if solver.differentiation == "unrolled":
        return unrolled_solve(operator, values, b, solver)
    x: Tensor
    if isinstance(operator, SparseOperator) and is_batch(values):
        # Asked here: inside a forward pass torch records nothing, and `needs_input_grad` does not
        # know about `no_grad`.
        x = _ImplicitBatch.apply(values, b, operator, solver, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    else:
        x = _ImplicitSolve.apply(values, b, operator, solver)  # type: ignore[no-untyped-call]
    return x


class _ImplicitSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Any, b: Tensor, operator: Operator, solver: Solver) -> Tensor:
        with solver.report.part("forward", "assembly"):
            prepare(operator, values, b, ctx.needs_input_grad[:2])
        x = torch.from_numpy(
            _run("forward", operator, solver, np.atleast_2d(to_host(b))).reshape(b.shape)
        )
        result = like(x, b)
        ctx.operator, ctx.solver, ctx.loads = operator, solver, operator.loads
        # x is only needed for the gradient of the values. Where it is the result itself, torch sees
        # a change in place.
        ctx.save_for_backward(
            values if isinstance(values, Tensor) else None, x if ctx.needs_input_grad[0] else None
        )
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,), operator, solver = grads, ctx.operator, ctx.solver
        values, x = ctx.saved_tensors
        if operator.loads != ctx.loads and anywhere(operator.comm, operator.differs(values)):
            with solver.report.part("adjoint", "assembly"):
                operator.load(values)
        adjoint = torch.from_numpy(_run("adjoint", operator, solver, np.atleast_2d(to_host(grad))))
        values_grad = None
        if ctx.needs_input_grad[0]:
            with solver.report.part("adjoint", "gradient"):
                gradient = operator.values_gradient(values, adjoint, x.view(adjoint.shape))
            values_grad = like(gradient, values).view(values.shape)
        return values_grad, like(adjoint, grad).view(grad.shape), None, None


class _ImplicitBatch(torch.autograd.Function):
    """As `_ImplicitSolve`, with a matrix of its own for each R right-hand sides."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        b: Tensor,
        operator: SparseOperator,
        solver: Solver,
        recording: bool,
    ) -> Tensor:
        with solver.report.part("forward", "assembly"):
            prepare(operator, values, b, ctx.needs_input_grad[:2])
        members = operator.take_members(len(values))
        try:
            x = _run_batch("forward", members, [None] * len(values), values, solver, b)
        except Exception:
            operator.give_back_members(members)
            raise
        result = like(x, b).view(b.shape)
        if recording and any(ctx.needs_input_grad):
            ctx.operator, ctx.members, ctx.solver = operator, members, solver
            ctx.loads = [member.loads for member, _ in zip(members, values, strict=False)]
            ctx.save_for_backward(values, x if ctx.needs_input_grad[0] else None)
        else:
            operator.give_back_members(members)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,), operator = grads, ctx.operator
        values, x = ctx.saved_tensors
        adjoint = _run_batch("adjoint", ctx.members, ctx.loads, values, ctx.solver, grad)
        operator.give_back_members(ctx.members)
        values_grad = None
        if ctx.needs_input_grad[0]:
            with ctx.solver.report.part("adjoint", "gradient"):
                gradient = operator.values_gradient(values, adjoint, x.view(adjoint.shape))
            values_grad = like(gradient, values)
        return values_grad, like(adjoint, grad).view(grad.shape), None, None, None


def _run_batch(
    direction: str,
    members: list[SparseOperator],
    loads: Sequence[int | None],
    values: Tensor,
    solver: Solver,
    b: Tensor,
) -> Tensor:
    """Solve with each matrix, loaded unless a member still holds it (its count of loads is the
    given one); `(M, R, n_local)`.
    """
    host = torch.from_numpy(to_host(values))
    # Not −1 for R: a rank may have no rows.
    right = to_host(b).reshape(len(values), len(b) // len(values), b.shape[-1])
    x = np.empty_like(right)
    for member, loaded, own, rows, result in zip(members, loads, host, right, x, strict=False):
        if member.loads != loaded:
            with solver.report.part(direction, "assembly"):
                member.load(own)
        result[:] = _run(direction, member, solver, rows)
    return torch.from_numpy(x)


def _run(direction: str, operator: Operator, solver: Solver, right: Array) -> Array:
    """Solve for `(B, n_local)`."""
    system = solver.system(operator)
    system.set_up(direction)
    x = np.zeros_like(right)
    try:
        iterations = system.solve(direction, right, x)
    except errors.SolveError:
        _blame_input(direction, operator, solver, right)
        raise
    if anywhere(operator.comm, has_bad_numbers(x)):
        # Without a norm to stop at, some methods divide 0 by 0 when the right-hand side is 0.
        x[zero_rows(operator.comm, right)] = 0.0
        if anywhere(operator.comm, has_bad_numbers(x)):
            _blame_input(direction, operator, solver, right)
            raise errors.bad_numbers(
                direction, system.method, iterations, _level(solver, direction), in_input=False
            )
    return x


def _blame_input(direction: str, operator: Operator, solver: Solver, right: Array) -> None:
    """After a failure: was it NaN in the right-hand side? Looked at only now, since it costs a pass
    over it.
    """
    if anywhere(operator.comm, has_bad_numbers(right)):
        raise errors.bad_numbers(
            direction, solver.system(operator).method, 0, _level(solver, direction), in_input=True
        )


def _level(solver: Solver, direction: str) -> object:
    return solver.adjoint if direction == "adjoint" else solver.refinement
