"""The training state of a network, as it is stored in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import EpochSampler
from prdp_hpc.distributed.containers import KeyPath
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.distributed.shards import collected, divided, is_shard, part_like, whole
from prdp_hpc.linalg import NonlinearSolver, Solver
from prdp_hpc.tasks.averaging import WeightAverage
from prdp_hpc.tasks.learning_rate import LearningRate
from prdp_hpc.tasks.optimisers import (
    ClosureSteps,
    do_step,
    load_optimiser,
    make_optimiser,
    needs_closure,
)
from prdp_hpc.tasks.random_states import own_random_numbers, seed_generators
from prdp_hpc.tasks.recipe import Recipe

Loss = TypeVar("Loss")


class TrainedNetwork:
    """Base of tasks that train `network` on mini-batches."""

    network: nn.Module
    mesh: ProcessMesh
    solver: Solver | NonlinearSolver
    _average: WeightAverage | None = None

    def _prepare_training(
        self,
        channels: list[int],
        samples: int,
        recipe: Recipe,
        windows: Mapping[str, int] | None = None,
    ) -> None:
        """Create optimiser, learning-rate schedule and sampler. The network must be on its device.

        `channels`: numbers of input and output channels; `samples`: number of training samples;
        `windows`: see `EpochSampler`.
        """
        self._network_channels = channels
        self._optimiser = make_optimiser(self.network, recipe)
        self._closure_steps = (
            ClosureSteps(self._optimiser, list(self.network.parameters()), self.mesh.world)
            if needs_closure(self._optimiser)
            else None
        )
        self._rate = LearningRate(self._optimiser, recipe)
        self._average = None if recipe.ema is None else WeightAverage(self.network, recipe.ema)
        self._sampler = EpochSampler(samples, recipe.batch_size, recipe.seed, windows)
        self._samples, self._steps_per_epoch = samples, -(-samples // recipe.batch_size)
        self._clip_norm, self._seed = recipe.clip_norm, recipe.seed
        self._last: dict[str, float] = {}
        self._norm: Tensor | None = None
        seed_generators(self._seed, self.mesh.replica)

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

    def after_validation(self, error: float) -> None:
        """Pass a validation error to a learning rate that depends on it.

        Parameters
        ----------
        error : float
            The error, equal on all ranks.
        """
        self._rate.after_validation(error)

    def step_numbers(self) -> dict[str, float]:
        """Return numbers of the last training step, equal on all ranks.

        Returns
        -------
        dict
            `learning_rate` of the last step, or of the first step before it; once a step was done
            in this process, `gradient_norm`, the 2-norm of the gradient over all parameters before
            it is clipped; and for an optimiser that evaluates the loss itself `evaluations`, the
            number of evaluations since the start of the process.
        """
        found = {"learning_rate": self._rate.value} | self._last
        norm = self._gradient_norm() if self._norm is None else self._norm
        if norm is not None:
            found["gradient_norm"] = float(norm)
        if self._closure_steps is not None:
            found["evaluations"] = float(self._closure_steps.evaluations)
        return found

    @contextmanager
    def _measuring(self, draw: int) -> Iterator[None]:
        """A block that computes gradients, with random numbers of its own that depend on `draw`
        only. Afterwards the random numbers, the buffers of the network and the stored solutions
        are those from before, and there are no gradients.
        """
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        with own_random_numbers(), self.solver.restored_solutions():
            seed_generators(self._seed, self.mesh.replica, draw)
            try:
                yield
            finally:
                self._optimiser.zero_grad(set_to_none=True)
                with torch.no_grad():
                    for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                        buffer.copy_(before)

    def _optimise(self, backward: Callable[[], Loss], total: Callable[[Loss], float]) -> Loss:
        """Do a step of the optimiser and of the learning rate; return the loss before the step.

        `backward` sets the gradients of the batch and returns its loss, of which `total` computes
        the number that is equal on all ranks. Both may be collective.
        """
        self._last = {"learning_rate": self._rate.value}
        if self._closure_steps is None:
            loss = backward()
            if self._clip_norm is not None:
                parameters = self.network.parameters()
                norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
                self._norm = whole(norm)
            do_step(self._optimiser)
        else:
            losses: list[Loss] = []

            def evaluate() -> float:
                losses.append(backward())
                return total(losses[-1])

            self._closure_steps.step(evaluate)
            loss = losses[0]
        self._rate.step()
        if self._average is not None:
            self._average.update()
        return loss

    def _gradient_norm(self) -> Tensor | None:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients)) if gradients else None

    def _validated_weights(self) -> AbstractContextManager[None]:
        """A context in which the network has the weights with which it is validated."""
        return nullcontext() if self._average is None else self._average.applied()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of network, optimiser, learning rate and sampler.

        Collective, and complete only on rank 0, if the network is sharded. `network` has the
        weights for validation and use. If they are averages, `trained_network` has those that the
        optimiser changes.
        """
        with self._validated_weights():
            network = self._whole(self.network.state_dict())
        state: dict[str, Any] = {
            "network": network,
            "channels": self._network_channels,
            "optimiser": self._whole(self._optimiser.state_dict()),
            "schedule": self._rate.state_dict(),
            "sampler": self._sampler.state_dict(),
        }
        if self._average is not None:
            state["trained_network"] = self._whole(self.network.state_dict())
            state["averaged_steps"] = self._average.steps
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.load_network(state["network"])
        if self._average is not None:
            self._load(state["trained_network"])
            self._average.steps = state["averaged_steps"]
        load_optimiser(self._optimiser, state["optimiser"])
        self._rate.load_state_dict(state["schedule"])
        self._sampler.load_state_dict(state["sampler"])
        # Other numbers than from the start on; on as many ranks as before, the trainer restores
        # the generators' states afterwards.
        seed_generators(self._seed, self.mesh.replica, state["schedule"]["last_epoch"])

    def kept_part(self, path: KeyPath, tensor: Tensor) -> Any:
        """What this rank keeps of a tensor of `state_dict()`: its part if the network is sharded.

        Parameters
        ----------
        path : tuple
            The keys of the tensor in the state.
        tensor : Tensor
            The whole tensor.

        Returns
        -------
        Tensor
            The part, or the whole tensor, with which `load_state_dict` and `load_network` continue.
        """
        like = self._parameter_at(path) if self._sharded else None
        fits = like is not None and is_shard(like) and tensor.shape == like.shape
        return part_like(tensor, like) if fits else tensor

    def load_network(self, parameters: dict[str, Tensor]) -> None:
        """Load the parameters of the network only, e.g. to validate it.

        Each rank needs all of them, also if the network is sharded, or its parts.
        """
        self._load(parameters)
        if self._average is not None:
            self._average.reset()

    def _parameter_gradient(self) -> Tensor:
        """The gradients of all parameters that have one, as one vector on the host."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return torch.cat([whole(gradient).detach().cpu().reshape(-1) for gradient in gradients])

    @cached_property
    def _sharded(self) -> bool:
        return any(is_shard(parameter) for parameter in self.network.parameters())

    def _parameter_at(self, path: KeyPath) -> Tensor | None:
        """The parameter to which an entry of `state_dict()` belongs."""
        if path[0] in ("network", "trained_network"):
            return self._named.get(path[1])
        return self._ordered[path[2]] if path[:2] == ("optimiser", "state") else None

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())

    @cached_property
    def _ordered(self) -> list[Tensor]:
        groups = self._optimiser.param_groups
        return [parameter for group in groups for parameter in group["params"]]

    def _whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """A state with whole tensors on rank 0 if the network is sharded; collective."""
        if not self._sharded:
            return state
        found: dict[str, Any] = collected(state, self.mesh.is_root)
        return found

    def _load(self, parameters: dict[str, Tensor]) -> None:
        if self._sharded:
            parameters = divided(parameters, self.network.state_dict())
        self.network.load_state_dict(parameters)
