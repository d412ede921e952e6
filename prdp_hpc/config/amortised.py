"""The config of an amortised inversion."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prdp_hpc.config.experiment import _SCHEDULE, SupervisedConfig
from prdp_hpc.config.inversion import ExperimentsSection, TruthSection
from prdp_hpc.config.models import Count, Section
from prdp_hpc.config.slots import Slot
from prdp_hpc.errors import InputError


class FieldSamplesSection(Section):
    """How many random fields are drawn for training and for validation, and from which seed."""

    train: Count = 64
    """Random fields for training."""
    validation: Count = 20
    """Random fields for validation."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seed of the random fields."""


class AmortisedInversionConfig(SupervisedConfig):
    """A network finds coefficient fields from measurements."""

    slots: ClassVar[tuple[Slot, ...]] = (
        _SCHEDULE,
        Slot(("training", "optimizer"), "optimizers", "adam"),
        Slot(("training", "schedule"), "rates", "exponential"),
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
        Slot(("network", "kind"), "networks", "unet", whole=True),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inversion.amortised:AmortisedInversion"

    task: Literal["amortised_inversion"]
    """A network maps measurements to coefficient fields."""
    truth: TruthSection = TruthSection()
    """The random fields."""
    experiments: ExperimentsSection = ExperimentsSection(count=4)
    """The experiments, the same for every field."""
    data: FieldSamplesSection = FieldSamplesSection()  # type: ignore[assignment]
    """How many random fields there are."""

    @property
    def steps(self) -> int:
        """There are no time steps."""
        return 0

    @model_validator(mode="after")
    def _possible(self) -> Self:
        own = self.experiments
        if own.file is not None or own.sides or own.reference_factor != 1:
            raise InputError(
                "experiments: an amortised inversion makes its own fields and data: file, sides "
                "and reference_factor are not for it"
            )
        if self.network_inputs:
            raise InputError("network_inputs: the network of an amortised inversion gets none")
        return self
