"""The configs of the inverse problems: few parameters of a source, or a coefficient field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from prdp_hpc.config.base import COMMON_SLOTS, Experiment
from prdp_hpc.config.inversion import (
    ExperimentsSection,
    FieldSection,
    H1Section,
    HeldOutSection,
    InversionTrainingSection,
    RegularisationSection,
    TruthSection,
    UnknownSection,
)
from prdp_hpc.config.models import InverseSection
from prdp_hpc.config.slots import Slot
from prdp_hpc.config.training import InverseTrainingSection
from prdp_hpc.errors import InputError


class InverseConfig(Experiment):
    """Find the parameters of a source term from a solution of the PDE."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *COMMON_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inverse:Inverse"
    default_seeds: ClassVar[int] = 1  # The problem is deterministic.
    divides_samples: ClassVar[bool] = False
    error_name: ClassVar[str] = "parameter error"
    starting: ClassVar[Mapping[str, Any]] = {
        "refinement": {"ladder": {"start": 4, "step": 2, "stop": 60}},
        "training": {"epochs": 100, "learning_rate": 550},
        "inverse": {"modes": 1, "reference": [2.0], "start": [5.0]},
    }
    starting_dimensions: ClassVar[tuple[int, ...]] = (1,)

    task: Literal["inverse"]
    """The task: find the parameters of a source term."""
    training: InverseTrainingSection = InverseTrainingSection()
    """Number of epochs, learning rate and checkpoints."""
    inverse: InverseSection = InverseSection()
    """The source term, its true parameters and the initial guess."""

    @property
    def task_name(self) -> str:
        """Name of the task in the files of a run."""
        return self.task

    @model_validator(mode="after")
    def _one_dimension(self) -> InverseConfig:
        if len(self.grid.shape) != 1:
            raise InputError(
                "the inverse problem is one-dimensional: grid.shape must have 1 entry, not "
                f"{len(self.grid.shape)}"
            )
        return self


class FieldInversionConfig(Experiment):
    """Find a coefficient field from observations."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *COMMON_SLOTS,
        Slot(("training", "optimizer"), "inversion_optimizers", "adam"),
        Slot(("training", "schedule"), "rates", "exponential"),
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inversion.task:FieldInversion"
    default_seeds: ClassVar[int] = 1
    starting: ClassVar[Mapping[str, Any]] = {
        "truth": {"kind": "gaussian", "contrast": 10, "waves": 1.0},
        "experiments": {"count": 6, "wells": 8, "points": 8, "noise": 0.01},
        "validation": {"experiments": 2},
        "regularisation": {"kind": "h1", "weight": 1.0},
        "training": {"epochs": 20, "steps": 5, "learning_rate": 0.1},
    }
    starting_dimensions: ClassVar[tuple[int, ...]] = (2, 1, 3)

    task: Literal["field_inversion"]
    """The task: find a coefficient field."""
    truth: TruthSection = TruthSection()
    """The synthetic field to be found, for experiments without measured data."""
    experiments: ExperimentsSection = ExperimentsSection()
    """Sources and measurements."""
    validation: HeldOutSection = HeldOutSection()
    """Measurements that are not fitted, but used for the validation error."""
    unknown: UnknownSection = FieldSection(kind="field")
    """Representation of the field; default: one value per grid point."""
    regularisation: RegularisationSection | None = H1Section(kind="h1")
    """Regularisation of the field; default: H1; null: none."""
    training: InversionTrainingSection = InversionTrainingSection()
    """Number of epochs, optimiser and checkpoints."""

    @property
    def task_name(self) -> str:
        """Name of the task in the files of a run."""
        return self.task

    @model_validator(mode="after")
    def _enough_experiments(self) -> Self:
        if self.experiments.file is None and self.validation.experiments >= self.experiments.number:
            raise InputError(
                f"validation.experiments={self.validation.experiments} leaves none of the "
                f"{self.experiments.number} experiments to be fitted: give a smaller number"
            )
        return self
