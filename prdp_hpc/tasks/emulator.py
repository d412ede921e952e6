"""The emulator: a network that learns one step of a PDE from a chain with the PDE's own solver."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prdp_hpc.data import TEST, DataError, TrajectoryDataset
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

    Parameters and example: see `SupervisedTask` and docs/howto/own_components.md.

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
        self._scales = self._checked_scales(data, self.validation, "validation")
        if self._test is not None:
            self._checked_scales(data, self._test, TEST)

    @classmethod
    def from_config(cls, section: Any, parts: Parts) -> Emulator:
        """The emulator of a config; collective."""
        stepper = parts.stepper()
        return cls(stepper, parts.network, parts.data, parts.mesh, parts.recipe, parts.inputs)

    def validate(self) -> dict[str, Any]:
        """The normalised squared errors of the network alone after 1 and 2 steps."""
        with self.evaluating():
            errors = self._errors(self.validation, self._scales)
        return {name: float(found.mean()) for name, found in errors.items()}

    def sample_errors(self, trajectories: Tensor) -> dict[str, NDArray[np.float64]]:
        """The normalised squared errors of the network alone after 1 and 2 steps."""
        return self._errors(trajectories, self._scales_of(trajectories))

    def local_loss(self, trajectories: Tensor) -> Tensor:
        """Of the chain's last state against the data's."""
        last = self.step(self.network_on(trajectories[:, 0]))
        return self.pointwise_loss(last, trajectories[:, self.steps])

    def _errors(
        self, trajectories: Tensor, scales: list[NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """The errors of each trajectory, in units of the scales of each step."""
        errors, state = {}, trajectories[:, 0]
        for step, scale in enumerate(scales, start=1):
            # A replica without samples has nothing to evaluate.
            state = self.network_on(state) if state.shape[0] else state
            squares = self.squares(state - trajectories[:, step]).sum(axis=1)
            errors[f"error_{step}"] = squares / scale
        return {"error": errors[f"error_{self.steps}"], **errors}

    def _scales_of(self, trajectories: Tensor) -> list[NDArray[np.float64]]:
        """What the errors of each step are measured by: the squares of the state before it."""
        return [self.squares(trajectories[:, step]).sum(axis=1) for step in range(self.steps)]

    def _checked_scales(
        self, data: TrajectoryDataset, trajectories: Tensor, group: str
    ) -> list[NDArray[np.float64]]:
        scales = self._scales_of(trajectories)
        for step, squares in enumerate(scales):
            if not squares.all():
                sample = int(np.argmin(squares))
                raise DataError(
                    f"{dataset_name(data)}: {group}/trajectories is zero everywhere in sample "
                    f"{sample}, step {step}, "
                    "and errors are measured relative to it: leave that sample out"
                )
        return scales
