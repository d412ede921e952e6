"""Differentiable solves by implicit differentiation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply, is_transformed
from prdp_hpc.errors import InputError
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.batched.call import BatchedCall
from prdp_hpc.linalg.extreme_values import (
    are_extreme,
    has_usual_size,
    require_size_in_range,
    with_ordinary_values,
)
from prdp_hpc.linalg.gradient_range import check_range
from prdp_hpc.linalg.initial_guesses import Recollection, recollection_of
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.solve_call import KspCall, SolveCall, one_at_a_time
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import like
from prdp_hpc.linalg.unrolled import unrolled_solve
from prdp_hpc.linalg.validation import (
    check_and_load,
    is_batch,
    is_usual,
    sizes_of,
    wrong_form,
    wrong_guess,
)


@one_at_a_time
def solve(
    operator: Operator, values: Any, b: Tensor, solver: Solver, guess: Tensor | None = None
) -> Tensor:
    """Solve `A(values) x = b`, differentiably with respect to `values` and `b`.

    By default the derivative is implicit: the backward pass solves the adjoint system

        Aᵀ λ = ∂L/∂x,    ∂L/∂b = λ,    ∂L/∂value_k = −λ[row_k] x[col_k]

    at the solver's adjoint level, from zero; if A is symmetric and `∂L/∂x` a multiple of b, from
    that multiple of x. For a symmetric matrix this is a solve with A and the
    same preconditioner M, not with `Mᵀ`; at a fixed number of iterations it is therefore not the
    exact transpose of the forward solve. With `differentiation="unrolled"` the iterations
    themselves are differentiated.

    The adjoint solve is differentiable in the same way, so `create_graph=True`, Hessian-vector
    products and `gradgradcheck` work to any order. Forward-mode derivatives solve `A ẋ = ḃ − Ȧ x`.
    Batches of gradients (`is_grads_batched=True`, `torch.func.vmap` over b) become more right-hand
    sides of one solve, and `vmap` over the values becomes a batch of matrices; `torch.func.grad`,
    `jvp`, `jacrev`, `jacfwd` and `hessian` use these. Functions compiled by `torch.compile` call
    solves without compiling them; traces (`torch.jit.trace`, `linearize`) are an error. Every
    solve with A has the forward level and every solve with Aᵀ the adjoint level that the solver had
    when `solve` was called.

    Parameters
    ----------
    operator : SparseOperator, ElementOperator, AssembledOperator or FunctionOperator
        The matrix, without its values.
    values : Tensor
        The values of the operator. For a `SparseOperator` the shape is `(nnz_local,)`, or `(M,
        nnz_local)` for M matrices; for an `ElementOperator` `(n_cells, k, k)` or `(M, n_cells, k,
        k)`. They may change from solve to solve: they are compared with the loaded values number by
        number.
    b : Tensor
        This rank's part of the right-hand side, shape `(n_local,)`, or `(B, n_local)` for a batch;
        any floating-point type and device. With M matrices the shape is `(M R, n_local)`, with R
        consecutive right-hand sides per matrix. The solve runs in double precision on the device of
        b if PETSc was built for it, else on the host.
    solver : Solver
        Method, preconditioner and level.
    guess : Tensor, optional
        Where the solve starts, of the shape of b. Default: see `initial_guess` of `Solver`. A
        tolerance still refers to b, and a guess within the tolerance needs no iteration. Its
        gradient is zero, because the solution does not depend on it; with "unrolled" it is that of
        the iterations.

    Returns
    -------
    Tensor
        The solution x, with the shape, type and device of `b`. Collective over the operator's
        ranks, also in the backward pass. Threads of one rank solve one after the other.

    Raises
    ------
    InputError
        On all ranks together: for wrong shapes or types, NaN in the values, or ranks that disagree;
        in the backward pass, if the values were changed in place without autograd.
    SolveError
        On all ranks together: if the solve diverged, or if b or x holds NaN.

    Notes
    -----
    PETSc manual pages: KSPSolve, KSPSolveTranspose.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Solver, SparseOperator, solve
    >>> operator = SparseOperator([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    >>> values = torch.tensor([2.0, 1.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    >>> b = torch.tensor([4.0, 8.0], dtype=torch.float64)
    >>> x = solve(operator, values, b, Solver("gmres", "lu", 1e-12))
    >>> x.detach()
    tensor([1.0000, 2.0000], dtype=torch.float64)
    >>> x.sum().backward()
    >>> values.grad
    tensor([-0.5000, -1.0000, -0.1250, -0.2500], dtype=torch.float64)
    """
    if guess is None and type(solver) is Solver and is_usual(operator, values, b, solver):
        return _solve_usual(operator, values, b, solver)
    _check_kinds(operator, solver)
    values = operator.as_entries(values)
    if isinstance(b, Tensor) and solver.batched is None:
        operator = operator.on(b.device)
    if solver.differentiation == "unrolled":
        return unrolled_solve(operator, values, b, solver, guess)
    needs = _need_gradients(values, b)
    is_missing = guess is None and solver.initial_guess == "state"
    error = wrong_form(operator, values, b) or wrong_guess(b, guess, is_missing)
    recollection = None
    if error is None and solver.initial_guess == "last" and not _are_transformed(values, b):
        recollection, error = recollection_of(solver, operator, b)
    if error is not None:
        # The other ranks receive the error in the reduction of their forward pass.
        check_and_load(operator, None, (1, -1), needs, error, solver)
    levels = {False: solver.refinement, True: solver.adjoint}
    given = (*needs, guess is not None)
    kind = KspCall if solver.batched is None else BatchedCall
    call = kind(operator, solver, levels, sizes_of(operator, values, b), given, any(needs))
    call.recollection = recollection
    right = call.working(b)
    start = None if guess is None else call.working(guess.detach())
    is_many = is_batch(values) and isinstance(operator, SparseOperator)
    if is_many:
        # Not −1 for R: a rank may have no rows.
        shape = (len(values), len(b) // len(values), b.shape[-1])
        right = right.reshape(shape)
        start = None if start is None else start.reshape(shape)
    x = _applied(values, right, start, call)
    if x is None:
        return with_ordinary_values(solve, operator, values, b, solver, guess)
    return like(x.reshape(b.shape) if is_many else x, b)


def _solve_usual(operator: Operator, values: Tensor, b: Tensor, solver: Solver) -> Tensor:
    """`solve` by the KSP from zero, for values and b that need no conversion and no check of their
    form.
    """
    levels = {False: solver.refinement, True: solver.adjoint}
    needs = _need_gradients(values, b)
    sizes = 1, -1 if b.dim() == 1 else len(b)
    call = KspCall(operator, solver, levels, sizes, (*needs, False), any(needs))
    x = _applied(values, b, None, call)
    return with_ordinary_values(solve, operator, values, b, solver, None) if x is None else x


def _applied(values: Any, right: Tensor, start: Tensor | None, call: SolveCall) -> Tensor | None:
    """The solution; None if the values are so extreme that they have to be scaled."""
    call.can_scale = lambda: not _are_transformed(values, right)
    try:
        x = apply(_Solve, values, right, start, call)
    except errors.SolveError:
        if not call.can_scale() or not are_extreme(call.operator, values, call.solver):
            raise
        return None
    if has_usual_size(call):
        return x
    require_size_in_range(call)
    if not call.can_scale():
        return x
    return None if are_extreme(call.operator, values, call.solver) else x


def _check_kinds(operator: Any, solver: Any) -> None:
    """Raise an InputError unless there is an operator and a solver; not collective."""
    if not isinstance(operator, Operator):
        raise InputError(
            f"operator must be a SparseOperator or another operator, not a "
            f"{type(operator).__name__}: make one, e.g. by SparseOperator.from_scipy(matrix)"
        )
    if not isinstance(solver, Solver):
        raise InputError(
            f"solver must be a Solver, e.g. Solver('cg', 'jacobi'), not a {type(solver).__name__}"
        )


def _need_gradients(values: Any, b: Any) -> tuple[bool, bool]:
    if not torch.is_grad_enabled():
        return False, False
    return (
        isinstance(values, Tensor) and values.requires_grad,
        isinstance(b, Tensor) and b.requires_grad,
    )


def _are_transformed(*tensors: Any) -> bool:
    return any(isinstance(one, Tensor) and is_transformed(one) for one in tensors)


class _Solve(torch.autograd.Function):
    """`x = A⁻¹ b` or `A⁻ᵀ b` in double precision, where the call computes: b, the guess and x
    `(n_local,)` or `(B, n_local)`, or `(M, R, n_local)` for M matrices. The solution does not
    depend on the guess.
    """

    @staticmethod
    def forward(values: Tensor | None, b: Tensor, guess: Tensor | None, call: SolveCall) -> Tensor:
        return call.solve(values, b, guess)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, b, _, ctx.call = inputs
        # Not saved, because its changes in place are no errors: it only serves to find a guess.
        ctx.right = ctx.call.kept_right(b) if ctx.needs_input_grad[0] else None
        # Saved for the gradient of the values; torch detects a change in place.
        ctx.save_for_backward(values, output if ctx.needs_input_grad[0] else None)
        if values is not None:
            ctx.save_for_forward(values, output)

    @staticmethod
    @one_at_a_time
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (values, x), call = ctx.saved_tensors, ctx.call
        try:
            own = None if call.is_derivative else call.recollection
            guess = call.adjoint_guess(grads[0], ctx.right, x)
            adjoint, inner = _derivative(values, grads[0], call, not call.transposed, own, guess)
            if not ctx.needs_input_grad[0]:
                return None, adjoint, None, None
            pair = (x, adjoint) if call.transposed else (adjoint, x)
            report = call.solver.report
            part = report.timer.open(report.adjoint, "gradient_seconds")
            try:
                values_grad = call.values_gradient(values, *pair)
            finally:
                report.timer.close(part)
            check_range(call, inner, values_grad)
            values_grad = like(values_grad, values)
            if values_grad.shape != values.shape:
                values_grad = values_grad.view(values.shape)
            return values_grad, adjoint, None, None
        finally:
            if not torch.is_grad_enabled():
                call.release()

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        call, (values_t, right, *_) = ctx.call, tangents
        values = None
        if ctx.saved_tensors:
            values, x = ctx.saved_tensors
        if values_t is not None:
            change = call.tangent_product(values, values_t, x)
            right = -change if right is None else right - change
        return _derivative(values, right, call, call.transposed)[0]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        values: Any,
        b: Tensor,
        guess: Tensor | None,
        call: SolveCall,
    ) -> tuple[Tensor, int]:
        if b.dim() == (1 if in_dims[1] is None else 2):
            dims, given = _as_rows(in_dims, b, guess)
            x, where = _Solve.vmap(info, dims, values, *given, call)
            return x.squeeze(-2), where
        shares_matrices = in_dims[0] is None
        if not shares_matrices and not isinstance(call.operator, SparseOperator):
            raise InputError(
                f"vmap over the values of a {type(call.operator).__name__} is not available, "
                "because its functions take one set of values: call solve once per set"
            )
        many, starts = (
            _batched(info.batch_size, dim, one, -3 if shares_matrices else 0)
            for dim, one in zip(in_dims[1:3], (b, guess), strict=True)
        )
        assert many is not None
        if shares_matrices:
            # The batch is a set of further right-hand sides of each matrix.
            x = _batch(
                values,
                many.flatten(-3, -2),
                None if starts is None else starts.flatten(-3, -2),
                call,
            )
            # Torch's legacy batching needs the batch axis first in memory.
            return x.view(many.shape).movedim(-3, 0).contiguous(), 0
        x = _batch(
            values.movedim(in_dims[0], 0).flatten(0, -2),
            many.flatten(0, -3),
            None if starts is None else starts.flatten(0, -3),
            call,
        )
        return x.view(many.shape), 0


def _as_rows(
    in_dims: tuple[int | None, ...], b: Tensor, guess: Tensor | None
) -> tuple[tuple[int | None, ...], tuple[Tensor, Tensor | None]]:
    """The axes and arguments of a rule of vmap for batches of one right-hand side, for b and the
    guess in place of vectors.
    """
    moved = [
        one if one is None or dim is None else one.movedim(dim, 0)
        for one, dim in zip((b, guess), in_dims[1:3], strict=True)
    ]
    right, start = (None if one is None else one.unsqueeze(-2) for one in moved)
    dims = tuple(None if dim is None else 0 for dim in in_dims[1:3])
    assert right is not None
    return (in_dims[0], *dims, None), (right, start)


def _batched(size: int, dim: int | None, one: Tensor | None, where: int) -> Tensor | None:
    """A tensor with the batch axis at `where`; without a batch axis (`dim`) it is expanded."""
    if one is None:
        return None
    if dim is not None:
        return one.movedim(dim, where)
    shape = list(one.shape)
    shape.insert(where if where >= 0 else one.dim() + 1 + where, size)
    return one.unsqueeze(where).expand(shape)


def _derivative(
    values: Tensor | None,
    right: Tensor,
    call: SolveCall,
    transposed: bool,
    recollection: Recollection | None = None,
    guess: Tensor | None = None,
) -> tuple[Tensor, SolveCall]:
    """A solve with the matrices of another one, and its arguments."""
    if guess is not None or (recollection is not None and _are_transformed(right)):
        recollection = None
    inner = call.changed(
        transposed=transposed,
        recording=torch.is_grad_enabled(),
        recollection=recollection,
        is_derivative=True,
    )
    return apply(_Solve, values, right, guess, inner), inner


def _batch(values: Tensor | None, right: Tensor, guess: Tensor | None, call: SolveCall) -> Tensor:
    """The solve of a batch of torch's vmap; derivatives of the batch use its matrices."""
    matrices = 1 if right.dim() == 2 else len(right)
    inner = call.changed(sizes=(matrices, matrices * right.shape[-2]), recollection=None)
    x = apply(_Solve, values, right, guess, inner)
    call.held, call.squares = inner.held, inner.squares
    return x
