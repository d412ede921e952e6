"""The corrector: a network that learns what a coarse solver's steps miss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import TEST, DataError, TrajectoryDataset, share
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.errors import InputError
from prdp_hpc.linalg import Solver
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.supervised import SupervisedTask, dataset_name
from prdp_hpc.tasks.task import Parts


class Corrector(SupervisedTask):
    """`u^{s+1} = C(P(u^s))` with `C(v) = v + net(v)`; loss `Σ_s mean((u^s − t^s)²)` over the first
    `unroll` steps.

    `P` is a physics step at the solver's level, `t` the data; the mean runs over the batch, the
    channels and the whole grid. Validation rolls `C(P(·))` out with full physics, by a solver of
    its own, so that the counters of the training solver stay as they are. The error of step s and
    channel c is the mean over samples of `‖u_c^s − t_c^s‖² / ‖t_c^s‖²`; the coordinator gets that
    of the last validation step and of the measured channel. The validation samples are divided
    among the replicas.

    Parameters
    ----------
    full_stepper : the same PDE with a solver of its own, at full refinement, for validation.
    unroll : steps that are trained through.
    validation_steps : after which validation measures, in rising order.
    measure : the channel that the coordinator gets; default: the first.

    The others: see `SupervisedTask`.

    Raises
    ------
    DataError
        For data of too few steps, of other channels, or with a channel that is zero everywhere.
    ValueError
        For a channel to measure that is none of the PDE's.

    Source: paper, section on the Navier–Stokes corrector.
    """

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
        self.steps = max(unroll, *validation_steps)
        super().__init__(stepper, network, data, mesh, recipe, inputs)
        self._unroll, self._validation_steps = unroll, tuple(validation_steps)
        self._measured = self.channels[0] if measure is None else measure
        if self._measured not in self.channels:
            known = ", ".join(self.channels)
            raise InputError(
                f"corrector.measure: {self._measured!r} is not a channel; choose one of {known}"
            )
        self._full_stepper = full_stepper
        self._check_scales(data, self.validation, "validation")
        if self._test is not None:
            self._check_scales(data, self._test, TEST)
        mine = share(np.arange(self.validation.shape[0]), mesh.replica, mesh.replicas)
        self._validation_count = self.validation.shape[0]
        self.validation = self.validation[torch.from_numpy(mine)]

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Corrector:
        """The corrector of a config; collective."""
        config, solver = parts.config, parts.solver
        full = Solver(
            solver.ksp, solver.pc, config.refinement.full_level, petsc_options=solver.petsc_options
        )
        return cls(
            parts.stepper(),
            parts.stepper(full),
            parts.network,
            parts.data,
            parts.mesh,
            parts.recipe,
            parts.inputs,
            unroll=config.corrector.unroll,
            validation_steps=config.corrector.validation_steps,
            measure=config.corrector.measure,
        )

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors after the validation steps: of the measured channel, and of
        each by name.
        """
        with self.evaluating():
            found = self.sample_errors(self.validation)
        sums = np.array([errors.sum() for errors in found.values()])
        self.mesh.replica_comm.Allreduce(MPI.IN_PLACE, sums)
        means = (sums / self._validation_count).tolist()
        return dict(zip(found, means, strict=True))

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """The normalised squared errors as in `validate`, of each trajectory."""
        errors: dict[str, NDArray[np.float64]] = {}
        state = trajectories[:, 0]
        for step in range(1, self._validation_steps[-1] + 1):
            coarse = self._full_stepper(state) if state.shape[0] else state
            state = coarse + self.network_on(coarse)
            if step in self._validation_steps:
                truth = trajectories[:, step]
                relative = self.squares(state - truth) / self.squares(truth)
                by_channel = dict(zip(self.channels, relative.T, strict=True))
                errors[f"error_{step}"] = by_channel[self._measured]
                errors |= {f"error_{step}_{name}": error for name, error in by_channel.items()}
        return {"error": errors[f"error_{self._validation_steps[-1]}"], **errors}

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Of each step that is trained through, against the data's."""
        state, losses = trajectories[:, 0], []
        for step in range(1, self._unroll + 1):
            coarse = self.step(state)
            state = coarse + self.network_on(coarse)
            losses.append(self.pointwise_loss(state, trajectories[:, step]))
        return sum(losses[1:], losses[0])

    def _check_scales(self, data: TrajectoryDataset, trajectories: Tensor, group: str) -> None:
        for step in self._validation_steps:
            squares = self.squares(trajectories[:, step])
            if not squares.all():
                sample, channel = (int(i) for i in np.argwhere(squares == 0.0)[0])
                raise DataError(
                    f"{dataset_name(data)}: {group}/trajectories is zero everywhere in sample "
                    f"{sample}, step {step}, channel {self.channels[channel]}, and errors are "
                    "measured relative to it: leave that sample out"
                )
