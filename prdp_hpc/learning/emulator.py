"""The emulator: a network that learns one step of a PDE from a chain with the PDE's own solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prdp_hpc.collective import call_together
from prdp_hpc.config import EmulatorConfig
from prdp_hpc.data import DataError, EpochSampler, TrajectoryFile, share
from prdp_hpc.grid import Grid
from prdp_hpc.learning.task import Stopwatch
from prdp_hpc.linalg import Solver
from prdp_hpc.mesh import ProcessMesh
from prdp_hpc.networks import build_network
from prdp_hpc.physics import Heat

ROLLOUT = 2  # steps of the chain and of validation


class EmulatorTask:
    """The paper's mixed chain: `û¹ = net(u⁰)`, `û² = P(û¹)`, loss `mean((û² − u²)²)`.

    `P` is a physics step at the solver's level; the mean runs over the batch and the whole grid. Validation rolls the
    network alone out two steps; the error of step s is the mean over samples of `‖û^s − u^s‖² / ‖u^{s−1}‖²`, and the
    coordinator sees that of step 2.

    The fields are divided among the grid ranks of a replica, each batch among the replicas. The ranks of a replica run the
    network alike on whole fields. Every rank weighs its part of the loss so that DDP's mean over the replicas is the
    gradient of the whole loss, whatever the split.

    Source: paper, section on the heat emulator.
    """

    def __init__(self, config: EmulatorConfig, mesh: ProcessMesh, grid: Grid, data: TrajectoryFile, solver: Solver) -> None:
        self.solver, self.stopwatch = solver, Stopwatch()
        self._mesh, self._grid = mesh, grid
        self._dtype = getattr(torch, config.training.precision)
        self._physics = Heat(grid, config.physics.diffusivity, config.physics.time_step, solver)
        self._train = self._read(data, "train")
        self._validation = self._read(data, "validation")
        self._scales = self._validation_scales(data)
        channels = self._train.shape[2]
        spec = config.network
        network = build_network(spec.kind, grid.shape, channels, spec.hidden, spec.activation, seed=config.seed)
        self.network = network.to(device=mesh.device, dtype=self._dtype)
        self._ddp: nn.Module = self.network
        if mesh.replica_group is not None:
            devices = [mesh.device] if mesh.device.type == "cuda" else None
            self._ddp = DistributedDataParallel(
                self.network, devices, process_group=mesh.replica_group, gradient_as_bucket_view=True
            )
        training = config.training
        # One fused kernel a step: the optimiser would otherwise cost more than forward and backward together.
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: training.decay ** (step / training.decay_steps)
        )
        self._sampler = EpochSampler(self._train.shape[0], training.batch_size, config.seed)

    def train_epoch(self, epoch: int) -> float:
        """One pass over the training samples; the mean of the batches' losses."""
        with self.stopwatch.running():
            losses = [self._train_step(batch) for batch in self._sampler.batches(epoch)]
        total = torch.stack(losses).cpu().to(torch.float64).numpy().copy()
        self._mesh.world.Allreduce(MPI.IN_PLACE, total)
        return float(total.mean() / self._mesh.replicas)

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors of the network alone after 1 and 2 steps."""
        errors = {}
        with torch.no_grad():
            state = self._validation[:, 0]
            for step in range(1, ROLLOUT + 1):
                state = self._grid.scatter(self.network(self._grid.gather(state)))
                squares = self._squares(state - self._validation[:, step])
                errors[f"error_{step}"] = float((squares / self._scales[step - 1]).mean())
        return {"error": errors[f"error_{ROLLOUT}"], **errors}

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
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.last_epoch = state["schedule"]["last_epoch"]
        self._sampler.load_state_dict(state["sampler"])

    def close(self) -> None:
        """Nothing stays open: the samples are in memory."""

    def _train_step(self, batch: Any) -> Tensor:
        mine = torch.as_tensor(np.asarray(share(batch, self._mesh.replica, self._mesh.replicas)), dtype=torch.long)
        start, target = self._train[mine, 0], self._train[mine, ROLLOUT]
        self._optimiser.zero_grad(set_to_none=True)
        first = self._grid.scatter(self._ddp(self._grid.gather(start)))
        error = self._physics(first) - target
        weight = self._mesh.replicas / (len(batch) * target.shape[1] * self._grid.size)
        loss = error.square().sum() * weight
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        return loss.detach()

    def _squares(self, fields: Tensor) -> NDArray[np.float64]:
        """Each sample's sum of squares over the whole grid; collective."""
        sums: NDArray[np.float64] = fields.to(torch.float64).square().flatten(1).sum(1).cpu().numpy()
        self._mesh.grid_comm.Allreduce(MPI.IN_PLACE, sums)
        return sums

    def _validation_scales(self, data: TrajectoryFile) -> list[NDArray[np.float64]]:
        """What the errors of each step are measured by: the squares of the state before it."""
        scales = [self._squares(self._validation[:, step]) for step in range(ROLLOUT)]
        for step, squares in enumerate(scales):
            if not squares.all():
                sample = int(np.argmin(squares))
                raise DataError(
                    f"{data.path}: validation/trajectories is zero everywhere in sample {sample}, step {step}, "
                    "and errors are measured relative to it: leave that sample out"
                )
        return scales

    def _read(self, data: TrajectoryFile, group: str) -> Tensor:
        """This rank's part of all trajectories of a group, `(samples, steps + 1, C, *local_shape)`."""
        if data.steps < ROLLOUT:
            raise DataError(f"{data.path}: data set {group}/trajectories has {data.steps} step(s), training needs {ROLLOUT}")
        # A number that is not finite may lie in one rank's part only.
        part = call_together(self._mesh.world, lambda: data.read(group, self._grid.local_slices))
        return torch.from_numpy(part).to(device=self._mesh.device, dtype=self._dtype)
