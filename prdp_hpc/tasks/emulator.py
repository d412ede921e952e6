"""The emulator: a network that learns one time step of a PDE, trained through the PDE's solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import TEST, DataError, TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.supervised import SupervisedTask, dataset_name, relative
from prdp_hpc.tasks.task import Parts


class Emulator(SupervisedTask):
    """Train a network that replaces one time step of a PDE.

    The chain is `û¹ = net(u⁰)`, `û² = P(û¹)`, and the loss is `mean((û² − u²)²)`. `P` is a time
    step at the solver's level; the mean is over the batch, the channels and the whole grid
    (`Recipe` selects another loss). Validation applies the network alone for two steps. The error
    of step s is the mean over samples of `‖û^s − u^s‖² / ‖u^{s−1}‖²`; the schedule receives that
    of step 2.

    Parameters
    ----------
    stepper : Stepper
        Time step of the PDE, with the solver that the schedule refines.
    network : torch.nn.Module
        Network on whole fields or on parts, see `Network`. It is moved to the mesh's device.
    data : TrajectoryDataset
        Trajectories of the groups "train" and "validation" with at least 2 steps. Without "train"
        the task can only validate.
    mesh : ProcessMesh
        The ranks: replicas × grid ranks.
    recipe : Recipe, optional
        Optimiser, learning rate, loss, batch size and precision. Default: `Recipe()`.
    inputs : Tensor, optional
        Further input fields of the network of shape `(E, *local_shape)`, after the channels of the
        state. Default: none.

    Attributes
    ----------
    steps : int
        Number of time steps that trajectories must have: 2.

    Raises
    ------
    DataError
        If trajectories have too few steps or other channels than the PDE, or if a state is zero
        everywhere.
    InputError
        If the network returns another number of channels.

    References
    ----------
    Progressively Refined Differentiable Physics (PRDP), ICLR 2025, section on the heat emulator.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import Emulator, Grid, Heat, MLP, ProcessMesh, Solver, TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> write_trajectories("ones.h5", groups, about)
    >>> mesh = ProcessMesh.from_world()
    >>> heat = Heat(Grid((16,), comm=mesh.grid_comm), 0.1, 0.01, Solver("cg", "jacobi"))
    >>> task = Emulator(heat, MLP(16, 16, (8,)), TrajectoryFile("ones.h5"), mesh)
    >>> task.solver.refine(2)
    >>> loss = task.train_epoch(1)
    >>> sorted(task.validate())
    ['error', 'error_1', 'error_2']
    >>> mesh.close()
    """

    steps = 2

    def __init__(
        self,
        stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        super().__init__(stepper, network, data, mesh, recipe, inputs)
        self._scales = self._checked_scales(data, self.validation, "validation")
        if self._test is not None:
            self._checked_scales(data, self._test, TEST)

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Emulator:
        """Create the emulator of a config; collective.

        Parameters
        ----------
        section : None
            Not used.
        parts : Parts
            Grid, stepper, network, data and the other components of the config.

        Returns
        -------
        Emulator
            The task.
        """
        stepper = parts.stepper()
        return cls(stepper, parts.network, parts.data, parts.mesh, parts.recipe, parts.inputs)

    def validate(self) -> dict[str, Any]:
        """Compute the normalised squared errors of the network alone; collective.

        Returns
        -------
        dict
            `error_1` and `error_2` after 1 and 2 steps, and `error`, which is `error_2`.
        """
        with self.evaluating():
            errors = self._errors(self.validation, self._scales)
        return {name: float(found.mean()) for name, found in errors.items()}

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """Compute the normalised squared errors of each trajectory; collective.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(samples, steps + 1, C, *local_shape)`.

        Returns
        -------
        dict
            Arrays of shape `(samples,)` with the same keys as those of `validate`.
        """
        return self._errors(trajectories, self._scales_of(trajectories))

    def step_errors(
        self, step: int, prediction: Tensor, truth: Tensor, before: Tensor
    ) -> dict[str, NDArray[np.float64]]:
        """Compute `‖û^s − u^s‖² / ‖u^{s−1}‖²` of predicted states; collective.

        Parameters
        ----------
        step : int
            Number s of the time step, from 1.
        prediction, truth : Tensor
            The predicted and the true state after this step, `(b, C, *local_shape)`.
        before : Tensor
            The true state before this step, of the same shape.

        Returns
        -------
        dict
            The array `error_<step>` of shape `(b,)`.
        """
        difference = self.squares(prediction - truth).sum(axis=1)
        return {f"error_{step}": relative(difference, self.squares(before).sum(axis=1))}

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Compute the loss of a batch from the last state of the chain.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`.

        Returns
        -------
        Tensor
            Sum over samples, channels and this rank's points, of shape `()`.
        """
        last = self.step(self.network_on(trajectories[:, 0]))
        return self.pointwise_loss(last, trajectories[:, self.steps])

    def _errors(
        self, trajectories: Tensor, scales: list[NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """The squared errors of each trajectory, divided by the scale of each step."""
        errors, state = {}, trajectories[:, 0]
        for step, scale in enumerate(scales, start=1):
            state = self.advance(state)
            squares = self.squares(state - trajectories[:, step]).sum(axis=1)
            errors[f"error_{step}"] = squares / scale
        return {"error": errors[f"error_{self.steps}"], **errors}

    def _scales_of(self, trajectories: Tensor) -> list[NDArray[np.float64]]:
        """The scales of the errors of each step: the squared norms of the previous state."""
        return [self.squares(trajectories[:, step]).sum(axis=1) for step in range(self.steps)]

    def _checked_scales(
        self, data: TrajectoryDataset, trajectories: Tensor, group: str
    ) -> list[NDArray[np.float64]]:
        scales = self._scales_of(trajectories)
        for step, squares in enumerate(scales):
            if not squares.all():
                sample = int(np.argmin(squares))
                raise DataError(
                    f"{dataset_name(data)}: {group}/trajectories is zero everywhere in sample "
                    f"{sample}, step {step}, "
                    "and errors are measured relative to it: leave that sample out"
                )
        return scales
