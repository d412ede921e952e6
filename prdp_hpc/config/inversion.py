"""The sections of the config of a field inversion."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from prdp_hpc.config.clock import CheckpointingSection
from prdp_hpc.config.models import Count, Float, Positive, Section, Share, as_number
from prdp_hpc.errors import InputError

Above1 = Annotated[float, BeforeValidator(as_number), Field(gt=1, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(as_number), Field(ge=0, allow_inf_nan=False)]


class TruthSection(Section):
    """The synthetic coefficient field, for data that are not measured; see
    `prdp_hpc.tasks.inversion.truth`.
    """

    kind: Literal["gaussian", "channels"] = "gaussian"
    """Type of the random field: smooth ("gaussian"), or with channels of high κ."""
    contrast: Above1 = 100.0
    """Ratio of high to low values of κ, without unit; above 1."""
    waves: Positive = 1.5
    """Standard deviation of the wave numbers, in waves per length of the domain."""
    modes: Count = 64
    """Number of random plane waves that are added."""


class WellSection(Section):
    """A well, i.e. a point source."""

    position: tuple[Float, ...]
    """Coordinates, one per axis, from 0 to `grid.length` and in the same unit."""
    rate: Float = 1.0
    """Source strength: the integral of the source; negative: extraction."""


class SideValuesSection(Section):
    """Boundary values of one side by experiment; the type of the condition is that of `physics`."""

    axis: Annotated[int, Field(ge=0, strict=True)]
    """Axis of the side, from 0 in the order of `grid.shape`."""
    end: Literal["low", "high"]
    """End of the axis."""
    values: tuple[Float, ...]
    """Value of the boundary condition in each experiment."""


class ExperimentsSection(Section):
    """Sources and measurements, from a file or synthetic.

    A file may contain any of `prdp_hpc.tasks.inversion.files.NAMES`; the missing ones are generated
    from the other keys.
    """

    file: str | None = None
    """HDF5 or NumPy file with fields, sources or measurements; null: all synthetic."""
    count: Count | None = None
    """Number of experiments; null: 10, or the number in `wells` or in the file."""
    wells: Count | tuple[tuple[WellSection, ...], ...] = 8
    """Number of random wells per experiment, or a list of wells for each experiment."""
    points: Count | tuple[tuple[Float, ...], ...] | None = 16
    """Number of sensors per axis, or their coordinates; null: the whole solution."""
    noise: Positive = 0.01
    """Standard deviation of the noise relative to the root mean square of the data."""
    reference_factor: Count = 1
    """Refinement factor of the grid on which synthetic data are computed."""
    sides: tuple[SideValuesSection, ...] = ()
    """Boundary values that differ between the experiments."""

    @property
    def number(self) -> int:
        """Number of experiments, if no file determines it."""
        if not isinstance(self.wells, int):
            return len(self.wells)
        return 10 if self.count is None else self.count

    @model_validator(mode="after")
    def _agreeing(self) -> ExperimentsSection:
        if not isinstance(self.wells, int) and self.count not in (None, len(self.wells)):
            raise InputError(
                f"count is {self.count}, but wells has {len(self.wells)} experiments: leave out "
                "count"
            )
        for side in self.sides:
            if self.file is None and len(side.values) != self.number:
                raise InputError(
                    f"sides: axis {side.axis} {side.end} has {len(side.values)} values for "
                    f"{self.number} experiments; give one for each"
                )
        return self


class HeldOutSection(Section):
    """The measurements that are held out for validation, i.e. not fitted."""

    experiments: Annotated[int, Field(ge=0, strict=True)] = 2
    """Number of experiments to hold out, the last ones."""
    points: Share | None = None
    """Share of the sensors to hold out in each experiment; null: none."""
    tolerance: Share = 1e-6
    """Relative tolerance of the solves in validation."""

    @model_validator(mode="after")
    def _one_kind(self) -> HeldOutSection:
        if self.experiments and self.points is not None:
            raise InputError(
                "experiments and points: hold out either whole experiments or a share of the "
                "sensors; give experiments=0 with points"
            )
        return self


class FieldSection(Section):
    """The unknown m = ln κ has one value per grid point."""

    kind: Literal["field"]
    """Representation of m = ln κ: one value per grid point."""
    start: Float = 0.0
    """Initial value of m = ln κ at all points."""


class CoordinateNetworkSection(Section):
    """The unknown m = ln κ is a network of the coordinates; see
    `prdp_hpc.tasks.inversion.unknown.CoordinateNetwork`.
    """

    kind: Literal["network"]
    """Representation of m = ln κ: a network of the coordinates."""
    features: Count = 64
    """Number of random Fourier features."""
    bandwidth: Positive = 2.0
    """Standard deviation of the features, in waves per length of the domain."""
    hidden: tuple[Count, ...] = Field(default=(64, 64), min_length=1)
    """Widths of the hidden layers."""


UnknownSection = Annotated[
    Annotated[FieldSection, Tag("field")] | Annotated[CoordinateNetworkSection, Tag("network")],
    Discriminator("kind"),
]


class H1Section(Section):
    """Regularisation for smooth fields; see
    `prdp_hpc.tasks.inversion.regularisation.H1Regularisation`.
    """

    kind: Literal["h1"]
    """Type of the regularisation: the squared gradient, for smooth fields."""
    weight: Weight = 1.0
    """Weight of the regularisation in the loss; at least 0."""


class TotalVariationSection(Section):
    """Regularisation for fields with jumps; see
    `prdp_hpc.tasks.inversion.regularisation.TotalVariation`.
    """

    kind: Literal["tv"]
    """Type of the regularisation: total variation, for fields with jumps."""
    weight: Weight = 1.0
    """Weight of the regularisation in the loss; at least 0."""
    smoothing: Positive = 0.1
    """Gradient norm below which the norm is smoothed, in units of m per length."""


RegularisationSection = Annotated[
    Annotated[H1Section, Tag("h1")] | Annotated[TotalVariationSection, Tag("tv")],
    Discriminator("kind"),
]


class LBFGSSection(Section):
    """The keys of the optimiser L-BFGS."""

    component: ClassVar[str] = "prdp_hpc.tasks.inversion.lbfgs:LBFGS"

    history: Count = 10
    """Number of pairs of steps and gradient changes that approximate the Hessian."""
    evaluations: Count = 20
    """Maximum number of evaluations per line search."""


class InversionTrainingSection(CheckpointingSection):
    """Optimisation of the field.

    `optimizer` is "adam", "lbfgs" (see `LBFGSSection` and `prdp_hpc.tasks.inversion.lbfgs`), or a
    user-defined class that updates each entry separately like those of torch:
    `Name(parameters, lr=learning_rate, **keys)`. `schedule`, `decay` and `decay_steps` have the
    same meaning as for networks and count steps; L-BFGS does not use them.
    """

    epochs: Count = 40
    """Number of epochs; validation follows each epoch."""
    steps: Count = 5
    """Steps of the optimiser per epoch."""
    learning_rate: Positive = 0.1
    """Initial learning rate."""
    optimizer: str = "adam"
    """Optimiser: adam, lbfgs, or a class in user code."""
    schedule: str = "exponential"
    """Schedule of the learning rate: exponential, cosine, or in user code."""
    decay: Annotated[float, BeforeValidator(as_number), Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate after `decay_steps` steps; 1: constant."""
    decay_steps: Count = 100
    """Number of steps after which the rate is `decay · learning_rate`."""
