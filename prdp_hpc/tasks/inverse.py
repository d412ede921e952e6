"""The inverse problem: find the parameters of a Poisson source from the solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.config import ConfigError, InverseConfig
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics import Poisson
from prdp_hpc.tasks.task import AfterStep, Stopwatch


class InverseTask:
    """Find θ in `−u'' = Σ_m θ_m sin(2π m x)` by gradient descent on `‖u(θ) − u_ref‖² / (2 n)`.

    `u(θ)` comes from the solver at its level, `u_ref` from the true θ at convergence. One epoch is
    one gradient step. The error is `‖θ − θ_true‖ / ‖θ_true‖`.

    Source: paper, section on the Poisson inverse problem.
    """

    def __init__(
        self, config: InverseConfig, mesh: ProcessMesh, grid: Grid, solver: Solver
    ) -> None:
        if mesh.replicas > 1:
            raise ConfigError(
                f"parallel.grid_ranks: an inverse problem has no samples to divide among replicas: "
                f"give parallel.grid_ranks={mesh.world.size}, or start {mesh.grid_ranks} rank(s)"
            )
        self.solver, self.stopwatch = solver, Stopwatch(solver)
        self._mesh, self._grid = mesh, grid
        self._rate = config.training.learning_rate
        self._physics = Poisson(grid, solver, config.physics.diffusivity)
        (x,) = grid.coordinates()
        length = grid.length[0]
        self._modes = torch.stack(
            [torch.sin(2 * math.pi * m * x / length) for m in range(1, config.inverse.modes + 1)]
        )
        self._true = torch.tensor(config.inverse.reference, dtype=torch.float64)
        self._theta = torch.tensor(config.inverse.start, dtype=torch.float64, requires_grad=True)
        exact = Poisson(
            grid, Solver("cg", "jacobi", Refinement(rtol=1e-13)), config.physics.diffusivity
        )
        with torch.no_grad():
            self._reference = exact(self._source(self._true))

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """One gradient step; the loss before it."""
        with self.stopwatch.part("network"):
            loss, gradient = self._loss_and_gradient()
            with torch.no_grad():
                self._theta -= self._rate * gradient
        return float(self._mesh.grid_comm.allreduce(loss.item(), op=MPI.SUM))

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
