"""The inverse problem: find the parameters of a Poisson source from the solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.tasks.task import AfterStep, Parts, Stopwatch


class Inverse:
    """Find θ in `−u'' = Σ_m θ_m sin(2π m x)` by gradient descent on `‖u(θ) − u_ref‖² / (2 n)`.

    `u(θ)` comes from the solver at its level, `u_ref` from the true θ at convergence. One epoch is
    one gradient step. The error is `‖θ − θ_true‖ / ‖θ_true‖`.

    Parameters
    ----------
    physics : from a source `(…, *local_shape)` to the solution, such as `Poisson(grid, solver)`,
        with `grid` and `solver`.
    exact : the same with a solver of its own, converged.
    mesh : the ranks, all of which share the grid.
    reference : the true θ, one number per mode.
    start : where the search starts.
    learning_rate : of gradient descent.

    Raises
    ------
    ValueError
        For a mesh of several replicas.

    Source: paper, section on the Poisson inverse problem.
    """

    def __init__(
        self,
        physics: Any,
        exact: Callable[[Tensor], Tensor],
        mesh: ProcessMesh,
        reference: Sequence[float],
        start: Sequence[float],
        learning_rate: float,
    ) -> None:
        if mesh.replicas > 1:
            raise InputError(
                f"parallel.grid_ranks: an inverse problem has no samples to divide among replicas: "
                f"give parallel.grid_ranks={mesh.world.size}, or start {mesh.grid_ranks} rank(s)"
            )
        grid = physics.grid
        self.solver, self.stopwatch = physics.solver, Stopwatch(physics.solver)
        self.mesh, self._grid, self._physics = mesh, grid, physics
        self._rate = learning_rate
        (x,) = grid.coordinates()
        length = grid.length[0]
        self._modes = torch.stack(
            [torch.sin(2 * math.pi * m * x / length) for m in range(1, len(reference) + 1)]
        )
        self._true = torch.tensor(reference, dtype=torch.float64)
        self._theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        with torch.no_grad():
            self._reference = exact(self._source(self._true))

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Inverse:
        """The inverse problem of a config; collective."""
        config = parts.config
        converged = Solver("cg", "jacobi", Refinement(rtol=1e-13))
        return cls(
            parts.stepper(),
            parts.stepper(converged),
            parts.mesh,
            config.inverse.reference,
            config.inverse.start,
            config.training.learning_rate,
        )

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """One gradient step; the loss before it."""
        with self.stopwatch.part("network"):
            loss, gradient = self._loss_and_gradient()
            with torch.no_grad():
                self._theta -= self._rate * gradient
        return float(self.mesh.grid_comm.allreduce(loss.item(), op=MPI.SUM))

    def gradient(self) -> Tensor:
        """The gradient of the loss with respect to θ, at θ as it is; collective, equal on all
        ranks.
        """
        return self._loss_and_gradient()[1]

    def validate(self) -> dict[str, Any]:
        """The relative error of θ."""
        theta = self._theta.detach()
        error = torch.linalg.vector_norm(theta - self._true) / torch.linalg.vector_norm(self._true)
        return {"error": error.item(), "parameters": theta.tolist()}

    def state_dict(self) -> dict[str, Any]:
        """θ."""
        return {"theta": self._theta.detach().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        with torch.no_grad():
            self._theta.copy_(state["theta"])

    def close(self) -> None:
        """Nothing is open."""

    def _loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """This rank's part of the loss, and the gradient of the whole loss."""
        source = self._source(self._grid.replicated(self._theta))
        error = self.stopwatch.physics(self._physics, source) - self._reference
        loss = error.square().sum() / (2 * self._grid.size)
        return loss, torch.autograd.grad(loss, self._theta)[0]

    def _source(self, theta: Tensor) -> Tensor:
        return torch.einsum("m,mi->i", theta, self._modes)
