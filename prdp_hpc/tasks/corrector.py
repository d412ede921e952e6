"""The corrector: a network that learns the error of the time steps of a coarse solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.linalg import Solver
from prdp_hpc.number_checks import check_count
from prdp_hpc.physics.stepper import Stepper, stepped
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.tasks.task import Parts
from prdp_hpc.tasks.validation import relative


class Corrector(SupervisedTask):
    """Train a network that corrects the time steps of a coarse solver.

    The trajectory is `u^{s+1} = C(P(u^s))` with `C(v) = v + net(v)`, and the loss is
    `Σ_s mean((u^s − t^s)²)` over the first `unroll` steps. `P` is a time step at the solver's
    level, `t` the data; the mean is over the batch, the channels and the whole grid. Validation
    computes `C(P(·))` with full refinement and a separate solver, so that the statistics of the
    training solver do not change. The error of step s and channel c is the mean over samples of
    `‖u_c^s − t_c^s‖² / ‖t_c^s‖²`; the schedule receives that of the last validation step and of the
    measured channel. The validation samples are distributed over the replicas.

    Parameters
    ----------
    stepper : Stepper
        Time step of the PDE, with the solver that the schedule refines.
    full_stepper : Stepper
        The same PDE with a separate solver at full refinement, for validation.
    network : torch.nn.Module
        Network on whole fields or on parts, see `Network`. It is moved to the mesh's device.
    data : TrajectoryDataset
        Trajectories of the groups "train" and "validation". Without "train" the task can only
        validate.
    mesh : ProcessMesh
        The ranks: replicas × grid ranks.
    recipe : Recipe, optional
        Optimiser, learning rate, loss, batch size and precision. Default: `Recipe()`.
    inputs : Tensor, optional
        Further input fields of the network of shape `(E, *local_shape)`, after the channels of the
        state. Default: none.
    unroll : int, default 2
        Number of time steps through which the loss is differentiated.
    validation_steps : sequence of int, default (1, 2, 5)
        Numbers of steps after which the error is computed, in increasing order.
    measure : str, optional
        Channel whose error the schedule receives. Default: the first one.

    Attributes
    ----------
    steps : int
        Number of time steps of a sample for validation.

    Raises
    ------
    DataError
        If trajectories have too few steps or other channels than the PDE, or if a channel is zero
        everywhere.
    InputError
        If `measure` is not a channel of the PDE, or the network returns another number of channels.

    References
    ----------
    Progressively Refined Differentiable Physics (PRDP), ICLR 2025, section on the Navier–Stokes
    corrector.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import Corrector, Grid, Heat, MLP, ProcessMesh, Solver, TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> write_trajectories("ones.h5", groups, about)
    >>> mesh = ProcessMesh.from_world()
    >>> grid = Grid((16,), comm=mesh.grid_comm)
    >>> coarse, full = (Heat(grid, 0.1, 0.01, Solver("cg", "jacobi", level)) for level in (2, 16))
    >>> data = TrajectoryFile("ones.h5")
    >>> task = Corrector(coarse, full, MLP(16, 16, (8,)), data, mesh, validation_steps=(1, 2))
    >>> loss = task.train_epoch(1)
    >>> sorted(task.validate())
    ['error', 'error_1', 'error_1_u', 'error_2', 'error_2_u']
    >>> mesh.close()
    """

    network_predicts = "difference"

    def __init__(
        self,
        stepper: Stepper,
        full_stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
        *,
        unroll: int = 2,
        validation_steps: Sequence[int] = (1, 2, 5),
        measure: str | None = None,
    ) -> None:
        check_count("unroll", unroll)
        for step in validation_steps:
            check_count("an entry of validation_steps", step)
        self.steps, self.window = max(validation_steps), unroll + 1
        self._unroll, self._validation_steps = unroll, tuple(validation_steps)
        super().__init__(stepper, network, data, mesh, recipe, inputs)
        self._measured = self.channels[0] if measure is None else measure
        if self._measured not in self.channels:
            known = ", ".join(self.channels)
            raise InputError(
                f"corrector.measure: {self._measured!r} is not a channel; choose one of {known}"
            )
        self._full_stepper = full_stepper

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Corrector:
        """Create the corrector of a config; collective.

        Parameters
        ----------
        section : None
            Not used.
        parts : Parts
            Grid, stepper, network, data and the other components of the config.

        Returns
        -------
        Corrector
            The task.
        """
        # First: data may have to be generated, which needs memory for reference solutions.
        data = parts.data
        config, solver = parts.config, parts.solver
        full = Solver(
            solver.ksp, solver.pc, config.refinement.full_level, petsc_options=solver.petsc_options
        )
        return cls(
            parts.stepper(),
            parts.stepper(full),
            parts.network,
            data,
            parts.mesh,
            parts.recipe,
            parts.inputs,
            unroll=config.corrector.unroll,
            validation_steps=config.corrector.validation_steps,
            measure=config.corrector.measure,
        )

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """Compute the normalised squared errors of each sample; collective.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`.

        Returns
        -------
        dict
            Arrays of shape `(b,)`: `error` for the schedule, `error_<step>` of the measured channel
            and `error_<step>_<channel>`, after the validation steps.
        """
        return self._errors_after(trajectories, self._validation_steps)

    def advance(self, state: Tensor) -> Tensor:
        """Return `C(P(u))` with full refinement; collective.

        Parameters
        ----------
        state : Tensor
            This rank's part of the states, of shape `(b, C, *local_shape)`; b may be 0.

        Returns
        -------
        Tensor
            The next states, of the same shape.
        """
        coarse = stepped(self._full_stepper, state) if state.shape[0] else state
        return coarse + self.network_on(coarse)

    def step_errors(
        self, step: int, prediction: Tensor, truth: Tensor, before: Tensor
    ) -> dict[str, NDArray[np.float64]]:
        """Compute `‖û_c^s − u_c^s‖² / ‖u_c^s‖²` of each channel c of predicted states; collective.

        Parameters
        ----------
        step : int
            Number s of the time step, from 1.
        prediction, truth : Tensor
            The predicted and the true state after this step, `(b, C, *local_shape)`.
        before : Tensor
            Not used.

        Returns
        -------
        dict
            Arrays of shape `(b,)`: `error_<step>` of the measured channel, and
            `error_<step>_<channel>`.
        """
        squares = relative(self.squares(prediction - truth), self.squares(truth))
        by_channel = dict(zip(self.channels, squares.T, strict=True))
        named = {f"error_{step}_{name}": error for name, error in by_channel.items()}
        return {f"error_{step}": by_channel[self._measured], **named}

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Compute the loss of a batch over the unrolled steps.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`.

        Returns
        -------
        Tensor
            Sum over samples, channels and this rank's points, of shape `()`.
        """
        state, losses = trajectories[:, 0], []
        for step in range(1, self._unroll + 1):
            coarse = self.step(state)
            state = coarse + self.network_on(coarse)
            losses.append(self.pointwise_loss(state, trajectories[:, step]))
        return sum(losses[1:], losses[0])

    def zero_reference(self, trajectories: Tensor) -> tuple[int, str] | None:
        """Find a sample with a channel that is zero everywhere, see `SupervisedTask`."""
        for step in self._validation_steps:
            squares = self.squares(trajectories[:, step])
            if not squares.all():
                sample, channel = (int(i) for i in np.argwhere(squares == 0.0)[0])
                return sample, f"step {step}, channel {self.channels[channel]}"
        return None
