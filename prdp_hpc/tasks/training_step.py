"""The training step of tasks that train a network on trajectories, and gradients of batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.data import share
from prdp_hpc.distributed.data_parallel import DataParallel
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError, returned
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Solver
from prdp_hpc.tasks.losses import Loss, summed
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.task import AfterStep, Stopwatch
from prdp_hpc.tasks.trained_network import TrainedNetwork

PARTS = 4
"""Number of parts of a batch from which the variance of its gradient is estimated."""


class TrainingStep(TrainedNetwork, ABC):
    """Base of `SupervisedTask`: its steps of the optimiser."""

    mesh: ProcessMesh
    grid: Grid
    solver: Solver | NonlinearSolver
    stopwatch: Stopwatch
    recipe: Recipe
    channels: tuple[str, ...]
    _parallel: DataParallel

    @abstractmethod
    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Compute the loss of a batch on this rank; collective.

        Parameters
        ----------
        trajectories : Tensor
            States of shape `(b, steps + 1, C, *local_shape)`; b may be 0.

        Returns
        -------
        Tensor
            Sum over samples, channels and this rank's points, of shape `()`.
        """

    @abstractmethod
    def _batch(self, ids: NDArray[np.int64]) -> Tensor:
        """The training samples with these ids, `(b, steps + 1, C, *local_shape)`."""

    def pointwise_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the recipe's loss of a batch on this rank; collective.

        Parameters
        ----------
        prediction : Tensor
            Predicted states, of shape `(b, C, *local_shape)`.
        target : Tensor
            States of the data, of the same shape.

        Returns
        -------
        Tensor
            The sum over the entries on this rank, of shape `()`. For a loss of whole fields it is
            this rank's part of the sum over the samples, times the number of entries of a sample.

        Raises
        ------
        InputError
            If the loss has another shape than it must have.
        """
        return self._summed_loss(prediction, target)

    @cached_property
    def _summed_loss(self) -> Loss:
        return summed(self.recipe.loss, self.grid)

    def train_epoch(
        self, epoch: int, earlier: Sequence[float] = (), after_step: AfterStep | None = None
    ) -> float:
        """Train for one pass over the training samples; collective.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1, which determines the order of the samples.
        earlier : sequence of float, default ()
            Losses of the steps of this epoch that were already done before a restart.
        after_step : callable, optional
            Called after each step but the last one, see `Task.train_epoch`.

        Returns
        -------
        float
            Mean of the losses of the batches.
        """
        count = self.steps_per_epoch
        return self.train_steps((epoch - 1) * count, epoch * count, earlier, after_step)

    def train_steps(
        self,
        first: int,
        last: int,
        earlier: Sequence[float] = (),
        after_step: AfterStep | None = None,
    ) -> float:
        """Train the steps `first` to `last − 1` of the endless sequence of batches; collective.

        Step s trains on batch `s mod n` of epoch `s div n + 1`, where n is `steps_per_epoch`.

        Parameters
        ----------
        first : int
            Number of the first step, from 0.
        last : int
            Number of the step before which training ends.
        earlier : sequence of float, default ()
            Losses of the steps from `first` on that were already done before a restart; training
            continues after them.
        after_step : callable, optional
            Called after each step but the last one, see `Task.train_epoch`.

        Returns
        -------
        float
            Mean of the losses of the batches `first` to `last − 1`.
        """
        parts: list[Tensor] = []
        whole, begin = list(earlier), first + len(earlier)

        def losses() -> list[float]:
            whole.extend(self._whole_losses(parts))
            parts.clear()
            return list(whole)

        with self.stopwatch.part("network"):
            for step, batch in enumerate(self._batches(begin, last), start=begin + 1):
                parts.append(self._train_step(batch))
                if after_step is not None and step < last:
                    after_step(losses)
        return float(np.mean(losses()))

    def gradient(self) -> Tensor:
        """Compute the gradient of the first batch's loss; collective, equal on all ranks.

        Returns
        -------
        Tensor
            Gradient with respect to all parameters, of shape `(parameters,)`, on the CPU.
        """
        with self._measuring(0):
            return self._gradient_of(self._sampler.batches(1)[0])

    def sampled_gradient(self, draw: int) -> tuple[Tensor, float]:
        """Compute the gradient of a random training batch; collective, equal on all ranks.

        The batch is divided into up to 4 parts of equal size, independent of the number of
        replicas, and the variance is estimated from the gradients of the parts. It is 0 if there is
        only one sample.

        Parameters
        ----------
        draw : int
            Number that determines the batch, together with the seed of the recipe.

        Returns
        -------
        gradient : Tensor
            Gradient with respect to all parameters, of shape `(parameters,)`, on the CPU.
        variance : float
            Variance of a mini-batch gradient, summed over its entries.
        """
        parts = self._sampler.parts(draw, PARTS)
        squares = 0.0
        with self._measuring(draw):
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

    def _whole_losses(self, parts: list[Tensor]) -> list[float]:
        """Sum the parts of the batch losses over the ranks; collective."""
        if not parts:
            return []
        total = torch.stack(parts).cpu().to(torch.float64).numpy().copy()
        self.mesh.world.Allreduce(MPI.IN_PLACE, total)
        whole: list[float] = (total / self._parallel.loss_weight).tolist()
        return whole

    def _train_step(self, batch: NDArray[np.int64]) -> Tensor:
        return self._optimise(
            lambda: self._backward(batch), lambda part: self._whole_losses([part])[0]
        )

    def _backward(self, batch: NDArray[np.int64]) -> Tensor:
        """Set the gradients of the parameters for a batch; return this rank's part of the loss."""
        mine = share(batch, self.mesh.replica, self.mesh.replicas)
        self._optimiser.zero_grad(set_to_none=True)
        # All ranks have to call a sharded network equally often.
        most = share(batch, 0, self.mesh.replicas) if self._parallel.sharded else mine
        count = max(1, min(self.recipe.accumulate, len(most)))
        if count == 1:
            return self._backward_of(mine, len(batch))
        losses = []
        for number in range(count):
            last = number == count - 1
            with nullcontext() if last else self._parallel.no_sync():
                losses.append(self._backward_of(share(mine, number, count), len(batch)))
        return torch.stack(losses).sum()

    def _backward_of(self, samples: NDArray[np.int64], batch_size: int) -> Tensor:
        """Add the gradients of some samples of a batch; return their part of the batch's loss."""
        with self.stopwatch.part("data"):
            trajectories = self._batch(samples)
        entries = batch_size * len(self.channels) * self.grid.size
        with self.solver.samples(samples.tolist()):
            part = self.local_loss(trajectories)
            self._check_loss(part)
            loss = part * (self._parallel.loss_weight / entries)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _check_loss(self, part: Tensor) -> None:
        is_number = isinstance(part, Tensor) and part.numel() == 1 and part.is_floating_point()
        if is_number and part.requires_grad:
            return
        name = f"{type(self).__name__}.local_loss(trajectories)"
        if is_number:
            raise InputError(
                f"{name} returned a number without a gradient with respect to the network: compute "
                "it with torch from network_on(state), without detach() and NumPy"
            )
        raise returned(name, "the sum over this rank's entries, a tensor of shape ()", part)

    def _gradient_of(self, batch: NDArray[np.int64]) -> Tensor:
        self._backward(batch)
        return self._parameter_gradient()
