"""The forward and the backward pass of one unrolled solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.report import Counters
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.unrolled.checkpoints import Checkpoints
from prdp_hpc.linalg.unrolled.convergence import DefaultTest, ReplayedTest, last_iteration
from prdp_hpc.linalg.unrolled.iterations import Criteria, iterate, judge, solution
from prdp_hpc.linalg.unrolled.methods import Method, Richardson
from prdp_hpc.linalg.unrolled.scaling import Scaling
from prdp_hpc.linalg.unrolled.state import State
from prdp_hpc.linalg.unrolled.system import AdjointSystem, System, UnrolledSystem


class Run:
    """One solve, with the data of its backward pass.

    Parameters
    ----------
    method : the iteration.
    system : the matrix and the preconditioner.
    solver : the solver with the level, which determines when to stop, and the report.
    keeps_states : whether the backward pass needs states of the iteration.

    Attributes
    ----------
    checkpoints : the states that are kept.
    counts : iterations of each right-hand side, `(B, 1)`.
    exact : right-hand sides `(B, 1)` that are differentiated implicitly, see `DefaultTest`.
    """

    def __init__(
        self,
        method: Method[Any],
        system: UnrolledSystem,
        solver: Solver,
        keeps_states: bool,
    ) -> None:
        self.method, self.system = method, system
        self.adjoint = AdjointSystem(system, solver)
        self.checkpoints = Checkpoints(method.period, keeps_none=not keeps_states)
        self.counts = torch.zeros(0, 1, dtype=torch.int64)
        self.exact = torch.zeros(0, 1, dtype=torch.bool)
        self._exact_x: Tensor | None = None
        self._level, self._report = solver.refinement, solver.report
        _, absolute, divergence, _ = system.ksp.getTolerances()
        self._criteria = Criteria(solver.refinement, absolute, divergence)
        self._name = system.systems[0].method

    @property
    def is_to_be_scaled(self) -> bool:
        """Whether right-hand sides of extreme size are scaled, because inner products would
        overflow; not if the user set an absolute tolerance.
        """
        is_plain = self.method.is_stationary and self._level.is_fixed
        products = not is_plain or self.system.has_nullspace
        return products and self.system.ksp.getTolerances()[1] == 0.0

    def forward(self, b: Tensor, whole: Tensor | None = None) -> Tensor:
        """The last iterates, `(B, n_local)`. A tolerance refers to the right-hand sides `whole`; b
        is the residual of a guess.

        Raises
        ------
        SolveError
            For NaN in b or x, a breakdown, or a tolerance that was not reached.
        """
        with self._report.part("forward", "solve"):
            return self._forward(b, whole)

    def _forward(self, b: Tensor, whole: Tensor | None) -> Tensor:
        x, test = self._iterate(self.system, b, self.checkpoints.offer, whole)
        self.counts, self.exact = test.counts, test.exact
        self._count(self._report.forward, len(b), test.counts)
        self._judge("forward", self.system, test, b, x)
        if self.exact.any():
            # A copy, because the caller may change x in place.
            self._exact_x = torch.where(self.exact, x, 0.0)
        return x

    def _iterate(
        self,
        system: System,
        b: Tensor,
        offer: Callable[[int, State], None],
        whole: Tensor | None = None,
    ) -> tuple[Tensor, DefaultTest]:
        """The last iterates, and the convergence test; every state is passed to `offer`."""
        with torch.no_grad():
            return iterate(self.method, system, b, self._criteria, whole, offer)

    def backward(
        self, grad: Tensor, values: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients of the values, if they are passed as a float64 leaf, and of b."""
        with self._report.part("adjoint", "solve"):
            return self._backward(grad, values, b)

    def _backward(
        self, grad: Tensor, values: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        moving = torch.where(self.exact, 0.0, grad)
        if self.checkpoints.keeps_none:
            assert isinstance(self.method, Richardson)
            with torch.no_grad():
                values_grad, b_grad = None, self.method.transposed(self.system, moving, self.counts)
        else:
            assert b is not None
            values_grad, b_grad = self._reverse(moving, values, b)
        self._count(self._report.adjoint, int((~self.exact).sum()), self.counts)
        if self.exact.any():
            b_grad, change = self._implicit(grad, b_grad, with_values=values is not None)
            values_grad = None if values_grad is None else values_grad - change
        if anywhere(self.system.comm, has_bad_numbers(b_grad)):
            bad = anywhere(self.system.comm, has_bad_numbers(grad))
            raise errors.bad_numbers(
                "adjoint", self._name, last_iteration(self.counts), self._level, in_input=bad
            )
        return values_grad, b_grad

    def require_finite(self, *gradients: Tensor | None) -> None:
        """Raise SolveError if a gradient overflows; collective."""
        is_bad = any(has_bad_numbers(one) for one in gradients if one is not None)
        if anywhere(self.system.comm, is_bad):
            raise errors.too_large_gradient(self._name, self._level)

    def _implicit(
        self, grad: Tensor, b_grad: Tensor, with_values: bool
    ) -> tuple[Tensor, Tensor | float]:
        """Add to the gradient of b by adjoint solves λ at the forward level where the iterations
        have no derivative; also returns `∂(λᵀ A x)/∂values`.
        """
        # The other right-hand sides are 0 here and stop at once.
        right = torch.where(self.exact, grad, 0.0)
        scaling = Scaling(self.system.comm, right) if self.is_to_be_scaled else Scaling()
        right = scaling.scaled(right)
        adjoint, test = self._iterate(self.adjoint, right, lambda iteration, state: None)
        self._count(self._report.adjoint, int(self.exact.sum()), test.counts)
        self._judge("adjoint", self.adjoint, test, right, adjoint)
        adjoint = scaling.unscaled(adjoint)
        if not with_values:
            return b_grad + adjoint, 0.0
        assert self._exact_x is not None
        return b_grad + adjoint, self.system.values_gradient(adjoint, self._exact_x)

    def _reverse(
        self, grad: Tensor, values: Tensor | None, b: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Backward pass by segments, from the last: recompute a segment with gradients from the
        state before it, and differentiate it.
        """
        leaf = b.detach().clone().requires_grad_()
        gradients = _Gradients([leaf] if values is None else [leaf, values])
        grads, end = [grad], last_iteration(self.counts)
        with torch.enable_grad():
            for first, stop, state in self.checkpoints.segments(end):
                system = self.system.with_values(values)
                begin = state.map(lambda tensor: tensor.detach().requires_grad_())
                current = self._repeat(
                    system,
                    system.without_left_nullspace(leaf),
                    begin,
                    ReplayedTest(self.counts, first),
                    stop - first,
                )
                is_end = stop == end
                outputs = [solution(self.method, system, current)] if is_end else current.tensors
                grads = gradients.vjp(outputs, grads, begin.tensors)
            if end:
                system = self.system.with_values(values)
                start = self.method.start(
                    system, system.without_left_nullspace(leaf), ReplayedTest(self.counts, 0)
                )
                gradients.vjp(start.tensors, grads, [])
        return gradients.totals[1] if values is not None else None, gradients.totals[0]

    def _repeat(
        self,
        system: UnrolledSystem,
        right: Tensor,
        state: State,
        test: ReplayedTest,
        iterations: int,
    ) -> State:
        for _ in range(iterations):
            state = self.method.step(system, right, state, test)
        return state

    def _count(self, counters: Counters, solves: int, counts: Tensor) -> None:
        counters.solves += solves
        # A right-hand side that is solved waits for the others, whereas PETSc's KSP would iterate
        # on rounding errors.
        counters.iterations += (
            (self._level.max_it or 0) * solves if self._level.is_fixed else int(counts.sum())
        )

    def _judge(
        self, direction: str, system: System, test: DefaultTest, b: Tensor, x: Tensor
    ) -> None:
        solved = judge(direction, self._name, system, self._criteria.level, test, b, x)
        if direction == "forward":
            self.exact = self.exact | solved


class _Gradients:
    """Sums the contributions of all segments to the gradients of the inputs of the solve."""

    def __init__(self, inputs: list[Tensor]) -> None:
        self._inputs = inputs
        self.totals = [torch.zeros_like(tensor) for tensor in inputs]

    def vjp(self, outputs: list[Tensor], grads: list[Tensor], state: list[Tensor]) -> list[Tensor]:
        """The gradients at the start of a segment from those at its end."""
        moved = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
        wanted = [*state, *self._inputs]
        found = torch.autograd.grad(
            [out for out, _ in moved], wanted, [grad for _, grad in moved], allow_unused=True
        )
        results = [
            torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)
        ]
        for total, gradient in zip(self.totals, results[len(state) :], strict=True):
            total += gradient
        return results[: len(state)]
