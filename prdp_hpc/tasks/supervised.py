"""What all tasks that learn from trajectories share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
from prdp_hpc.tasks.task import AfterStep, Stopwatch
from prdp_hpc.tasks.trained_network import TrainedNetwork

SMALL = 10_000_000
"""Products of a network's forward pass over a batch, below which one thread is fastest."""
PARTS = 4
"""Of a batch, from which the variance of its gradient is estimated."""


class SupervisedTask(TrainedNetwork, ABC):
    """A network trained on mini-batches of trajectories, through a physics step at the solver's
    level.

    The fields are divided among the grid ranks of a replica, each batch among the replicas
    (`DataParallel`). A task of one's own is a subclass with `local_loss` and `validate`; it calls
    `network_on(state)` and `step(state)`, and has the samples of the validation group in
    `validation`, `(samples, steps + 1, C, *local_shape)`.

    Parameters
    ----------
    stepper : the PDE; its `grid` and its `solver` are the task's.
    network : on whole fields, or on parts, see `Network`. It is moved to the mesh's device.
    data : the trajectories, see `TrajectoryDataset`. Without the group "train" the task can only
        validate.
    mesh : the ranks.
    recipe : optimiser, learning rate, loss, batch size, precision.
    inputs : fields `(E, *local_shape)` that the network gets beside each state, after its channels:
        coordinates, coefficients, a forcing. Default: none.

    Attributes
    ----------
    steps : steps that trajectories must have.
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
        # Read now: what is wrong with it must not be found at the end of a long run.
        has_test = train is not None and TEST in getattr(data, "groups", ())
        self._test = self._read(data, TEST) if has_test else None
        self._all_validation = self.validation
        self._train = self.validation[:0] if train is None else train
        self.channels = channel_names(stepper, self.validation.shape[2])
        self.network = network.to(device=mesh.device, dtype=self._dtype)
        _limit_threads(self.network, self.grid.n_local, recipe.batch_size)
        self._parallel = mesh.data_parallel(self.network, self.grid, recipe.autocast)
        self._inputs = None if inputs is None else inputs.to(mesh.device, self._dtype)
        raise_together(mesh.world, self._wrong_output())
        count, extra = self.validation.shape[2], 0 if inputs is None else inputs.shape[0]
        self._parallel.settle(self._with_inputs(self.validation[:1, 0]))
        self._prepare_training([count + extra, count], self._train.shape[0], recipe)

    @abstractmethod
    def validate(self) -> dict[str, Any]:
        """The validation error as `error`, and what else belongs in the metrics; collective."""

    @abstractmethod
    def local_loss(self, trajectories: Tensor) -> Tensor:
        """The loss of a batch `(b, steps + 1, C, *local_shape)`, summed over its samples, its
        channels and this rank's points; b may be 0.
        """

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """The errors of each trajectory by name, each `(samples,)`; `error` is the coordinator's.

        Without gradients, the network in evaluation mode; collective. A task of one's own that has
        it is evaluated at the end of a run, see `test`.
        """
        raise NotImplementedError

    def test(self) -> dict[str, Any] | None:
        """The errors of the group "test", or of "validation" where the data have no test group:
        `group`, and `samples`: by name a list with one error a sample. None for a task without
        `sample_errors`. Collective, equal on all ranks.
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
        """This rank's part of what the network makes of states `(b, C, *local_shape)`;
        collective.
        """
        output: Tensor = self._parallel(self._with_inputs(state))
        return output

    def step(self, state: Tensor) -> Tensor:
        """A step of physics at the solver's level; collective."""
        # A replica without samples has nothing to solve.
        return self.stopwatch.physics(self.stepper, state) if state.shape[0] else state

    def pointwise_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The recipe's loss of a batch, summed over its entries on this rank."""
        loss = self.recipe.loss(prediction, target)
        if loss.shape != prediction.shape:
            raise InputError(
                f"training.loss: must return the loss of each entry in the shape "
                f"{tuple(prediction.shape)} of the prediction, not {tuple(loss.shape)}; of torch's "
                'losses, give reduction="none"'
            )
        return loss.sum()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without gradients, and with the network in evaluation mode."""
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.network.train(training)

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """One pass over the training samples; the mean of the batches' losses."""
        parts: list[Tensor] = []
        batches = self._sampler.batches(epoch)[len(earlier) :]
        with self.stopwatch.part("network"):
            for batch in batches:
                parts.append(self._train_step(batch))
                if after_step is not None and len(parts) < len(batches):
                    after_step(lambda: [*earlier, *self._whole_losses(parts)])
        return float(np.mean([*earlier, *self._whole_losses(parts)]))

    def _whole_losses(self, parts: list[Tensor]) -> list[float]:
        """The batches' losses from this rank's parts of them; collective."""
        total = torch.stack(parts).cpu().to(torch.float64).numpy().copy()
        self.mesh.world.Allreduce(MPI.IN_PLACE, total)
        whole: list[float] = (total / self._parallel.loss_weight).tolist()
        return whole

    def gradient(self) -> Tensor:
        """The gradient of the first batch's loss for all parameters, as one vector; collective,
        equal on all ranks.
        """
        with self._unchanged():
            return self._gradient_of(self._sampler.batches(1)[0])

    def sampled_gradient(self, draw: int) -> tuple[Tensor, float]:
        """The gradient of a training batch, number `draw` of a stream of its own, and the variance
        of a mini-batch gradient, summed over its entries; collective, equal on all ranks.

        The batch is divided into up to 4 parts of one size, whatever the number of replicas, and
        the variance is estimated from those of the parts' gradients. It is 0 where there is one
        sample only.
        """
        parts = self._sampler.parts(draw, PARTS)
        squares = 0.0
        with self._unchanged():
            total = torch.zeros(())
            for part in parts:
                gradient = self._gradient_of(part)
                total = total + gradient
                squares += float(gradient.double().square().sum())
        mean = total / len(parts)
        if len(parts) == 1:
            return mean, 0.0
        between = squares - len(parts) * float(mean.double().square().sum())
        of_a_part = max(between, 0.0) / (len(parts) - 1)
        return mean, of_a_part * len(parts[0]) / self.recipe.batch_size

    def close(self) -> None:
        """Nothing stays open: the samples are in memory."""

    def squares(self, fields: Tensor) -> NDArray[np.float64]:
        """The sum of squares over the whole grid, `(B, C)`; collective."""
        sums: NDArray[np.float64] = (
            fields.to(torch.float64).square().flatten(2).sum(2).cpu().numpy()
        )
        self.mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return sums

    def _train_step(self, batch: NDArray[np.int64]) -> Tensor:
        loss = self._backward(batch)
        self._optimiser.step()
        self._schedule.step()
        return loss

    def _backward(self, batch: NDArray[np.int64]) -> Tensor:
        """Put the gradient of a batch's loss into the parameters; this rank's part of the loss."""
        with self.stopwatch.part("data"):
            mine = torch.as_tensor(
                share(batch, self.mesh.replica, self.mesh.replicas), dtype=torch.long
            )
            trajectories = self._train[mine]
        self._optimiser.zero_grad(set_to_none=True)
        entries = len(batch) * self._train.shape[2] * self.grid.size
        with self.solver.samples(mine.tolist()):
            loss = self.local_loss(trajectories) * (self._parallel.loss_weight / entries)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _gradient_of(self, batch: NDArray[np.int64]) -> Tensor:
        self._backward(batch)
        return self._parameter_gradient()

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Leave no gradients behind, and the network's buffers as they were."""
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        try:
            yield
        finally:
            self._optimiser.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                    buffer.copy_(before)

    def _with_inputs(self, state: Tensor) -> Tensor:
        if self._inputs is None:
            return state
        return torch.cat([state, self._inputs.expand(len(state), *self._inputs.shape)], dim=1)

    def _check(self, data: TrajectoryDataset) -> None:
        if data.steps < self.steps:
            raise DataError(
                f"{dataset_name(data)}: its trajectories have {data.steps} step(s), {self.steps} "
                "are needed"
            )

    def _wrong_output(self) -> InputError | None:
        """What is wrong with the shape of the network's output; collective."""
        state = self.validation[:1, 0]
        with self.evaluating():
            found = self.network_on(state)
        if found.shape == state.shape:
            return None
        return InputError(
            f"the network maps {self._with_inputs(state).shape[1]} channels of this rank's part "
            f"{tuple(state.shape[2:])} to a tensor of shape {tuple(found.shape[1:])}, the task "
            f"needs {tuple(state.shape[1:])}: as many channels as the state has"
        )

    def _read(self, data: TrajectoryDataset, group: str) -> Tensor:
        """This rank's part of all trajectories of a group, `(samples, steps + 1, C,
        *local_shape)`.
        """

        def read() -> Tensor:
            found = data.read(group, range(data.count(group)), self.grid.local_slices)
            array = torch.from_numpy(np.ascontiguousarray(found))
            wrong = _wrong_read(array, data, group, self.grid.local_shape, self.stepper)
            if wrong is not None:
                raise wrong
            return array

        # A number that is not finite may lie in one rank's part only.
        return call_together(self.mesh.world, read).to(self.mesh.device, self._dtype)


def channel_names(stepper: Stepper, count: int) -> tuple[str, ...]:
    """The stepper's own names; numbered where it takes any number of channels and has more than
    one.
    """
    names = tuple(stepper.channels)
    if len(names) == count:
        return names
    return tuple(f"{names[0]}_{number}" for number in range(1, count + 1))


def _wrong_read(
    array: Tensor,
    data: TrajectoryDataset,
    group: str,
    local_shape: tuple[int, ...],
    stepper: Stepper,
) -> DataError | None:
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
            f"{dataset_name(data)}: its trajectories have {count} channel(s), {kind} on this grid "
            f"has {len(names)}: {', '.join(names)}"
        )
    if not bool(array.isfinite().all()):
        return DataError(f"{dataset_name(data)}: {group} holds NaN or infinity")
    return None


def dataset_name(data: TrajectoryDataset) -> str:
    """What messages call a data set: its path, or its class."""
    return str(getattr(data, "path", type(data).__name__))


def _limit_threads(network: nn.Module, points: int, batch_size: int) -> None:
    """One thread for a small network: waking more costs more than they bring."""
    weights = (parameter for parameter in network.parameters() if parameter.dim() > 1)
    products = batch_size * sum(w.numel() * (points if w.dim() > 2 else 1) for w in weights)
    if products < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
