"""The config of an amortised inversion: a network that maps measurements to a coefficient field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prdp_hpc.config.base import COMMON_SLOTS, SupervisedConfig
from prdp_hpc.config.inversion import ExperimentsSection, TruthSection
from prdp_hpc.config.models import Count, Section
from prdp_hpc.config.slots import Slot
from prdp_hpc.errors import InputError


class FieldSamplesSection(Section):
    """The random coefficient fields on which the network is trained and validated."""

    train: Count = 64
    """Number of fields for training."""
    validation: Count = 20
    """Number of fields for validation."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Random seed of the fields and of the noise in their measurements."""


class AmortisedInversionConfig(SupervisedConfig):
    """Train a network that computes coefficient fields from measurements."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *COMMON_SLOTS,
        Slot(("training", "optimizer"), "optimizers", "adam"),
        Slot(("training", "schedule"), "rates", "exponential"),
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
        Slot(("network", "kind"), "networks", "unet", whole=True),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inversion.amortised:AmortisedInversion"
    starting: ClassVar[Mapping[str, Any]] = {
        "truth": {"kind": "gaussian", "contrast": 10, "waves": 1.0},
        "experiments": {"count": 4, "wells": 8, "points": None},
        "data": {"train": 200, "validation": 20, "seed": 0},
        "training": {"epochs": 50, "batch_size": 10, "learning_rate": 1e-3},
    }
    starting_dimensions: ClassVar[tuple[int, ...]] = (2, 1, 3)
    starting_networks: ClassVar[tuple[str, str, str]] = ("unet", "unet", "unet")

    task: Literal["amortised_inversion"]
    """The task: train a network for field inversion."""
    truth: TruthSection = TruthSection()
    """Distribution of the random coefficient fields."""
    experiments: ExperimentsSection = ExperimentsSection(count=4)
    """Experiments of each sample; default: 4 experiments."""
    data: FieldSamplesSection = FieldSamplesSection()  # type: ignore[assignment]
    """Number and random seed of the coefficient fields."""

    @property
    def steps(self) -> int:
        """Number of time steps of a sample: 0, since the PDE is stationary."""
        return 0

    @property
    def generated_steps(self) -> int:
        """Number of time steps of a sample: 0, since the PDE is stationary."""
        return 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        own = self.experiments
        if own.file is not None or own.sides or own.reference_factor != 1:
            raise InputError(
                "experiments: an amortised inversion generates its fields and data, so the keys "
                "file, sides and reference_factor are not supported: leave them out"
            )
        if self.training.accumulate > 1:
            raise InputError(
                "training.accumulate: an amortised inversion does not divide batches: leave this "
                "key out, or give a smaller training.batch_size"
            )
        if self.network_inputs:
            raise InputError(
                "network_inputs: the network of an amortised inversion has no further inputs: "
                "leave this key out"
            )
        return self
