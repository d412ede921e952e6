"""Differentiable solves by the batched engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.batched.engine import BatchedEngine, Held, engine_of, validate_operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.solve_call import SolveCall, rows_of
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import to_host
from prdp_hpc.linalg.validation import agree


@dataclass
class BatchedCall(SolveCall):
    """A solve of all right-hand sides together, in tensors on their device."""

    # Either would stop the device after each solve.
    knows_squares: ClassVar[bool] = False
    finds_multiples: ClassVar[bool] = False

    @property
    def _engine(self) -> BatchedEngine:
        return engine_of(self.solver)

    def working(self, tensor: Tensor) -> Tensor:
        """The tensor in double precision on its device; differentiable."""
        return tensor.to(torch.float64)

    def solve(self, values: Any, right: Tensor, guess: Tensor | None) -> Tensor:
        """See `SolveCall`."""
        if self.held is None:
            with self.solver.report.part(self.direction, "assembly"):
                self.held = self._load(values, right, guess)
        # `flatten`, not `reshape(-1, n)`: a rank may have no rows, or no entries.
        b = rows_of(right).flatten(0, -2).contiguous()
        start = self._start(None if guess is None else guess.reshape(b.shape), b)
        is_guarded = self.recollection is not None
        x = self._engine.solve(self.held, self.direction, b, self.level, start, is_guarded)
        if self.recollection is not None:
            self.recollection.keep(self.direction, x)
        return x.view(right.shape)

    def _start(self, given: Tensor | None, b: Tensor) -> Tensor | None:
        """The initial guess: the stored last solution if there is one, else the given guess."""
        if self.recollection is None:
            return given
        start = torch.zeros_like(b) if given is None else given.clone()
        is_known = self.recollection.recall(self.direction, start)
        # On all ranks together, because a guess needs a product, which is collective.
        return start if anywhere(self.operator.comm, is_known) else given

    def _load(self, values: Any, right: Tensor, guess: Tensor | None) -> Held:
        """The matrices of these values, made again if the values have changed; collective."""
        operator, comm = self.operator, self.operator.comm
        error: Exception | None = validate_operator(operator, self.solver.ksp)
        given, changed = right.new_empty(0), False
        if error is None:
            given = torch.atleast_2d(values.detach().to(right.device, torch.float64))
            given = given.flatten(0, -2)
            changed = self._engine.differ(operator, given)
            if changed and has_bad_numbers(given):
                error = operator.check_numbers(to_host(values))
        if error is None and guess is not None and has_bad_numbers(guess):
            error = InputError("guess holds NaN or infinity: look at what produced it")
        if comm.size == 1:
            if error is not None:
                raise error
        else:
            changed, _ = agree(operator, error, changed, [], self.sizes, self.needs, self.solver)
        if not changed:
            return self._engine.last(operator)
        assert isinstance(operator, SparseOperator)
        return self._engine.load(operator, given, self.direction)

    def release(self) -> None:
        """See `SolveCall`; there is nothing to release."""

    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """See `SolveCall`."""
        held: Held = self.held
        return held.pattern.pairing(rows_of(adjoint), rows_of(solution), -1.0)

    def tangent_product(self, values: Any, tangent: Tensor, x: Tensor) -> Tensor:
        """See `SolveCall`."""
        held: Held = self.held
        product = held.pattern.product(tangent.to(x), rows_of(x), self.transposed)
        return product.squeeze(0) if x.dim() == 1 else product
