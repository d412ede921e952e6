"""Differentiable solves of nonlinear systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.batched_functions import apply
from prdp_hpc.autograd.recomputed import recomputed, slice_by_slice, tangent_of
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.nonlinear.coloured_jacobian import ColouredJacobian
from prdp_hpc.linalg.nonlinear.errors import NonlinearSolveError, of_samples
from prdp_hpc.linalg.nonlinear.gradients import gradients_of, product, transposed_product
from prdp_hpc.linalg.nonlinear.inner import linear_solve
from prdp_hpc.linalg.nonlinear.jacobians import Jacobian, UserJacobian
from prdp_hpc.linalg.nonlinear.levels import Levels
from prdp_hpc.linalg.nonlinear.problem import Parameters, Problem, Residual
from prdp_hpc.linalg.nonlinear.solver import NonlinearSolver
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.solve_call import one_at_a_time
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor, like, to_host

GivenJacobian = ColouredJacobian | tuple[Operator, Callable[..., Tensor]] | None


@one_at_a_time
def solve_nonlinear(
    residual: Residual,
    u0: Tensor,
    parameters: Any = (),
    solver: NonlinearSolver | None = None,
    *,
    jacobian: GivenJacobian = None,
    grid: Grid | None = None,
    comm: MPI.Comm | None = None,
    per_sample: bool | Sequence[bool] = False,
    symmetric: bool = False,
) -> Tensor:
    """Solve `F(u, p) = 0` for u by Newton's method, differentiably in the parameters p.

    The backward pass is one linear solve with the transposed Jacobian at the solution,

        Jᵀ λ = ∂L/∂u with J = ∂F/∂u,    ∂L/∂p = −(∂F/∂p)ᵀ λ (by torch),

    for any number of Newton iterations. It treats the solution as exact: at a level of K Newton
    iterations it is the same formula at the last iterate, with an error of the order of the
    iterate's own. The start `u0` has no gradient, because a converged solution does not depend on
    it.

    `create_graph=True`, Hessian-vector products, forward-mode derivatives and batches of gradients
    (`is_grads_batched=True`, `torch.func.jacrev`) work to any order; `torch.func.vmap` over
    parameters does not: pass a batch instead.

    Parameters
    ----------
    residual : callable
        `residual(u, *parameters) -> F` in torch, this rank's part; it communicates by
        differentiable functions such as `grid.halo`, and is then collective. Without `grid`, u and
        F have the shape `(n_local,)`; with it `(b, C, *local_shape)` for any number b of samples,
        which must not affect each other. Float64, on the host.
    u0 : Tensor
        Start of this rank's unknowns: shape `(n_local,)`, or `(B, n_local)` for a batch of B
        independent systems; with `grid` `(B, C, *local_shape)`. Each sample is solved separately.
    parameters : Tensor, tuple or list, optional
        The further arguments of the residual: tensors of any shape, or nested tuples, lists and
        dictionaries of tensors. Tensors are passed in double precision on the host; other objects
        are passed unchanged. A tensor is treated as this rank's own data: wrap replicated ones in
        `Grid.replicated`.
    solver : NonlinearSolver, optional
        Newton's level, line search and linear solver. Default: `NonlinearSolver()`.
    jacobian : ColouredJacobian or tuple, optional
        None (default): products by torch, without a preconditioner. A `ColouredJacobian`: entries
        by torch. A pair `(operator, function)`: `function(u, *parameters)` returns the values of a
        `SparseOperator` or of another operator; in the forward pass they may be an approximation,
        but where a gradient is needed they are compared with torch's derivative. Make it once and
        use it in each call, because preconditioners and KSPs are kept with it.
    grid : Grid, optional
        The grid of the fields.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the unknowns. Default: those of the grid or the Jacobian, else all
        ranks.
    per_sample : bool or sequence of bool, default False
        Which parameters differ between samples, with the samples along their first axis: one bool
        per parameter, or one for all. The residual receives those of the samples of its u: without
        a grid one entry of the first axis, with a grid `(b, ...)`.
    symmetric : bool, default False
        Promise that the Jacobian is symmetric, for the default products by torch.

    Returns
    -------
    Tensor
        The solution u, with the shape, type and device of `u0`. Collective over the ranks, also in
        the backward pass.

    Raises
    ------
    InputError
        On all ranks together: for wrong shapes or types, ranks that disagree, or a residual that
        does not depend on u or depends on a tensor with a gradient that is not a parameter.
    NonlinearSolveError
        On all ranks together, with SNES's reason, the Newton iteration, the samples that failed and
        what to try.

    Notes
    -----
    PETSc manual pages: SNESSolve, SNESNEWTONLS. Source of the adjoint: the implicit function
    theorem, as in Blondel et al., Efficient and modular implicit differentiation (2022).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import solve_nonlinear
    >>> def residual(u, a):
    ...     return u + a * u**3 - 2.0
    >>> a = torch.ones(3, dtype=torch.float64, requires_grad=True)
    >>> u = solve_nonlinear(residual, torch.zeros(3, dtype=torch.float64), a)
    >>> u.sum().backward()
    >>> a.grad  # −u³ / (1 + 3 a u²) with u = 1
    tensor([-0.2500, -0.2500, -0.2500], dtype=torch.float64)
    """
    solver = NonlinearSolver() if solver is None else solver
    if not isinstance(solver, NonlinearSolver):
        raise InputError(
            f"solver must be a NonlinearSolver(Solver(...)), not a {type(solver).__name__}"
        )
    comm = _comm_of(comm, grid, jacobian)
    taken: Parameters | None = None
    error: Exception | None = None
    try:
        taken = Parameters(parameters, per_sample)
        error = _validate_start(u0, grid) or taken.validate_samples(_batch_of(u0, grid))
    except InputError as wrong:
        error = wrong
    raise_together(comm, error)
    assert taken is not None
    shape = tuple(u0.shape[1:]) if grid is not None or u0.dim() == 2 else tuple(u0.shape)
    problem = Problem(residual, taken, shape, grid)
    needs = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in taken.tensors)
    sizes = _agreed_sizes(comm, problem.n_local, _batch_of(u0, grid), needs)
    start = in_double(u0.detach()).reshape(-1, problem.n_local) if u0.numel() else _empty(u0, grid)
    used = _jacobian(jacobian, solver, sizes, comm, symmetric)
    raise_together(comm, _validate_jacobian(used, problem.n_local))
    call = _Call(problem, solver, used, solver.levels, start, torch.is_grad_enabled())
    return like(apply(_Newton, call, *taken.tensors).reshape(u0.shape), u0)


@dataclass
class _Call:
    """The arguments of one solve besides its tensors, for its derivatives.

    Attributes
    ----------
    start : the starts `(B, n_local)`.
    checks_closure : whether to look for tensors with a gradient that are not parameters.
    """

    problem: Problem
    solver: NonlinearSolver
    jacobian: Jacobian
    levels: Levels
    start: Tensor
    checks_closure: bool

    def solve(self, tensors: list[Tensor]) -> Tensor:
        """The solutions `(B, n_local)`; collective."""
        result, failures = self.start.clone(), {}
        newton = self.solver.system(self.jacobian.operator)
        for sample, u0 in enumerate(self.start):
            function = self._function(sample, tensors)
            load = self._load(sample, tensors)
            if newton.broken:
                newton = self.solver.system(self.jacobian.operator)
            try:
                result[sample] = newton.solve(function, load, u0, self.levels)
            except NonlinearSolveError as error:
                failures[sample] = error
        self.jacobian.release()
        if failures and len(self.start) > 1:
            raise of_samples(failures, len(self.start))
        if failures:
            raise failures[0]
        return result

    def _function(self, sample: int, tensors: list[Tensor]) -> Callable[[Tensor], Tensor]:
        function = self.problem.of_sample(sample, tensors)
        if not self.checks_closure:
            return function

        def checked(u: Tensor) -> Tensor:
            with torch.enable_grad():
                found = function(u)
            if found.requires_grad:
                raise InputError(
                    "the residual depends on a tensor that requires a gradient but is not one of "
                    "the parameters, so its gradient would be lost: pass it in "
                    "solve_nonlinear(parameters=...), or detach it"
                )
            return found

        return checked

    def _load(self, sample: int, tensors: list[Tensor]) -> Callable[[Tensor], None]:
        return lambda u: self.jacobian.load(self.problem, sample, u, tensors, exact=False)

    def linear(self, transposed: bool, b: Tensor, u: Tensor, tensors: list[Tensor]) -> Tensor:
        """`J⁻¹ b` or `J⁻ᵀ b` for each sample, with the Jacobians at `u (B, n_local)`."""
        direction = "adjoint" if transposed else "forward"
        level = self.levels.adjoint
        solver, result = self.solver.solver, torch.empty_like(b)
        for sample, right in enumerate(b):
            with solver.report.part(direction, "assembly"):
                self.jacobian.load(self.problem, sample, u[sample], tensors, exact=True)
                found = linear_solve(
                    self.jacobian.operator, solver, direction, to_host(right), level
                )
                result[sample] = torch.from_numpy(found)
        self.jacobian.release()
        return result


class _Newton(torch.autograd.Function):
    """`u` with `F(u, p) = 0`, `(B, n_local)`."""

    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> Tensor:
        return call.solve([tensor.detach() for tensor in tensors])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(output, *inputs[1:])
        ctx.save_for_forward(output, *inputs[1:])

    @staticmethod
    @one_at_a_time
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (u, *tensors), call = ctx.saved_tensors, ctx.call
        adjoint = apply(_Linear, call, True, grads[0], u, *tensors)
        with call.solver.report.part("adjoint", "gradient"):
            found = gradients_of(
                call.problem.of_all, [u, *tensors], adjoint, [False, *ctx.needs_input_grad[1:]]
            )
        return (None, *(None if own is None else -own for own in found[1:]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (u, *tensors), call = ctx.saved_tensors, ctx.call
        total = torch.zeros_like(u)
        for index, tangent in enumerate(tangents[1:], start=1):
            if tangent is not None:
                function = tangent_of(call.problem.of_all, index)
                total = total - recomputed(function, u, *tensors, tangent)
        return apply(_Linear, call, False, total, u, *tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, *tensors: Tensor) -> Any:
        raise InputError(
            "solve_nonlinear is not available in torch.func.vmap: pass a batch u0 of shape "
            "(B, n_local), or (B, C, *local_shape) with a grid, and say by per_sample which "
            "parameters differ"
        )


class _Linear(torch.autograd.Function):
    """`x = J(u, p)⁻¹ b` or `J(u, p)⁻ᵀ b`, `(B, n_local)`."""

    @staticmethod
    def forward(call: _Call, transposed: bool, b: Tensor, u: Tensor, *tensors: Tensor) -> Tensor:
        detached = [tensor.detach() for tensor in tensors]
        return call.linear(transposed, b.detach(), u.detach(), detached)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.call, ctx.transposed = inputs[:2]
        ctx.save_for_backward(output, *inputs[3:])
        ctx.save_for_forward(output, *inputs[3:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, u, *tensors), call = ctx.saved_tensors, ctx.call
        other = apply(_Linear, call, not ctx.transposed, grads[0], u, *tensors)
        needs = list(ctx.needs_input_grad[3:])
        if not any(needs):
            return (None, None, other, *(None for _ in needs))
        # The derivative of −left · J right, with left and right as constants of it.
        left, right = (x, other) if ctx.transposed else (other, x)
        found = gradients_of(
            partial(product, call.problem.of_all), [u, *tensors, right], left, [*needs, False]
        )
        return (None, None, other, *(None if own is None else -own for own in found[:-1]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x, u, *tensors), call = ctx.saved_tensors, ctx.call
        right = torch.zeros_like(x) if tangents[2] is None else tangents[2]
        function = partial(transposed_product if ctx.transposed else product, call.problem.of_all)
        for index, tangent in enumerate(tangents[3:]):
            if tangent is not None:
                change = recomputed(tangent_of(function, index), u, *tensors, x, tangent)
                right = right - change
        return apply(_Linear, call, ctx.transposed, right, u, *tensors)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], call: _Call, transposed: bool, *tensors: Tensor
    ) -> tuple[Tensor, int]:
        return slice_by_slice(
            partial(apply, _Linear, call, transposed), info.batch_size, in_dims[2:], tensors
        )


def _comm_of(comm: MPI.Comm | None, grid: Grid | None, jacobian: GivenJacobian) -> MPI.Comm:
    if comm is not None:
        return comm
    if grid is not None:
        return grid.comm
    if isinstance(jacobian, ColouredJacobian):
        return jacobian.operator.comm
    return MPI.COMM_WORLD if jacobian is None else jacobian[0].comm


def _batch_of(u0: Tensor, grid: Grid | None) -> int | None:
    """Samples of a batch; None for one system."""
    return len(u0) if grid is not None or u0.dim() == 2 else None


def _validate_start(u0: Any, grid: Grid | None) -> InputError | None:
    if not is_real_tensor(u0):
        kind = u0.dtype if isinstance(u0, Tensor) else type(u0).__name__
        return InputError(f"u0 must be a tensor of real floating-point numbers, not {kind}")
    if grid is None:
        fits, wanted = u0.dim() in (1, 2), "(n_local,) or (B, n_local)"
    else:
        fits = u0.dim() == grid.dim + 2 and tuple(u0.shape[2:]) == grid.local_shape
        wanted = f"(B, C, {', '.join(map(str, grid.local_shape))}) on this rank"
    return None if fits else InputError(f"u0 must have shape {wanted}, not {tuple(u0.shape)}")


def _agreed_sizes(
    comm: MPI.Comm, n_local: int, batch: int | None, needs: tuple[bool, ...]
) -> tuple[int, ...]:
    """The unknowns of each rank; an InputError where ranks disagree. Collective."""
    found = private(comm).agreement.allgather((n_local, batch, needs))
    if len({batch for _, batch, _ in found}) > 1:
        batches = [-1 if batch is None else batch for _, batch, _ in found]
        raise InputError(
            f"the ranks gave batches of different sizes ({min(batches)} … {max(batches)}; -1 means "
            "none): every rank must give the same"
        )
    if len({needs for _, _, needs in found}) > 1:
        raise InputError(
            "the ranks gave different numbers of parameters, or some need gradients that others "
            "do not: parameters and requires_grad must be the same on every rank"
        )
    return tuple(n for n, _, _ in found)


def _empty(u0: Tensor, grid: Grid | None) -> Tensor:
    """A start without numbers, `(B, n_local)`: reshape cannot infer B from 0 numbers."""
    batch = _batch_of(u0, grid)
    samples = 1 if batch is None else batch
    return torch.zeros(samples, u0.numel() // max(samples, 1), dtype=torch.float64)


def _jacobian(
    given: GivenJacobian,
    solver: NonlinearSolver,
    sizes: tuple[int, ...],
    comm: MPI.Comm,
    symmetric: bool,
) -> Jacobian:
    if isinstance(given, ColouredJacobian):
        return given
    if given is None:
        return solver.matrix_free(sizes, comm, symmetric)
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Operator)):
        raise InputError(
            "jacobian must be None, a ColouredJacobian, or a pair (operator, function), not "
            f"{type(given).__name__}"
        )
    return UserJacobian(*given)


def _validate_jacobian(jacobian: Jacobian, n_local: int) -> InputError | None:
    if jacobian.operator.n_local == n_local:
        return None
    return InputError(
        f"the Jacobian has {jacobian.operator.n_local} unknowns on this rank, but u0 has {n_local} "
        "per sample"
    )
