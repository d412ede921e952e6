"""The sections of a field inversion's config."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from prdp_hpc.config.models import Count, Float, Positive, Section, Share, _number
from prdp_hpc.errors import InputError

Above1 = Annotated[float, BeforeValidator(_number), Field(gt=1, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


class TruthSection(Section):
    """The synthetic field that is to be found, see `prdp_hpc.tasks.inversion.truth`; only where no
    file has measurements.
    """

    kind: Literal["gaussian", "channels"] = "gaussian"
    contrast: Above1 = 100.0
    waves: Positive = 1.5
    modes: Count = 64


class WellSection(Section):
    """A well: where it is, in units of the domain's length, and what it pumps in."""

    position: tuple[Float, ...]
    rate: Float = 1.0


class SideValuesSection(Section):
    """The values of one side in each experiment; its kind of condition is that of `physics`."""

    axis: Annotated[int, Field(ge=0, strict=True)]
    end: Literal["low", "high"]
    values: tuple[Float, ...]


class ExperimentsSection(Section):
    """What was done and measured: from a file, or synthetic.

    `file` may have any of `prdp_hpc.tasks.inversion.files.NAMES`; what it lacks is made as these
    keys say. `wells`: how many random ones each experiment has, or the wells of each. `points`: how
    many sensors per axis, on a lattice; or their positions; null: the whole solution is measured.
    `noise` relative to the root mean square of the data. Synthetic data are solved for on a grid
    `reference_factor` times as fine.
    """

    file: str | None = None
    count: Count | None = None
    wells: Count | tuple[tuple[WellSection, ...], ...] = 8
    points: Count | tuple[tuple[Float, ...], ...] | None = 16
    noise: Positive = 0.01
    reference_factor: Count = 1
    sides: tuple[SideValuesSection, ...] = ()

    @property
    def number(self) -> int:
        """How many experiments there are, where no file says."""
        if not isinstance(self.wells, int):
            return len(self.wells)
        return 10 if self.count is None else self.count

    @model_validator(mode="after")
    def _agreeing(self) -> ExperimentsSection:
        if not isinstance(self.wells, int) and self.count not in (None, len(self.wells)):
            raise InputError(
                f"count is {self.count}, but wells are given for {len(self.wells)} experiments: "
                "leave count out"
            )
        for side in self.sides:
            if self.file is None and len(side.values) != self.number:
                raise InputError(
                    f"sides: axis {side.axis} {side.end} has {len(side.values)} values for "
                    f"{self.number} experiments; give one for each"
                )
        return self


class HeldOutSection(Section):
    """What validation measures: the last `experiments`, which are not fitted; and of the others the
    share `points` of the sensors. Its solves have a relative tolerance of `tolerance`.
    """

    experiments: Annotated[int, Field(ge=0, strict=True)] = 2
    points: Share | None = None
    tolerance: Share = 1e-6

    @model_validator(mode="after")
    def _one_kind(self) -> HeldOutSection:
        if self.experiments and self.points is not None:
            raise InputError(
                "experiments and points: hold out either whole experiments or a share of the "
                "sensors; give experiments=0 with points"
            )
        return self


class FieldSection(Section):
    """One number per point, from `start` everywhere."""

    kind: Literal["field"]
    start: Float = 0.0


class CoordinateNetworkSection(Section):
    """A network of the coordinates, see `prdp_hpc.tasks.inversion.unknown.CoordinateNetwork`."""

    kind: Literal["network"]
    features: Count = 64
    bandwidth: Positive = 2.0
    hidden: tuple[Count, ...] = Field(default=(64, 64), min_length=1)


UnknownSection = Annotated[
    Annotated[FieldSection, Tag("field")] | Annotated[CoordinateNetworkSection, Tag("network")],
    Discriminator("kind"),
]


class H1Section(Section):
    """Smooth fields, see `prdp_hpc.tasks.inversion.regularisation.H1Regularisation`."""

    kind: Literal["h1"]
    weight: Weight = 1.0


class TotalVariationSection(Section):
    """Fields with jumps, see `prdp_hpc.tasks.inversion.regularisation.TotalVariation`."""

    kind: Literal["tv"]
    weight: Weight = 1.0
    smoothing: Positive = 0.1


RegularisationSection = Annotated[
    Annotated[H1Section, Tag("h1")] | Annotated[TotalVariationSection, Tag("tv")],
    Discriminator("kind"),
]


class LBFGSSection(Section):
    """L-BFGS: pairs of changes that it keeps, and evaluations of a line search at most."""

    component: ClassVar[str] = "prdp_hpc.tasks.inversion.lbfgs:LBFGS"

    history: Count = 10
    evaluations: Count = 20


class InversionTrainingSection(Section):
    """`epochs` of `steps` steps of the optimiser each.

    optimizer: "adam", "lbfgs" (see `LBFGSSection` and `prdp_hpc.tasks.inversion.lbfgs`), or a class
    of the user's own that works entry by entry, as those of torch: `Name(parameters,
    lr=learning_rate, **keys)`. schedule, decay, decay_steps: as for networks, counted in steps; not
    for L-BFGS.
    """

    epochs: Count = 40
    steps: Count = 5
    learning_rate: Positive = 0.1
    optimizer: str = "adam"
    schedule: str = "exponential"
    decay: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    decay_steps: Count = 100
    checkpoint_every: Count = 1
    keep_checkpoints: Count = 2
