"""Solves that are differentiated by unrolling the iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import is_transformed, refuse_tracing
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import as_tensor
from prdp_hpc.linalg.errors import SolveError
from prdp_hpc.linalg.extreme_values import (
    check_size,
    factors_of,
    require_usual_size,
    scaled_solution,
    scaled_values,
)
from prdp_hpc.linalg.held_matrices import HeldMatrices
from prdp_hpc.linalg.initial_guesses import recollection_of
from prdp_hpc.linalg.method_types import check_lag, check_unrolled
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.solve_call import one_at_a_time
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor, like, to_memory
from prdp_hpc.linalg.unrolled.bicgstab import BREAKDOWN, BiCGStab
from prdp_hpc.linalg.unrolled.gmres import GMRES
from prdp_hpc.linalg.unrolled.guess import Guess, guessed, not_offered
from prdp_hpc.linalg.unrolled.methods import ConjugateGradients, Method, Richardson, SteepestDescent
from prdp_hpc.linalg.unrolled.run import Run
from prdp_hpc.linalg.unrolled.scaling import Scaling
from prdp_hpc.linalg.unrolled.system import UnrolledSystem, is_differentiated
from prdp_hpc.linalg.validation import is_batch, prepare, wrong_form, wrong_guess
from prdp_hpc.petsc import PETSc

GMRES_RESTART = 30  # PETSc's default


def unrolled_solve(
    operator: Operator, values: Any, b: Tensor, solver: Solver, guess: Tensor | None = None
) -> Tensor:
    """As `solve`, differentiated through the iterations: the derivative is that of the computed
    iterate, not of the exact solution.

    All right-hand sides iterate together, with separate scalars but common reductions. With a
    tolerance each right-hand side stops at its own iteration, and the derivative treats the number
    of iterations as constant. The states of about √K iterations are kept, and the others are
    computed again in the backward pass. Richardson's method with a gradient for b only keeps no
    state: its adjoint is the same iteration with Aᵀ and M⁻ᵀ.

    At b = 0, K iterations of a Krylov method have no derivative, because they are homogeneous in b
    but not linear. The same holds if the solution is reached exactly before the last of K
    iterations, e.g. by CG after one iteration for an eigenvector. These right-hand sides stop there
    and are differentiated implicitly at the forward level: `∂L/∂b` is K iterations of the same
    method for the adjoint system `Aᵀ λ = ∂L/∂x`, from zero, and `∂L/∂value_k = −λ[row_k] x[col_k]`,
    which is 0 where x is 0. Thus a quantity that starts at zero, e.g. a correction or a source,
    gets a gradient. With a tolerance this holds for right-hand sides that need no iteration; for
    others the derivative is that of the computed iterations, whose accuracy the tolerance does not
    control.

    With a guess g the result is `g + P(b − A g)`, where P are the iterations from zero, and g has
    the gradient of this formula.

    `ksp` is one of richardson, steepest_descent, cg, gmres, bcgs. The preconditioners none, jacobi,
    lu and cholesky are differentiated too; other linear ones are treated as constant and can be
    used only if the values need no gradient. The gradient needs `M⁻ᵀ`; for preconditioners that
    are not symmetric it is their transposed application, also if A is symmetric.

    Raises
    ------
    ValueError
        As for `solve`; and for another ksp, a preconditioner that is not linear, one whose
        transpose cannot be applied where a gradient is needed, or values that need a gradient with
        one that is not differentiated.
    SolveError
        As for `solve`.
    """
    refuse_tracing()
    for tensor in (values, b, guess):
        if isinstance(tensor, Tensor) and is_transformed(tensor):
            raise not_offered("torch.func's transforms and batched gradients")
    error = wrong_guess(b, guess, guess is None and solver.initial_guess == "state")
    recollection = None
    if error is None and is_real_tensor(b):
        recollection, error = recollection_of(solver, operator, b)
    if guess is None and error is None and solver.initial_guess != "last":
        return _solved(operator, values, b, solver, None)
    if not is_real_tensor(b):
        # The error is raised on all ranks by the reduction that they do for their guesses.
        error = wrong_form(operator, values, b)
        batch = values.shape[:1] if is_batch(values) else ()
        b = torch.zeros((*batch, operator.n_local), dtype=torch.float64)
    if is_real_tensor(values):
        # The parts of their gradient by the guess and by the iterations may cancel: they are added
        # in double precision.
        values = in_double(values, operator.memory.device)
    start, rest = guessed(operator, values, b, solver, Guess(guess, error, recollection))
    x = start + _solved(
        operator, values, rest, solver, in_double(b, operator.memory.device).detach()
    )
    if recollection is not None:
        recollection.keep("forward", to_memory(_rows(x, operator), operator.memory))
    return like(x, b)


def _solved(
    operator: Operator, values: Any, b: Tensor, solver: Solver, whole: Tensor | None
) -> Tensor:
    # Evaluated here, because inside a forward pass torch never records.
    recording = torch.is_grad_enabled()
    factors = factors_of(operator, values, solver)
    if factors is not None:
        values = scaled_values(operator, values, solver, factors)
    x: Tensor = _UnrolledSolve.apply(values, b, operator, solver, recording, whole)  # type: ignore[no-untyped-call]
    return x if factors is None else scaled_solution(operator, x, solver, factors)


class _UnrolledSolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Any,
        b: Tensor,
        operator: Operator,
        solver: Solver,
        recording: bool,
        whole: Tensor | None,
    ) -> Tensor:
        needs = ctx.needs_input_grad[:2]
        _check(solver, operator, needs[0])
        records = recording and any(needs)
        with solver.report.part("forward", "assembly"):
            held = HeldMatrices(operator, prepare(operator, values, b, needs, solver))
        keeps = False
        try:
            check_size(operator, held.operators, values, solver, can_scale=lambda: False)
            system = UnrolledSystem(operator, held.operators, values, solver)
            if records:
                system.check_transposed()
            method = _method(solver, system)
            keeps_states = records and (needs[0] or not method.is_stationary)
            run = Run(method, system, solver, keeps_states)
            scaling = Scaling()
            if run.is_to_be_scaled:
                scaling = Scaling(operator.comm, _rows(b, operator), len(held.operators))
            aim = None if whole is None else scaling.scaled(_rows(whole, operator))
            x = scaling.unscaled(run.forward(scaling.scaled(_rows(b, operator)), aim)).view(b.shape)
            if records:
                require_usual_size(operator, solver, _rows(b, operator), _rows(x, operator))
            keeps = records
        except SolveError:
            solver.replace_systems(held.operators)
            raise
        finally:
            if not keeps:
                held.release()
        if records:
            ctx.run, ctx.held, ctx.solver, ctx.scaling = run, held, solver, scaling
            # The inputs themselves are saved, so that torch detects a change in place.
            ctx.save_for_backward(
                values if isinstance(values, Tensor) else None, b if keeps_states else None
            )
        return like(x, b)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise not_offered("forward-mode derivatives")

    @staticmethod
    @one_at_a_time
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Checked here: with `once_differentiable`, torch.autograd.grad omits second derivatives.
        if torch.is_grad_enabled():
            raise not_offered("second derivatives (create_graph=True)")
        (grad,), run = grads, ctx.run
        if is_transformed(grad):
            raise not_offered("batched gradients")
        values, b = ctx.saved_tensors
        try:
            with ctx.solver.report.part("adjoint", "assembly"):
                ctx.held.restore(values, values_are_read=True)
            run.system.set_up_again(ctx.solver)
            run.system.check_transposed()
            operator, leaf = run.system.operator, None
            if ctx.needs_input_grad[0]:
                leaf = in_double(values.detach(), operator.memory.device).clone().requires_grad_()
            right = None if b is None else ctx.scaling.scaled(_rows(b, operator))
            rows = _rows(grad, operator)
            values_grad, b_grad = ctx.scaling.backward(run.backward, rows, leaf, right)
            run.require_finite(values_grad, b_grad)
        except SolveError:
            ctx.solver.replace_systems(ctx.held.operators)
            raise
        finally:
            ctx.held.release()
        wanted = None if values_grad is None else like(values_grad, values)
        return wanted, like(b_grad, grad).view(grad.shape), None, None, None, None


def _rows(b: Tensor, operator: Operator) -> Tensor:
    """`(B, n_local)` in the operator's memory."""
    rows: Tensor = torch.atleast_2d(as_tensor(to_memory(b, operator.memory)))
    return rows


def _method(solver: Solver, system: UnrolledSystem) -> Method[Any]:
    """The iteration of a solver's KSP, with its options."""
    options = PETSc.Options(system.ksp.getOptionsPrefix())
    if solver.ksp == "richardson":
        return Richardson(options.getReal("ksp_richardson_scale", 1.0))
    if solver.ksp == "gmres":
        return GMRES(options.getInt("ksp_gmres_restart", GMRES_RESTART))
    others: dict[str, Callable[[], Method[Any]]] = {
        "steepest_descent": SteepestDescent,
        "cg": ConjugateGradients,
        "bcgs": lambda: BiCGStab(least=BREAKDOWN),
    }
    return others[solver.ksp]()


def _check(solver: Solver, operator: Operator, values_need_gradient: bool) -> None:
    if solver.adopted is not None:
        raise not_offered("a KSP that the user made (Solver.from_ksp)")
    # Checked again, because `differentiation` may be set after the solver was made.
    check_unrolled(solver.ksp, solver.pc)
    check_lag(solver.lag_preconditioner, solver.ksp, "unrolled")
    for key in solver.petsc_options:
        if key.lstrip("-") in ("ksp_richardson_self_scale", "ksp_norm_type"):
            raise InputError(
                f"differentiation='unrolled' does not support the option {key}: omit it, or use "
                "'implicit'"
            )
    if values_need_gradient and not is_differentiated(solver, operator):
        options = "".join(
            f" {key}" for key in solver.petsc_options if key.lstrip("-").startswith("pc_")
        )
        raise InputError(
            "differentiation='unrolled' cannot differentiate the set-up of "
            f"pc={solver.pc!r}{options}, and the values need a "
            "gradient: use pc none, jacobi, lu or the PDE's own without these options, or "
            "differentiation='implicit'"
        )
