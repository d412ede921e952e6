"""The task of a field inversion: find a coefficient field from observations of experiments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.data import share
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count, check_number
from prdp_hpc.tasks.inversion.experiments import Experiments
from prdp_hpc.tasks.inversion.optimisation import Optimisation
from prdp_hpc.tasks.inversion.physics import CoefficientPDE
from prdp_hpc.tasks.inversion.sides import uncovered_sensor
from prdp_hpc.tasks.inversion.unknown import FieldUnknown, Unknown
from prdp_hpc.tasks.recipe import adam, exponential
from prdp_hpc.tasks.task import AfterStep, Parts, Stopwatch

Regularisation = Callable[[Tensor], Tensor]


class FieldInversion:
    """Find a coefficient field `κ = exp(m)` from measurements.

    The loss `½ Σ_e ‖O u_e − d_e‖² / σ² + R(m)` is minimised over m, where `u_e` solves the PDE with
    κ and the sources of experiment e at the solver's level. The experiments are distributed over
    the replicas of the mesh, the fields over the grid ranks of each replica; up to rounding, the
    result does not depend on the distribution. An epoch is a number of steps of the optimiser.

    Validation uses other experiments and a separate solver. The schedule receives
    `error = √(Σ ‖O u − d‖² / σ² / n)` over their n measurements, which is about 1 once the
    predictions are as accurate as the measurements. Further metrics are `error_field`, which is
    `‖m − m*‖ / ‖m*‖` if the true m* is known; `misfit`, the same quantity as `error` for the fitted
    experiments in the last evaluation; and the numbers `evaluations` (of loss and gradient) and
    `set_ups` (of the preconditioner).

    Parameters
    ----------
    physics : CoefficientPDE
        The PDE with the solver that the schedule refines, e.g.
        `Conductivity(Poisson(grid, solver))`.
    experiments : Experiments
        The experiments to be fitted, all of them on every rank; each replica keeps its share.
    mesh : ProcessMesh
        The ranks: replicas × grid ranks.
    unknown : FieldUnknown or NetworkUnknown, optional
        Representation of m. Default: one value per grid point, initially 0.
    regularisation : callable, optional
        The function R, from this rank's part of m to this rank's part of the value, e.g.
        `H1Regularisation`. Default: none.
    optimizer : callable, optional
        The optimiser is created by `optimizer(parameters, lr=learning_rate)`: `LBFGS`, or an
        optimiser of torch that updates each entry separately. Default: Adam.
    learning_rate : float, default 0.1
        Initial learning rate; for `LBFGS` see its parameter `lr`.
    rate : callable, optional
        The learning rate after n steps is `rate(n) · learning_rate`. Default: constant.
    steps : int, default 1
        Steps of the optimiser per epoch.
    validation : Experiments, optional
        The experiments for validation. Default: those that are fitted.
    exact : CoefficientPDE, optional
        The same PDE with a separate, converged solver for validation, whose lagged preconditioner
        and stored solutions are part of checkpoints. Default: `physics`, at its current level.
    truth : Tensor, optional
        This rank's part of the true m, of shape `local_shape`, if it is known.

    Raises
    ------
    InputError
        If there is no experiment, if `steps` is below 1, or if a field has a wrong shape.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Conductivity, Experiments, FieldInversion, Grid, H1Regularisation
    >>> from prdp_hpc import PointObservations, Poisson, Positions, ProcessMesh, Solver
    >>> mesh = ProcessMesh.from_world()
    >>> grid = Grid((15,), comm=mesh.grid_comm)
    >>> physics = Conductivity(Poisson(grid, Solver("cg", "jacobi", 1e-10)))
    >>> observe = PointObservations(Positions(grid, [[0.25], [0.5], [0.75]]))
    >>> sources = torch.ones(1, 15, dtype=torch.float64)
    >>> data = observe(physics(torch.full((15,), 2.0).double(), sources)).detach()
    >>> experiments = Experiments(sources, observe, data, noise=1e-3)
    >>> smooth = H1Regularisation(grid, weight=1.0)
    >>> task = FieldInversion(physics, experiments, mesh, regularisation=smooth)
    >>> before = task.validate()["error"]
    >>> losses = [task.train_epoch(epoch) for epoch in range(1, 6)]
    >>> task.validate()["error"] < before
    True
    >>> mesh.close()
    """

    metrics_of_training: ClassVar[tuple[str, ...]] = ("misfit", "evaluations", "set_ups")

    def __init__(
        self,
        physics: CoefficientPDE,
        experiments: Experiments,
        mesh: ProcessMesh,
        *,
        unknown: Unknown | None = None,
        regularisation: Regularisation | None = None,
        optimizer: Callable[..., Any] = adam,
        learning_rate: float = 0.1,
        rate: Callable[[int], float] | None = None,
        steps: int = 1,
        validation: Experiments | None = None,
        exact: CoefficientPDE | None = None,
        truth: Tensor | None = None,
    ) -> None:
        check_count("steps", steps)
        check_number("learning_rate", learning_rate, above=0)
        self.mesh, self.grid, self.solver = mesh, physics.grid, physics.solver
        self.stopwatch = Stopwatch(physics.solver)
        held_out = experiments if validation is None else validation
        self._physics, self._exact = physics, exact or physics
        raise_together(mesh.world, self._error(experiments, held_out, truth))
        self.unknown = unknown or FieldUnknown(self.grid, mesh)
        self.validation_solver = None if self._exact.solver is self.solver else self._exact.solver
        self._experiments = _share(experiments, mesh)
        self._validation = _share(held_out, mesh)
        self._fitted_numbers, self._validated_numbers = (
            float(some.numbers(mesh.grid_comm)) for some in (experiments, held_out)
        )
        self._regularisation, self._truth, self._steps = regularisation, truth, steps
        self._optimisation = Optimisation(
            self.unknown, optimizer, learning_rate, rate or exponential(), mesh
        )
        self._evaluations, self._set_ups_before = 0, 0
        self._misfit: float | None = None
        self._level: list[Any] | None = None
        # Samples of the search and of gradient measurements have different stored solutions.
        self._purpose = "search"

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> FieldInversion:
        """Create the inversion of a config; collective.

        Parameters
        ----------
        section : None
            Not used.
        parts : Parts
            Grid, stepper, mesh and config.

        Returns
        -------
        FieldInversion
            The task.
        """
        from prdp_hpc.tasks.inversion.from_config import settings

        return cls(**settings(parts))

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Perform the optimiser's steps of one epoch; collective.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1; not used.
        earlier : sequence of float, default ()
            Losses of the steps of this epoch that were already done before a restart.
        after_step : callable, optional
            Called after each step but the last one, see `Task.train_epoch`.

        Returns
        -------
        float
            Mean of the losses before each step.
        """
        self._note_level()
        losses = list(earlier)
        with self.stopwatch.part("network"):
            while len(losses) < self._steps:
                losses.append(self._optimisation.step(self._evaluate))
                if after_step is not None and len(losses) < self._steps:
                    after_step(lambda: losses)
        return float(np.mean(losses))

    def gradient(self) -> Tensor:
        """Compute the gradient of the loss; collective.

        Returns
        -------
        Tensor
            Gradient with respect to all parameters of the whole field, of shape `(parameters,)`,
            equal on all ranks.
        """
        before = [parameter.grad for parameter in self.unknown.parameters]
        counted, misfit = self._evaluations, self._misfit
        self._purpose = "gradient"
        with self.stopwatch.part("network"), self.solver.restored_solutions():
            self._evaluate()
            found = torch.cat(
                [
                    self.unknown.whole(self._gradient_of(parameter)).reshape(-1)
                    for parameter in self.unknown.parameters
                ]
            ).detach()
        self._evaluations, self._misfit, self._purpose = counted, misfit, "search"
        for parameter, gradient in zip(self.unknown.parameters, before, strict=True):
            parameter.grad = gradient
        return found

    def validate(self) -> dict[str, Any]:
        """Compute the validation error; collective.

        Returns
        -------
        dict
            `error` and the further metrics of the description of the class.
        """
        with torch.no_grad():
            m = self.unknown().detach()
            squares = self._validation_squares(m)
        found: dict[str, Any] = {"error": (squares / self._validated_numbers) ** 0.5}
        if self._truth is not None:
            found["error_field"] = self._field_error(m)
        found["misfit"] = self._misfit
        found["evaluations"] = self._evaluations
        found["set_ups"] = self._set_ups_before + self._set_ups()
        return found

    def fields(self) -> dict[str, Any]:
        """Gather the fields that a run stores; collective.

        Returns
        -------
        dict
            The current m as `log_permeability`, and the true m as `truth` if it is known: arrays of
            the shape of the grid.
        """
        with torch.no_grad():
            found = {"log_permeability": self.grid.gather(self.unknown().detach()).numpy().copy()}
            if self._truth is not None:
                found["truth"] = self.grid.gather(self._truth).numpy()
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and optimiser as whole vectors, and the counters; collective."""
        return {
            "parameters": [self.unknown.whole(p.detach()) for p in self.unknown.parameters],
            **self._optimisation.state_dict(),
            "evaluations": self._evaluations,
            "set_ups": self._set_ups_before + self._set_ups(),
            "misfit": self._misfit,
            "level": self._level,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`, on any number of ranks; collective."""
        self.load_parameters(state)
        self._optimisation.load_state_dict(state)
        self._evaluations, self._misfit = state["evaluations"], state["misfit"]
        self._level = state["level"]
        self._set_ups_before = state["set_ups"] - self._set_ups()

    def load_parameters(self, state: dict[str, Any]) -> None:
        """Load only the parameters of a `state_dict()`, e.g. to validate them; collective.

        Parameters
        ----------
        state : dict
            The result of `state_dict()`.
        """
        saved = state["parameters"]
        with torch.no_grad():
            for parameter, whole in zip(self.unknown.parameters, saved, strict=True):
                parameter.copy_(self.unknown.part(whole))

    def close(self) -> None:
        """Do nothing, since no file is open."""

    def _evaluate(self) -> float:
        """Return the loss, equal on all ranks, and store its gradient in the parameters."""
        for parameter in self.unknown.parameters:
            parameter.grad = None
        m = self.unknown()
        own = torch.zeros(2, dtype=torch.float64)
        loss = torch.zeros((), dtype=torch.float64)
        if self._experiments.count:
            misfit = self._experiments.misfit(self._solutions(m))
            loss = loss + misfit
            if self._experiments.observe.local or self.mesh.grid_comm.rank == 0:
                own[0] = misfit.detach()
        if self._regularisation is not None:
            # Each replica adds an equal share of the regularisation.
            value = self._regularisation(m) / self.mesh.replicas
            loss = loss + value
            own[1] = value.detach()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.unknown.parameters:
            parameter.grad = self._gradient_of(parameter)
        self.unknown.reduce()
        self.mesh.world.Allreduce(MPI.IN_PLACE, own.numpy())
        self._evaluations += 1
        self._misfit = (2.0 * own[0].item() / self._fitted_numbers) ** 0.5
        return own.sum().item()

    def _solutions(self, m: Tensor) -> Tensor:
        some = self._experiments
        with self.solver.samples([f"{self._purpose} {e}" for e in range(some.count)]):
            return self.stopwatch.physics(lambda kappa: _solve(self._physics, kappa, some), m.exp())

    def _validation_squares(self, m: Tensor) -> float:
        """`Σ ‖O u − d‖² / σ²` over all experiments for validation; collective."""
        some, own = self._validation, 0.0
        if some.count:
            with self._exact.solver.samples([f"validation {e}" for e in range(some.count)]):
                found = _solve(self._exact, m.exp(), some)
            own = 2.0 * some.misfit(found).item()
        own = some.whole(self.mesh.grid_comm, own)
        return float(self.mesh.replica_comm.allreduce(own, op=MPI.SUM))

    def _field_error(self, m: Tensor) -> float:
        assert self._truth is not None
        squares = torch.stack([(m - self._truth).square().sum(), self._truth.square().sum()])
        self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, squares.numpy())
        return float((squares[0] / squares[1]).sqrt())

    def _set_ups(self) -> int:
        """The number of set-ups of the solver so far, summed over the replicas; collective."""
        report = self.solver.report
        mine = report.forward.set_ups + report.adjoint.set_ups
        return int(self.mesh.replica_comm.allreduce(mine, op=MPI.SUM))

    def _note_level(self) -> None:
        """Notify the optimiser of a changed level, since it may have stored the last loss."""
        levels = (self.solver.refinement, self.solver.adjoint)
        now = [[level.max_it, level.rtol] for level in levels]
        if now != self._level:
            self._optimisation.function_changed()
        self._level = now

    @staticmethod
    def _gradient_of(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _error(
        self, experiments: Experiments, validation: Experiments, truth: Tensor | None
    ) -> InputError | None:
        shape = self.grid.local_shape
        for name, some in (("experiments", experiments), ("validation", validation)):
            if not some.count:
                return InputError(f"{name}: there is no experiment; give at least one")
            if tuple(some.sources.shape[1:]) != shape:
                return InputError(
                    f"{name}: sources must be this rank's parts of fields, (E, *{shape}), not "
                    f"{tuple(some.sources.shape)}"
                )
            uncovered = uncovered_sensor(self._physics, some.observe, some.sides)
            if uncovered is not None:
                return uncovered
        if truth is not None and tuple(truth.shape) != shape:
            return InputError(
                f"truth must be this rank's part of a field, {shape}, not {tuple(truth.shape)}"
            )
        return None


def _share(experiments: Experiments, mesh: ProcessMesh) -> Experiments:
    """The experiments of this rank's replica."""
    numbers = np.arange(experiments.count)
    return experiments.select(share(numbers, mesh.replica, mesh.replicas))


def _solve(physics: Any, kappa: Tensor, some: Experiments) -> Tensor:
    """The solutions of some experiments; collective over the grid ranks."""
    found: Tensor = (
        physics(kappa, some.sources, some.sides) if some.sides else physics(kappa, some.sources)
    )
    return found
