"""The inverse problem: find the parameters of the source of a Poisson equation."""

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
from prdp_hpc.number_checks import check_number
from prdp_hpc.tasks.task import AfterStep, Parts, Stopwatch


class Inverse:
    """Find the parameters of a source term from the solution of a PDE.

    The source in `−u'' = Σ_m θ_m sin(2π m x)` is found by gradient descent on
    `‖u(θ) − u_ref‖² / (2 n)`, where `u(θ)` is computed at the solver's level and `u_ref` is the
    converged solution for the true θ. An epoch is one gradient step. The error is
    `‖θ − θ_true‖ / ‖θ_true‖`.

    Parameters
    ----------
    physics : callable
        Map from a source of shape `(..., *local_shape)` to the solution, with the attributes
        `grid` (one-dimensional) and `solver`, e.g. `Poisson(grid, solver)`.
    exact : callable
        The same map with a separate, converged solver.
    mesh : ProcessMesh
        The ranks, all of which share the grid.
    reference : sequence of float
        The true θ, one number per mode.
    start : sequence of float
        Initial guess of θ.
    learning_rate : float
        Learning rate of gradient descent.

    Raises
    ------
    InputError
        If the mesh has several replicas.

    References
    ----------
    Progressively Refined Differentiable Physics (PRDP), ICLR 2025, section on the Poisson inverse
    problem.

    Examples
    --------
    >>> from prdp_hpc import Grid, Inverse, Poisson, ProcessMesh, Solver
    >>> mesh = ProcessMesh.from_world()
    >>> grid = Grid((32,), comm=mesh.grid_comm)
    >>> physics, exact = (Poisson(grid, Solver("cg", "jacobi", 1e-10)) for _ in range(2))
    >>> task = Inverse(physics, exact, mesh, reference=[2.0], start=[5.0], learning_rate=275.0)
    >>> loss = [task.train_epoch(epoch) for epoch in (1, 2, 3)]
    >>> loss[0] > loss[1] > loss[2]
    True
    >>> mesh.close()
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
        check_number("learning_rate", learning_rate, above=0)
        for name, numbers in (("reference", reference), ("start", start)):
            for number in numbers:
                check_number(f"an entry of {name}", number)
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
        """Create the inverse problem of a config; collective.

        Parameters
        ----------
        section : None
            Not used.
        parts : Parts
            Grid, stepper, mesh and config.

        Returns
        -------
        Inverse
            The task.
        """
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
        """Perform one gradient step; collective.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1; not used.
        earlier : sequence of float, default ()
            Not used, since an epoch has one step.
        after_step : callable, optional
            Not used.

        Returns
        -------
        float
            The loss before the step.
        """
        with self.stopwatch.part("network"):
            loss, gradient = self._loss_and_gradient()
            with torch.no_grad():
                self._theta -= self._rate * gradient
        return float(self.mesh.grid_comm.allreduce(loss.item(), op=MPI.SUM))

    def gradient(self) -> Tensor:
        """Compute the gradient of the loss with respect to θ; collective.

        Returns
        -------
        Tensor
            Gradient of shape `(modes,)`, float64, equal on all ranks.
        """
        with self.solver.restored_solutions():
            return self._loss_and_gradient()[1]

    def validate(self) -> dict[str, Any]:
        """Compute the relative error of θ.

        Returns
        -------
        dict
            `error`, and θ as `parameters`.
        """
        theta = self._theta.detach()
        error = torch.linalg.vector_norm(theta - self._true) / torch.linalg.vector_norm(self._true)
        return {"error": error.item(), "parameters": theta.tolist()}

    def state_dict(self) -> dict[str, Any]:
        """Return θ."""
        return {"theta": self._theta.detach().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        with torch.no_grad():
            self._theta.copy_(state["theta"])

    def close(self) -> None:
        """Do nothing, since no file is open."""

    def _loss_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Compute this rank's part of the loss, and the gradient of the whole loss."""
        source = self._source(self._grid.replicated(self._theta))
        error = self.stopwatch.physics(self._physics, source) - self._reference
        loss = error.square().sum() / (2 * self._grid.size)
        return loss, torch.autograd.grad(loss, self._theta)[0]

    def _source(self, theta: Tensor) -> Tensor:
        return torch.einsum("m,mi->i", theta, self._modes)
