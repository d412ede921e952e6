"""The corrector: a network that learns what a coarse solver's steps miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.config import ConfigError, CorrectorConfig
from prdp_hpc.data import DataError, TrajectoryFile, share
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.tasks.stepper import Stepper, build_stepper
from prdp_hpc.tasks.supervised import SupervisedTask


class CorrectorTask(SupervisedTask):
    """`u^{s+1} = C(P(u^s))` with `C(v) = v + net(v)`; loss `Σ_s mean((u^s − t^s)²)` over the first
    `unroll` steps.

    `P` is a physics step at the solver's level, `t` the data; the mean runs over the batch, the
    channels and the whole grid. Validation rolls `C(P(·))` out with full physics: `P` at the
    refinement's full level, by a solver of its own, so that the counters of the training solver
    stay as they are. The error of step s and channel c is the mean over samples of `‖u_c^s −
    t_c^s‖² / ‖t_c^s‖²`; the coordinator sees that of the last validation step and of the measured
    channel. The validation samples are divided among the replicas.

    Raises
    ------
    DataError
        For data of too few steps, of other channels, or with a channel that is zero everywhere.
    ConfigError
        For a channel to measure that is none of the PDE's.

    Source: paper, section on the Navier–Stokes corrector.
    """

    def __init__(
        self,
        config: CorrectorConfig,
        mesh: ProcessMesh,
        grid: Grid,
        data: TrajectoryFile,
        solver: Solver,
    ) -> None:
        super().__init__(config, mesh, grid, data, solver)
        section = config.corrector
        self._unroll, self._validation_steps = section.unroll, section.validation_steps
        self._channels = _channel_names(self._physics, self._train.shape[2])
        self._measured = self._channels[0] if section.measure is None else section.measure
        if self._measured not in self._channels:
            known = ", ".join(self._channels)
            raise ConfigError(
                f"corrector.measure: {self._measured!r} is not a channel; choose one of {known}"
            )
        full = Solver(
            solver.ksp, solver.pc, config.refinement.full_level, petsc_options=solver.petsc_options
        )
        self._full_physics = build_stepper(config.physics, grid, full)
        self._check_scales(data)
        mine = share(np.arange(self._validation.shape[0]), mesh.replica, mesh.replicas)
        self._validation_count = self._validation.shape[0]
        self._validation = self._validation[torch.from_numpy(mine)]

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors after the validation steps: of the measured channel, and of
        each by name.
        """
        errors: dict[str, Any] = {}
        with torch.no_grad():
            state = self._validation[:, 0]
            for step in range(1, self._validation_steps[-1] + 1):
                state = self._corrected_step(self._full_physics, self.network, state)
                if step in self._validation_steps:
                    by_channel = dict(zip(self._channels, self._errors(state, step), strict=True))
                    errors[f"error_{step}"] = by_channel[self._measured]
                    errors |= {f"error_{step}_{name}": error for name, error in by_channel.items()}
        return {"error": errors[f"error_{self._validation_steps[-1]}"], **errors}

    def _squared_error(self, trajectories: Tensor) -> Tensor:
        state, total = (
            trajectories[:, 0],
            torch.zeros((), device=trajectories.device, dtype=trajectories.dtype),
        )
        for step in range(1, self._unroll + 1):
            state = self._corrected_step(self._physics, self._ddp, state)
            total = total + (state - trajectories[:, step]).square().sum()
        return total

    def _corrected_step(self, physics: Stepper, network: nn.Module, state: Tensor) -> Tensor:
        coarse = self._step(physics, state)
        return coarse + self._apply(network, coarse)

    def _errors(self, state: Tensor, step: int) -> list[float]:
        """The errors of one step by channel, means over the samples of all replicas."""
        truth = self._validation[:, step]
        relative = (self._squares(state - truth) / self._squares(truth)).sum(axis=0)
        self._mesh.replica_comm.Allreduce(MPI.IN_PLACE, relative)
        errors: list[float] = (relative / self._validation_count).tolist()
        return errors

    def _check_scales(self, data: TrajectoryFile) -> None:
        for step in self._validation_steps:
            squares: NDArray[np.float64] = self._squares(self._validation[:, step])
            if not squares.all():
                sample, channel = (int(i) for i in np.argwhere(squares == 0.0)[0])
                raise DataError(
                    f"{data.path}: validation/trajectories is zero everywhere in sample {sample}, "
                    f"step {step}, channel "
                    f"{self._channels[channel]}, and errors are measured relative to it: leave "
                    "that sample out"
                )


def _channel_names(physics: Stepper, count: int) -> tuple[str, ...]:
    """The stepper's own names; numbered where it takes any number of channels and has more than
    one.
    """
    names = physics.channels
    return (
        names
        if len(names) == count
        else tuple(f"{names[0]}_{number}" for number in range(1, count + 1))
    )
