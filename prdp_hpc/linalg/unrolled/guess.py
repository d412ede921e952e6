"""The start of an unrolled solve, and its residual, as differentiable maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import is_transformed
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import as_tensor, copied
from prdp_hpc.linalg.held_matrices import HeldMatrices
from prdp_hpc.linalg.initial_guesses import Recollection
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import in_double, like, to_memory
from prdp_hpc.linalg.unrolled.system import plain_product
from prdp_hpc.linalg.validation import bad_guess, prepare


def not_offered(what: str) -> InputError:
    """The error for a feature of implicit differentiation only."""
    return InputError(
        f"differentiation='unrolled' does not support {what}: use differentiation='implicit'"
    )


@dataclass(frozen=True)
class Guess:
    """The start of a solve.

    Attributes
    ----------
    given : the user's guess.
    error : the error of the guess on this rank, which all ranks raise together.
    recollection : stored last solutions, which take precedence.
    """

    given: Tensor | None
    error: Exception | None
    recollection: Recollection | None


def guessed(
    operator: Operator, values: Any, b: Tensor, solver: Solver, guess: Guess
) -> tuple[Tensor, Tensor]:
    """The start g and `b − A g`, in double precision on the host, of the shape of b; differentiable
    with respect to the values, b and the user's guess; collective.
    """
    memory = operator.memory
    start = torch.zeros_like(in_double(b, memory.device).detach())
    if guess.error is None and guess.given is not None:
        start = in_double(guess.given, memory.device)
    if guess.recollection is not None:
        last = copied(to_memory(torch.atleast_2d(start), memory))
        if guess.recollection.recall("forward", last):
            start = as_tensor(last).view(start.shape)
    error = guess.error or bad_guess(start)
    found: tuple[Tensor, Tensor] = _Rest.apply(  # type: ignore[no-untyped-call]
        values, in_double(b, memory.device), start, operator, solver, error
    )
    return found


class _Rest(torch.autograd.Function):
    """`P g`, without its part in the nullspace, and `b − A P g`."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Any,
        b: Tensor,
        start: Tensor,
        operator: Operator,
        solver: Solver,
        error: Exception | None,
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad[:3]
        with solver.report.part("forward", "assembly"):
            host = prepare(operator, values, b, (*needs, True), solver, error)
            held = HeldMatrices(operator, host)
        systems = [solver.system(member) for member in held.operators]
        rows = _in_range(operator, _rows(start))
        ctx.held, ctx.systems, ctx.operator, ctx.report = held, systems, operator, solver.report
        ctx.save_for_backward(values if isinstance(values, Tensor) else None, rows)
        product = plain_product(systems, rows, transposed=False)
        if not any(needs):
            held.release()
        return rows.clone().view(start.shape), b - product.view(b.shape)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        raise not_offered("forward-mode derivatives")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise not_offered("second derivatives (create_graph=True)")
        (start_grad, grad), (values, start) = grads, ctx.saved_tensors
        if is_transformed(grad):
            raise not_offered("batched gradients")
        values_grad = guess_grad = None
        try:
            with ctx.report.part("adjoint", "assembly"):
                ctx.held.restore(values, values_are_read=True)
            if ctx.needs_input_grad[0]:
                with ctx.report.part("adjoint", "gradient"):
                    values_grad = _values_gradient(ctx, values, _rows(grad), start)
            if ctx.needs_input_grad[2]:
                product = plain_product(ctx.systems, _rows(grad), transposed=True)
                guess_grad = _in_range(ctx.operator, _rows(start_grad) - product).view(grad.shape)
        finally:
            ctx.held.release()
        return values_grad, grad, guess_grad, None, None, None


def _in_range(operator: Operator, x: Tensor) -> Tensor:
    """`x (B, n_local)` without its part in the nullspace; collective."""
    if operator.nullspaces is None:
        return x
    numbers = to_memory(x, operator.memory)
    return as_tensor(operator.nullspaces.right.removed_from(numbers))


def _values_gradient(ctx: Any, values: Tensor, grad: Tensor, start: Tensor) -> Tensor:
    members = len(ctx.systems)
    if ctx.held.operators[0] is not ctx.operator:
        shape = (members, len(grad) // members, grad.shape[-1])
        grad, start = grad.reshape(shape), start.reshape(shape)
    return like(ctx.operator.values_gradient(values, grad, start), values).view(values.shape)


def _rows(b: Tensor) -> Tensor:
    """`(B, n_local)`, contiguous."""
    rows: Tensor = torch.atleast_2d(b.detach().contiguous())
    return rows
