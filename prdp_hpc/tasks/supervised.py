"""The base of all tasks that train a network on trajectories."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prdp_hpc.data import TrajectoryDataset, share
from prdp_hpc.data.samples import Ids
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.network_checks import check_network
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, check_members
from prdp_hpc.networks.precision import in_precision
from prdp_hpc.physics.stepper import Stepper, check_channels, stepped
from prdp_hpc.tasks.forward import prepare_forward
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.recomputed_step import check_recomputation, recomputed_step
from prdp_hpc.tasks.task import Stopwatch
from prdp_hpc.tasks.task_data import TaskData
from prdp_hpc.tasks.training_step import TrainingStep
from prdp_hpc.tasks.validation import Validation

SMALL = 10_000_000
"""Multiplications in the forward pass of a batch below which one thread is fastest."""


class SupervisedTask(Validation, TrainingStep):
    """Base of tasks that train a network on trajectories through a time step of a PDE.

    The fields are distributed over the grid ranks of a replica, each batch over the replicas
    (`DataParallel`). A user-defined task is a subclass with the methods `local_loss` and
    `sample_errors` (or `validate`), which call `network_on(state)` and `step(state)`. Its samples
    are windows of the trajectories, see `WindowedDataset`.

    Parameters
    ----------
    stepper : Stepper
        Time step of the PDE. The task uses its `grid` and its `solver`.
    network : torch.nn.Module
        Network on whole fields or on parts, see `Network`. It is moved to the mesh's device.
    data : TrajectoryDataset
        Trajectories of the groups "train" and "validation". Without "train" the task can only
        validate. A `WindowedDataset` determines which windows of them are samples; otherwise all
        windows are.
    mesh : ProcessMesh
        The ranks: replicas × grid ranks.
    recipe : Recipe, optional
        Optimiser, learning rate, loss, batch size and precision. Default: `Recipe()`.
    inputs : Tensor, optional
        Further input fields of the network of shape `(E, *local_shape)`, e.g. coordinates,
        coefficients or a forcing, after the channels of the state. Default: none.

    Attributes
    ----------
    steps : int
        Number of time steps of a sample for validation and test.
    window : int or None
        Number of states that a training sample needs; None: `steps + 1`.
    network_predicts : {"state", "difference"}
        Whether the output of the network is a state or a difference of states, which determines how
        normalised data are scaled back; default "state".
    validation : Tensor
        All validation samples of shape `(samples, steps + 1, C, *local_shape)`, which are read at
        the first access.
    channels : tuple of str
        Names of the channels.

    Raises
    ------
    DataError
        If trajectories have too few steps, other channels than the PDE, or numbers that are not
        finite.
    InputError
        If the network returns another number of channels.

    Examples
    --------
    A task that trains the network on one time step of the data, followed by one of the PDE:

    >>> import numpy
    >>> from prdp_hpc import Grid, Heat, MLP, ProcessMesh, Solver, SupervisedTask, TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> class Mixed(SupervisedTask):
    ...     steps = 2
    ...
    ...     def local_loss(self, trajectories):
    ...         last = self.step(self.network_on(trajectories[:, 0]))
    ...         return self.pointwise_loss(last, trajectories[:, 2])
    ...
    ...     def sample_errors(self, trajectories):
    ...         error = self.network_on(trajectories[:, 0]) - trajectories[:, 1]
    ...         return {"error": self.squares(error).sum(axis=1)}
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> write_trajectories("ones.h5", groups, about)
    >>> mesh = ProcessMesh.from_world()
    >>> heat = Heat(Grid((16,), comm=mesh.grid_comm), 0.1, 0.01, Solver("cg", "jacobi", 2))
    >>> task = Mixed(heat, MLP(16, 16, (8,)), TrajectoryFile("ones.h5"), mesh)
    >>> loss = task.train_epoch(1)
    >>> list(task.validate())
    ['error']
    >>> mesh.close()
    """

    steps = 1
    window: int | None = None
    network_predicts: Literal["state", "difference"] = "state"

    def __init__(
        self,
        stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        _check_kinds(stepper, network, data, mesh, recipe)
        recipe = recipe or Recipe()
        self.solver, self.stopwatch = stepper.solver, Stopwatch(stepper.solver, mesh.device)
        self.mesh, self.grid, self.stepper, self.recipe = mesh, stepper.grid, stepper, recipe
        self._dtype = recipe.dtype
        window = self.steps + 1 if self.window is None else self.window
        self._data = TaskData(data, stepper, mesh, recipe.dtype, window, self.steps)
        self.channels = channel_names(stepper, self._data.channels)
        network = self._data.normalised(network, self.network_predicts == "state")
        self.network = in_precision(network, self._dtype, mesh.device)
        _limit_threads(self.network, self.grid.n_local, recipe.batch_size)
        prepare_forward(self.network, recipe)
        self._parallel = mesh.data_parallel(self.network, self.grid, recipe.autocast)
        self._inputs = None if inputs is None else inputs.to(mesh.device, self._dtype)
        check_recomputation(recipe, stepper.solver)
        raise_together(mesh.world, self._method_error() or self._output_error())
        count, extra = len(self.channels), 0 if inputs is None else inputs.shape[0]
        self._parallel.settle(self._with_inputs(self._data.first))
        train = self._data.train
        self._prepare_training(
            [count + extra, count],
            0 if train is None else len(train.windows),
            recipe,
            None if train is None else train.windows.state_dict(),
        )
        self._check_groups()

    def network_on(self, state: Tensor) -> Tensor:
        """Apply the network to states; collective.

        All ranks of the mesh must call a sharded network equally often, if necessary with b = 0.

        Parameters
        ----------
        state : Tensor
            This rank's part of the states, of shape `(b, C, *local_shape)`.

        Returns
        -------
        Tensor
            This rank's part of the output, of shape `(b, C, *local_shape)`.
        """
        output: Tensor = self._parallel(self._with_inputs(state))
        return output

    def step(self, state: Tensor) -> Tensor:
        """Compute a time step of the PDE at the solver's level; collective.

        Parameters
        ----------
        state : Tensor
            This rank's part of the states, of shape `(b, C, *local_shape)`.

        Returns
        -------
        Tensor
            The next states, of the same shape.
        """
        # A replica may have no samples.
        if not state.shape[0]:
            return state
        step = partial(self.stopwatch.physics, partial(stepped, self.stepper))
        if self.recipe.checkpoint_activations != "steps":
            return step(state)
        return recomputed_step(step, state, self.solver.report)

    def close(self) -> None:
        """Close the data file if it is open."""
        self._data.close()

    def _batches(self, first: int, last: int) -> Iterator[Ids]:
        """The batches of the steps `first` to `last − 1`; this replica's share of them, and of the
        steps after them, is read ahead.
        """
        if self._data.train is not None:
            self._data.train.follow(first, partial(self._shares_from, first))
        for batch in super()._batches(first, last):
            if self._data.train is not None:
                with self.stopwatch.part("data"):
                    self._data.train.advance()
            yield batch

    def _shares_from(self, first: int) -> Iterator[Ids]:
        for batch in super()._batches(first, sys.maxsize):
            yield share(batch, self.mesh.replica, self.mesh.replicas)

    def _batch(self, ids: Ids) -> Tensor:
        assert self._data.train is not None
        return self._data.train.batch(ids)

    def _with_inputs(self, state: Tensor) -> Tensor:
        if self._inputs is None:
            return state
        return torch.cat([state, self._inputs.expand(len(state), *self._inputs.shape)], dim=1)

    def _output_error(self) -> InputError | None:
        """The error for a wrong shape of the network's output, or None; collective."""
        state = self._data.first
        with self.evaluating():
            found = self.network_on(state)
        if found.shape == state.shape:
            return None
        return InputError(
            f"the network maps {self._with_inputs(state).shape[1]} channels of this rank's part "
            f"{tuple(state.shape[2:])} to a tensor of shape {tuple(found.shape[1:])}, but the task "
            f"needs {tuple(state.shape[1:])}: the number of channels of the state"
        )


def channel_names(stepper: Stepper, count: int) -> tuple[str, ...]:
    """The channel names of the stepper; numbered if it supports any number of channels and the data
    have several.
    """
    names = tuple(stepper.channels)
    if len(names) == count:
        return names
    return tuple(f"{names[0]}_{number}" for number in range(1, count + 1))


def _check_kinds(stepper: Any, network: Any, data: Any, mesh: Any, recipe: Any) -> None:
    """Raise `InputError` for an argument of another kind than it must be."""
    check_members(
        "stepper", stepper, ("__call__", "channels", "grid", "solver"), "a PDE, see Stepper"
    )
    check_channels(stepper)
    check_network(network)
    check_members("data", data, ("steps", "count", "read"), "a data set, e.g. TrajectoryFile(path)")
    check_members("mesh", mesh, ("grid_comm", "data_parallel"), "a ProcessMesh")
    if recipe is not None:
        check_members("recipe", recipe, ("batch_size", "optimizer"), "a Recipe")


def _limit_threads(network: nn.Module, points: int, batch_size: int) -> None:
    """Use one thread for a small network, for which several threads are slower."""
    weights = (parameter for parameter in network.parameters() if parameter.dim() > 1)
    products = batch_size * sum(w.numel() * (points if w.dim() > 2 else 1) for w in weights)
    if products < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
