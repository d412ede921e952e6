"""The emulator: a network that learns one step of a PDE from a chain with the PDE's own solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.config import EmulatorConfig
from prdp_hpc.data import DataError, TrajectoryFile
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.tasks.supervised import SupervisedTask


class EmulatorTask(SupervisedTask):
    """The paper's mixed chain: `û¹ = net(u⁰)`, `û² = P(û¹)`, loss `mean((û² − u²)²)`.

    `P` is a physics step at the solver's level; the mean runs over the batch, the channels and the
    whole grid. Validation rolls the network alone out two steps; the error of step s is the mean
    over samples of `‖û^s − u^s‖² / ‖u^{s−1}‖²`, and the coordinator sees that of step 2.

    Raises
    ------
    DataError
        For data of too few steps, of other channels, or with a state that is zero everywhere.

    Source: paper, section on the heat emulator.
    """

    def __init__(
        self,
        config: EmulatorConfig,
        mesh: ProcessMesh,
        grid: Grid,
        data: TrajectoryFile,
        solver: Solver,
    ) -> None:
        super().__init__(config, mesh, grid, data, solver)
        self._scales = self._validation_scales(data)

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors of the network alone after 1 and 2 steps."""
        errors = {}
        with torch.no_grad():
            state = self._validation[:, 0]
            for step, scales in enumerate(self._scales, start=1):
                state = self._apply(self.network, state)
                squares = self._squares(state - self._validation[:, step]).sum(axis=1)
                errors[f"error_{step}"] = float((squares / scales).mean())
        return {"error": errors[f"error_{self._steps}"], **errors}

    def _squared_error(self, trajectories: Tensor) -> Tensor:
        first = self._apply(self._ddp, trajectories[:, 0])
        return (self._step(self._physics, first) - trajectories[:, self._steps]).square().sum()

    def _validation_scales(self, data: TrajectoryFile) -> list[NDArray[np.float64]]:
        """What the errors of each step are measured by: the squares of the state before it."""
        scales = [
            self._squares(self._validation[:, step]).sum(axis=1) for step in range(self._steps)
        ]
        for step, squares in enumerate(scales):
            if not squares.all():
                sample = int(np.argmin(squares))
                raise DataError(
                    f"{data.path}: validation/trajectories is zero everywhere in sample {sample}, "
                    f"step {step}, "
                    "and errors are measured relative to it: leave that sample out"
                )
        return scales
