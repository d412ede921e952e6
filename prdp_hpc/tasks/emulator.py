"""The emulator: a network that learns one step of a PDE from a chain with the PDE's own solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import DataError, TrajectoryDataset
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.tasks.recipe import Recipe
from prdp_hpc.tasks.supervised import SupervisedTask, dataset_name
from prdp_hpc.tasks.task import Parts


class Emulator(SupervisedTask):
    """The paper's mixed chain: `û¹ = net(u⁰)`, `û² = P(û¹)`, loss `mean((û² − u²)²)`.

    `P` is a physics step at the solver's level; the mean runs over the batch, the channels and the
    whole grid (another loss: `Recipe.loss`). Validation rolls the network alone out two steps; the
    error of step s is the mean over samples of `‖û^s − u^s‖² / ‖u^{s−1}‖²`, and the coordinator
    gets that of step 2.

    Parameters and example: see `SupervisedTask` and docs/own_components.md.

    Raises
    ------
    DataError
        For data of too few steps, of other channels, or with a state that is zero everywhere.

    Source: paper, section on the heat emulator.
    """

    steps = 2

    def __init__(
        self,
        stepper: Stepper,
        network: nn.Module,
        data: TrajectoryDataset,
        mesh: ProcessMesh,
        recipe: Recipe | None = None,
        inputs: Tensor | None = None,
    ) -> None:
        super().__init__(stepper, network, data, mesh, recipe, inputs)
        self._scales = self._validation_scales(data)

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Emulator:
        """The emulator of a config; collective."""
        stepper = parts.stepper()
        return cls(stepper, parts.network, parts.data, parts.mesh, parts.recipe, parts.inputs)

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors of the network alone after 1 and 2 steps."""
        errors = {}
        with self.evaluating():
            state = self.validation[:, 0]
            for step, scales in enumerate(self._scales, start=1):
                state = self.network_on(state)
                squares = self.squares(state - self.validation[:, step]).sum(axis=1)
                errors[f"error_{step}"] = float((squares / scales).mean())
        return {"error": errors[f"error_{self.steps}"], **errors}

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Of the chain's last state against the data's."""
        last = self.step(self.network_on(trajectories[:, 0]))
        return self.pointwise_loss(last, trajectories[:, self.steps])

    def _validation_scales(self, data: TrajectoryDataset) -> list[NDArray[np.float64]]:
        """What the errors of each step are measured by: the squares of the state before it."""
        scales = [self.squares(self.validation[:, step]).sum(axis=1) for step in range(self.steps)]
        for step, squares in enumerate(scales):
            if not squares.all():
                sample = int(np.argmin(squares))
                raise DataError(
                    f"{dataset_name(data)}: validation/trajectories is zero everywhere in sample "
                    f"{sample}, step {step}, "
                    "and errors are measured relative to it: leave that sample out"
                )
        return scales
