"""What all tasks that learn from trajectories share."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.data import DataError, EpochSampler, TrajectoryFile, share
from prdp_hpc.distributed.collective import call_together
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.networks import build_network, works_on_parts
from prdp_hpc.tasks.stepper import Stepper, build_stepper
from prdp_hpc.tasks.task import AfterStep, Stopwatch

SMALL = 10_000_000
"""Products of a network's forward pass over a batch, below which one thread is fastest."""


class SupervisedTask(ABC):
    """A network trained on mini-batches of trajectories, through a physics step at the solver's
    level.

    The fields are divided among the grid ranks of a replica, each batch among the replicas. A
    convolutional network runs on each rank's part, and DDP reduces over all ranks; an MLP runs on
    whole fields, alike on the ranks of a replica, and DDP reduces over the replicas. Every rank
    weighs its part of the loss so that DDP's mean is the gradient of the whole loss, whatever the
    split.

    With the precision bfloat16 the network's layers run in it (torch.autocast), to whose 8 bits of
    mantissa splits then agree; parameters, fields and losses stay in float32.
    """

    def __init__(
        self,
        config: SupervisedConfig,
        mesh: ProcessMesh,
        grid: Grid,
        data: TrajectoryFile,
        solver: Solver,
    ) -> None:
        self.solver, self.stopwatch = solver, Stopwatch(solver, mesh.device)
        self._mesh, self._grid, self._steps = mesh, grid, config.steps
        precision = config.training.precision
        self._half = precision == "bfloat16"
        self._dtype = torch.float32 if self._half else getattr(torch, precision)
        self._physics = build_stepper(config.physics, grid, solver)
        train = self._read(data, "train") if data.count("train") else None
        self._validation = self._read(data, "validation")
        self._train = self._validation[:0] if train is None else train
        count = self._validation.shape[2]
        # Every channel of the heat equation diffuses alone, so there may be any number of them.
        if config.physics.pde != "heat" and count != len(self._physics.channels):
            raise DataError(
                f"{data.path}: its trajectories have {count} channel(s), {config.physics.pde} on "
                "this grid has "
                f"{len(self._physics.channels)}: {', '.join(self._physics.channels)}"
            )
        arguments = config.network.model_dump(exclude={"kind"})
        network = build_network(
            config.network.kind, grid.partition, count, arguments, seed=config.seed
        )
        self.network = network.to(device=mesh.device, dtype=self._dtype)
        _limit_threads(self.network, grid.n_local, config.training.batch_size)
        self._on_parts = works_on_parts(config.network.kind)
        # What DDP takes the mean over.
        self._reduced = mesh.world.size if self._on_parts else mesh.replicas
        self._ddp: nn.Module = self.network
        if self._reduced > 1:
            devices = [mesh.device] if mesh.device.type == "cuda" else None
            group = None if self._on_parts else mesh.replica_group
            self._ddp = DistributedDataParallel(
                self.network, devices, process_group=group, gradient_as_bucket_view=True
            )
            self._settle_buckets()
        training = config.training
        # One fused kernel a step: the optimiser would otherwise cost more than forward and backward
        # together.
        self._optimiser = torch.optim.Adam(
            self.network.parameters(), lr=training.learning_rate, fused=True
        )
        factor = rate_factor(training.schedule, training.decay, training.decay_steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, factor)
        self._sampler = EpochSampler(self._train.shape[0], training.batch_size, config.seed)

    @abstractmethod
    def validate(self) -> dict[str, Any]:
        """The validation error as `error`, and what else belongs in the metrics; collective."""

    @abstractmethod
    def _squared_error(self, trajectories: Tensor) -> Tensor:
        """The loss's squares, summed over a batch `(b, steps + 1, C, *local_shape)`, its channels
        and this rank's points.
        """

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
        self._mesh.world.Allreduce(MPI.IN_PLACE, total)
        whole: list[float] = (total / self._reduced).tolist()
        return whole

    def gradient(self) -> Tensor:
        """The gradient of the first batch's loss for all parameters, as one vector; collective,
        equal on all ranks.
        """
        self._backward(self._sampler.batches(1)[0])
        parts = [
            parameter.grad.reshape(-1)
            for parameter in self.network.parameters()
            if parameter.grad is not None
        ]
        return torch.cat(parts).detach().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser, learning rate and sampler."""
        return {
            "network": self.network.state_dict(),
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
        """The network's part of `state_dict()` alone, to validate it."""
        self.network.load_state_dict(parameters)

    def _settle_buckets(self) -> None:
        """Have DDP choose the buckets of its all-reduce, which it does after its first pass;
        collective.

        The buckets decide in which order ranks are summed: the first gradients of a resumed run
        would be rounded otherwise than those of a run that was left alone.
        """
        self._apply(self._ddp, torch.zeros_like(self._validation[:1, 0])).sum().backward()  # type: ignore[no-untyped-call]
        self.network.zero_grad(set_to_none=True)

    def close(self) -> None:  # noqa: B027
        """Nothing stays open: the samples are in memory."""

    def _train_step(self, batch: NDArray[np.int64]) -> Tensor:
        loss = self._backward(batch)
        self._optimiser.step()
        self._schedule.step()
        return loss

    def _backward(self, batch: NDArray[np.int64]) -> Tensor:
        """Put the gradient of a batch's loss into the parameters; this rank's part of the loss."""
        with self.stopwatch.part("data"):
            mine = torch.as_tensor(
                share(batch, self._mesh.replica, self._mesh.replicas), dtype=torch.long
            )
            trajectories = self._train[mine]
        self._optimiser.zero_grad(set_to_none=True)
        weight = self._reduced / (len(batch) * self._train.shape[2] * self._grid.size)
        loss = self._squared_error(trajectories) * weight
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _apply(self, network: nn.Module, fields: Tensor) -> Tensor:
        """This rank's part of what a network makes of the fields; collective."""
        # Entering autocast takes as long as a layer of a small network, switched off too.
        with (
            torch.autocast(self._mesh.device.type, torch.bfloat16) if self._half else nullcontext()
        ):
            output = network(fields if self._on_parts else self._grid.gather(fields)).to(
                fields.dtype
            )
        return output if self._on_parts else self._grid.scatter(output)

    def _step(self, physics: Stepper, state: Tensor) -> Tensor:
        """A step of physics; a replica without samples has nothing to solve."""
        if not state.shape[0]:
            return state
        # Another solver than the one that is trained with counts for itself.
        if physics is not self._physics:
            return physics(state)
        return self.stopwatch.physics(physics, state)

    def _squares(self, fields: Tensor) -> NDArray[np.float64]:
        """The sum of squares over the whole grid, `(B, C)`; collective."""
        sums: NDArray[np.float64] = (
            fields.to(torch.float64).square().flatten(2).sum(2).cpu().numpy()
        )
        self._mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return sums

    def _read(self, data: TrajectoryFile, group: str) -> Tensor:
        """This rank's part of all trajectories of a group, `(samples, steps + 1, C,
        *local_shape)`.
        """
        if data.steps < self._steps:
            raise DataError(
                f"{data.path}: its trajectories have {data.steps} step(s), {self._steps} are needed"
            )
        # A number that is not finite may lie in one rank's part only.
        part = call_together(self._mesh.world, lambda: data.read(group, self._grid.local_slices))
        return torch.from_numpy(part).to(device=self._mesh.device, dtype=self._dtype)


def _limit_threads(network: nn.Module, points: int, batch_size: int) -> None:
    """One thread for a small network: waking more costs more than they bring."""
    weights = (parameter for parameter in network.parameters() if parameter.dim() > 1)
    products = batch_size * sum(w.numel() * (points if w.dim() > 2 else 1) for w in weights)
    if products < SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def rate_factor(schedule: str, decay: float, decay_steps: int) -> Callable[[int], float]:
    """The learning rate after a number of steps, as a multiple of the first one.

    exponential: `decay^(step / decay_steps)`. cosine: `decay + (1 − decay) (1 + cos(π step /
    decay_steps)) / 2` until `decay_steps`, then `decay`.
    """
    if schedule == "exponential":
        return lambda step: decay ** (step / decay_steps)
    return lambda step: (
        decay + (1.0 - decay) * (1.0 + math.cos(math.pi * min(step / decay_steps, 1.0))) / 2.0
    )
