"""The base of all tasks that train a network on trajectories."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import TEST, DataError, TrajectoryDataset, share
from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.task import Stopwatch
from prdp_hpc.tasks.training_step import TrainingStep

SMALL = 10_000_000
"""Multiplications in the forward pass of a batch below which one thread is fastest."""


class SupervisedTask(TrainingStep):
    """Base of tasks that train a network on trajectories through a time step of a PDE.

    The fields are distributed over the grid ranks of a replica, each batch over the replicas
    (`DataParallel`). A user-defined task is a subclass with the methods `local_loss` and
    `validate`, which call `network_on(state)` and `step(state)`.

    Parameters
    ----------
    stepper : Stepper
        Time step of the PDE. The task uses its `grid` and its `solver`.
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
        Further input fields of the network of shape `(E, *local_shape)`, e.g. coordinates,
        coefficients or a forcing, after the channels of the state. Default: none.

    Attributes
    ----------
    steps : int
        Number of time steps that trajectories must have.
    validation : Tensor
        Validation samples of shape `(samples, steps + 1, C, *local_shape)`.
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
    ...     def validate(self):
    ...         with self.evaluating():
    ...             error = self.network_on(self.validation[:, 0]) - self.validation[:, 1]
    ...         return {"error": float(self.squares(error).mean())}
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

    def __init__(
        self,
        stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        recipe = recipe or Recipe()
        self.solver, self.stopwatch = stepper.solver, Stopwatch(stepper.solver, mesh.device)
        self.mesh, self.grid, self.stepper, self.recipe = mesh, stepper.grid, stepper, recipe
        self._dtype = recipe.dtype
        call_together(mesh.world, lambda: self._check(data))
        train = self._read(data, "train") if data.count("train") else None
        self.validation = self._read(data, "validation")
        # Read now, so that errors in it are not found only at the end of a long run.
        has_test = train is not None and TEST in getattr(data, "groups", ())
        self._test = self._read(data, TEST) if has_test else None
        self._all_validation = self.validation
        self._train = self.validation[:0] if train is None else train
        self.channels = channel_names(stepper, self.validation.shape[2])
        self.network = network.to(device=mesh.device, dtype=self._dtype)
        _limit_threads(self.network, self.grid.n_local, recipe.batch_size)
        self._parallel = mesh.data_parallel(self.network, self.grid, recipe.autocast)
        self._inputs = None if inputs is None else inputs.to(mesh.device, self._dtype)
        raise_together(mesh.world, self._output_error())
        count, extra = self.validation.shape[2], 0 if inputs is None else inputs.shape[0]
        self._parallel.settle(self._with_inputs(self.validation[:1, 0]))
        self._prepare_training([count + extra, count], self._train.shape[0], recipe)

    @abstractmethod
    def validate(self) -> dict[str, Any]:
        """Compute the validation error; collective.

        Returns
        -------
        dict
            The validation error as `error`, and further entries of the metrics.
        """

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """Compute the errors of each trajectory; collective, optional.

        It is called without gradients and with the network in evaluation mode. A user-defined task
        with this method is evaluated at the end of a run, see `test`.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(samples, steps + 1, C, *local_shape)`.

        Returns
        -------
        dict
            Arrays of shape `(samples,)` by name, with the error for the schedule as `error`.
        """
        raise NotImplementedError

    def test(self) -> dict[str, Any] | None:
        """Compute the errors of each sample of the group "test"; collective, equal on all ranks.

        If the data have no group "test", those of "validation" are computed.

        Returns
        -------
        dict or None
            The name of the group as `group`, and `samples`: lists with one error per sample, by
            name. None for a task without `sample_errors`.
        """
        if type(self).sample_errors is SupervisedTask.sample_errors:
            return None
        group = "validation" if self._test is None else TEST
        states = self._all_validation if self._test is None else self._test
        mine = share(np.arange(states.shape[0]), self.mesh.replica, self.mesh.replicas)
        with self.evaluating():
            errors = self.sample_errors(states[torch.from_numpy(mine)])
        whole = self.mesh.replica_comm.allgather({k: v.tolist() for k, v in errors.items()})
        samples = {key: [error for part in whole for error in part[key]] for key in whole[0]}
        return self.mesh.world.bcast({"group": group, "samples": samples})  # type: ignore[no-any-return]

    def network_on(self, state: Tensor) -> Tensor:
        """Apply the network to states; collective.

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
        return self.stopwatch.physics(self.stepper, state) if state.shape[0] else state

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context without gradients, with the network in evaluation mode."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.network.train(training)

    def close(self) -> None:
        """Do nothing, since the samples are in memory and no file is open."""

    def squares(self, fields: Tensor) -> NDArray[np.float64]:
        """Compute the sum of squares over the whole grid; collective.

        Parameters
        ----------
        fields : Tensor
            This rank's part of the fields, of shape `(B, C, *local_shape)`.

        Returns
        -------
        numpy array
            Sums of shape `(B, C)`, float64.
        """
        sums: NDArray[np.float64] = (
            fields.to(torch.float64).square().flatten(2).sum(2).cpu().numpy()
        )
        self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return sums

    def _batch(self, ids: NDArray[np.int64]) -> Tensor:
        return self._train[torch.as_tensor(ids, dtype=torch.long)]

    def _with_inputs(self, state: Tensor) -> Tensor:
        if self._inputs is None:
            return state
        return torch.cat([state, self._inputs.expand(len(state), *self._inputs.shape)], dim=1)

    def _check(self, data: TrajectoryDataset) -> None:
        if data.steps < self.steps:
            raise DataError(
                f"{dataset_name(data)}: its trajectories have {data.steps} step(s), but the task "
                f"needs {self.steps}: give another data file"
            )

    def _output_error(self) -> InputError | None:
        """The error for a wrong shape of the network's output, or None; collective."""
        state = self.validation[:1, 0]
        with self.evaluating():
            found = self.network_on(state)
        if found.shape == state.shape:
            return None
        return InputError(
            f"the network maps {self._with_inputs(state).shape[1]} channels of this rank's part "
            f"{tuple(state.shape[2:])} to a tensor of shape {tuple(found.shape[1:])}, but the task "
            f"needs {tuple(state.shape[1:])}: the number of channels of the state"
        )

    def _read(self, data: TrajectoryDataset, group: str) -> Tensor:
        """Read this rank's part of all trajectories of a group, `(samples, steps + 1, C,
        *local_shape)`; collective.
        """

        def read() -> Tensor:
            found = data.read(group, range(data.count(group)), self.grid.local_slices)
            array = torch.from_numpy(np.ascontiguousarray(found))
            error = _read_error(array, data, group, self.grid.local_shape, self.stepper)
            if error is not None:
                raise error
            return array

        # Only one rank's part may contain a number that is not finite.
        return call_together(self.mesh.world, read).to(self.mesh.device, self._dtype)


def channel_names(stepper: Stepper, count: int) -> tuple[str, ...]:
    """The channel names of the stepper; numbered if it supports any number of channels and the data
    have several.
    """
    names = tuple(stepper.channels)
    if len(names) == count:
        return names
    return tuple(f"{names[0]}_{number}" for number in range(1, count + 1))


def _read_error(
    array: Tensor,
    data: TrajectoryDataset,
    group: str,
    local_shape: tuple[int, ...],
    stepper: Stepper,
) -> DataError | None:
    """The error for an array that is not as the task needs it, or None."""
    wanted = (data.count(group), data.steps + 1)
    if tuple(array.shape[:2]) != wanted or tuple(array.shape[3:]) != local_shape:
        return DataError(
            f"{dataset_name(data)}: read({group!r}, …) must return (samples, steps + 1, channels, "
            f"*part) = {(*wanted, '…', *local_shape)}, not {tuple(array.shape)}"
        )
    count, names = array.shape[2], tuple(stepper.channels)
    if count != len(names) and not getattr(stepper, "channelwise", False):
        kind = type(stepper).__name__
        return DataError(
            f"{dataset_name(data)}: its trajectories have {count} channel(s), but {kind} on this "
            f"grid has {len(names)}: {', '.join(names)}"
        )
    if not bool(array.isfinite().all()):
        return DataError(f"{dataset_name(data)}: {group} contains NaN or infinity")
    return None


def dataset_name(data: TrajectoryDataset) -> str:
    """The name of a data set in messages: its path, or its class."""
    return str(getattr(data, "path", type(data).__name__))


def _limit_threads(network: nn.Module, points: int, batch_size: int) -> None:
    """Use one thread for a small network, for which several threads are slower."""
    weights = (parameter for parameter in network.parameters() if parameter.dim() > 1)
    products = batch_size * sum(w.numel() * (points if w.dim() > 2 else 1) for w in weights)
    if products < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
