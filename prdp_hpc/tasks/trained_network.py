"""The training state of a network, as it is stored in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import EpochSampler
from prdp_hpc.tasks.recipe import Recipe


class TrainedNetwork:
    """Base of tasks that train `network` on mini-batches."""

    network: nn.Module

    def _prepare_training(self, channels: list[int], samples: int, recipe: Recipe) -> None:
        """Create optimiser, learning-rate schedule and sampler. The network must be on its device.

        `channels`: numbers of input and output channels; `samples`: size of the training group.
        """
        self._network_channels = channels
        self._optimiser = recipe.optimizer(self.network.parameters(), lr=recipe.learning_rate)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, recipe.rate)
        self._sampler = EpochSampler(samples, recipe.batch_size, recipe.seed)
        self._samples, self._steps_per_epoch = samples, -(-samples // recipe.batch_size)
        self._learning_rate: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of the optimiser, i.e. of batches, of an epoch."""
        return self._steps_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Number of training samples of an epoch, of all replicas together."""
        return self._samples

    def _batches(self, first: int, last: int) -> Iterator[NDArray[np.int64]]:
        """The batches of the steps `first` to `last − 1`; step s has batch `s mod n` of epoch
        `s div n + 1` with n = `steps_per_epoch`.
        """
        while first < last:
            epoch, batch = divmod(first, self.steps_per_epoch)
            end = min(last, (epoch + 1) * self.steps_per_epoch)
            yield from self._sampler.batches(epoch + 1)[batch : batch + end - first]
            first = end

    def _optimise(self) -> None:
        """Do a step of the optimiser and of the learning rate."""
        self._learning_rate = self._optimiser.param_groups[0]["lr"]
        self._optimiser.step()
        self._schedule.step()

    def _step_numbers(self) -> dict[str, float]:
        """Learning rate and norm of the gradient of the last step."""
        rate = self._learning_rate
        found = {"learning_rate": self._optimiser.param_groups[0]["lr"] if rate is None else rate}
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        if gradients:
            found["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state of network, optimiser, learning rate and sampler."""
        return {
            "network": self.network.state_dict(),
            "channels": self._network_channels,
            "optimiser": self._optimiser.state_dict(),
            "schedule": {"last_epoch": self._schedule.last_epoch},
            "sampler": self._sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.load_network(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.last_epoch = state["schedule"]["last_epoch"]
        self._sampler.load_state_dict(state["sampler"])

    def load_network(self, parameters: dict[str, Tensor]) -> None:
        """Load the parameters of the network only, e.g. to validate it."""
        self.network.load_state_dict(parameters)

    def _parameter_gradient(self) -> Tensor:
        """The gradients of all parameters that have one, as one vector on the host."""
        parts = [p.grad.reshape(-1) for p in self.network.parameters() if p.grad is not None]
        return torch.cat(parts).detach().cpu()
