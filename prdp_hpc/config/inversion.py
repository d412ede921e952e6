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
    """The synthetic field: "gaussian" (a smooth random field) or "channels" (two values)."""
    contrast: Above1 = 100.0
    """Ratio of a high and a low permeability of the field."""
    waves: Positive = 1.5
    """Standard deviation of the wave numbers along each axis, in waves per length."""
    modes: Count = 64
    """Number of random waves that the field is the sum of."""


class WellSection(Section):
    """A well: where it is, in units of the domain's length, and what it pumps in."""

    position: tuple[Float, ...]
    """Coordinates, in units of the domain's length."""
    rate: Float = 1.0
    """Rate of injection; negative for extraction."""


class SideValuesSection(Section):
    """The values of one side in each experiment; its kind of condition is that of `physics`."""

    axis: Annotated[int, Field(ge=0, strict=True)]
    """Axis of the side."""
    end: Literal["low", "high"]
    """End of the axis."""
    values: tuple[Float, ...]
    """One value per experiment."""


class ExperimentsSection(Section):
    """What was done and measured: from a file, or synthetic.

    `file` may have any of `prdp_hpc.tasks.inversion.files.NAMES`; what it lacks is made as these
    keys say. `wells`: how many random ones each experiment has, or the wells of each. `points`: how
    many sensors per axis, on a lattice; or their positions; null: the whole solution is measured.
    `noise` relative to the root mean square of the data. Synthetic data are solved for on a grid
    `reference_factor` times as fine.
    """

    file: str | None = None
    """HDF5 or .npz file with fields and measurements; null: synthetic."""
    count: Count | None = None
    """Number of synthetic experiments; null: 10, or as many as `wells` has entries."""
    wells: Count | tuple[tuple[WellSection, ...], ...] = 8
    """Number of random wells per experiment, or the wells of each experiment."""
    points: Count | tuple[tuple[Float, ...], ...] | None = 16
    """Sensors per axis on a lattice, or their positions. null: the whole solution is measured."""
    noise: Positive = 0.01
    """Standard deviation of the errors, relative to the root mean square of the data."""
    reference_factor: Count = 1
    """Synthetic data are solved on a grid that is finer by this factor per axis."""
    sides: tuple[SideValuesSection, ...] = ()
    """Values on sides that differ between experiments."""

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
    """Number of experiments that are held out."""
    points: Share | None = None
    """Share of the sensors that is held out, with `experiments: 0`."""
    tolerance: Share = 1e-6
    """Relative tolerance of the solves of validation."""

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
    """One number per grid point."""
    start: Float = 0.0
    """The initial ln κ."""


class CoordinateNetworkSection(Section):
    """A network of the coordinates, see `prdp_hpc.tasks.inversion.unknown.CoordinateNetwork`."""

    kind: Literal["network"]
    """A network of the coordinates."""
    features: Count = 64
    """Number of Fourier features."""
    bandwidth: Positive = 2.0
    """Standard deviation of the frequencies of the Fourier features."""
    hidden: tuple[Count, ...] = Field(default=(64, 64), min_length=1)
    """Widths of the hidden layers."""


UnknownSection = Annotated[
    Annotated[FieldSection, Tag("field")] | Annotated[CoordinateNetworkSection, Tag("network")],
    Discriminator("kind"),
]


class H1Section(Section):
    """Smooth fields, see `prdp_hpc.tasks.inversion.regularisation.H1Regularisation`."""

    kind: Literal["h1"]
    """For smooth fields: `weight / 2 ∫ |∇m|²`."""
    weight: Weight = 1.0
    """Weight of the integral over the domain."""


class TotalVariationSection(Section):
    """Fields with jumps, see `prdp_hpc.tasks.inversion.regularisation.TotalVariation`."""

    kind: Literal["tv"]
    """For fields with jumps: `weight ∫ (√(|∇m|² + smoothing²) − smoothing)`."""
    weight: Weight = 1.0
    """Weight of the integral over the domain."""
    smoothing: Positive = 0.1
    """Norm of the gradient below which the integrand is quadratic."""


RegularisationSection = Annotated[
    Annotated[H1Section, Tag("h1")] | Annotated[TotalVariationSection, Tag("tv")],
    Discriminator("kind"),
]


class LBFGSSection(Section):
    """L-BFGS: pairs of changes that it keeps, and evaluations of a line search at most."""

    component: ClassVar[str] = "prdp_hpc.tasks.inversion.lbfgs:LBFGS"

    history: Count = 10
    """Pairs of changes that are kept."""
    evaluations: Count = 20
    """Evaluations of one line search at most."""


class InversionTrainingSection(Section):
    """`epochs` of `steps` steps of the optimiser each.

    optimizer: "adam", "lbfgs" (see `LBFGSSection` and `prdp_hpc.tasks.inversion.lbfgs`), or a class
    of the user's own that works entry by entry, as those of torch: `Name(parameters,
    lr=learning_rate, **keys)`. schedule, decay, decay_steps: as for networks, counted in steps; not
    for L-BFGS.
    """

    epochs: Count = 40
    """Number of epochs; validation follows each."""
    steps: Count = 5
    """Steps of the optimiser per epoch."""
    learning_rate: Positive = 0.1
    """Initial learning rate."""
    optimizer: str = "adam"
    """"adam", "lbfgs" or a class of your own."""
    schedule: str = "exponential"
    """Of the learning rate: "exponential", "cosine" or a class of your own; not of L-BFGS."""
    decay: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    """Share of the learning rate that is left after `decay_steps` steps."""
    decay_steps: Count = 100
    """Steps over which the learning rate falls by the factor `decay`."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints that are kept."""
