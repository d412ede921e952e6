"""The section `refinement` of a config: the schedule of the solve accuracy and its ladders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from prdp_hpc.config.models import Count, Level, Positive, Section, Share, as_number
from prdp_hpc.config.slots import made
from prdp_hpc.errors import InputError
from prdp_hpc.refinement import (
    ConstantSchedule,
    Coordinator,
    ExplicitLadder,
    GradientCoordinator,
    IterationLadder,
    Ladder,
    LooserLadder,
    ManualSchedule,
    Schedule,
    ToleranceLadder,
    looser,
)


class IterationLadderSection(Section):
    """Levels are numbers of iterations: start, start + step, …, stop."""

    kind: Literal["iterations"]
    """Type of the ladder: numbers of iterations with equal steps."""
    start: Count = 1
    """Iterations of the coarsest level."""
    step: Count = 1
    """Additional iterations of each finer level."""
    stop: Count = 60
    """Iterations of the finest level."""

    @model_validator(mode="after")
    def _buildable(self) -> IterationLadderSection:
        self.build()
        return self

    def build(self) -> IterationLadder:
        """The ladder; `InputError` if stop is below start."""
        return IterationLadder(self.start, self.step, self.stop)


class ToleranceLadderSection(Section):
    """Levels are relative tolerances: start, start · factor, …, stop."""

    kind: Literal["tolerances"]
    """Type of the ladder: relative tolerances with a constant ratio."""
    start: Share = 1e-1
    """Tolerance of the coarsest level."""
    factor: Share = 1e-1
    """Ratio of the tolerances of two neighbouring levels."""
    stop: Share = 1e-8
    """Tolerance of the finest level."""

    @model_validator(mode="after")
    def _buildable(self) -> ToleranceLadderSection:
        self.build()
        return self

    def build(self) -> ToleranceLadder:
        """The ladder; `InputError` for tolerances that do not decrease within (0, 1)."""
        return ToleranceLadder(self.start, self.factor, self.stop)


class ExplicitLadderSection(Section):
    """A list of levels: increasing iterations or decreasing tolerances."""

    kind: Literal["levels"]
    """Type of the ladder: a list of levels."""
    levels: tuple[Level, ...]
    """Iterations (integers, increasing) or relative tolerances (decreasing)."""

    @field_validator("levels")
    @classmethod
    def _refining(cls, value: tuple[int | float, ...]) -> tuple[int | float, ...]:
        ExplicitLadder(value)
        return value

    def build(self) -> ExplicitLadder:
        """The ladder; `InputError` for levels that do not refine."""
        return ExplicitLadder(self.levels)


LadderSection = Annotated[
    Annotated[IterationLadderSection, Tag("iterations")]
    | Annotated[ToleranceLadderSection, Tag("tolerances")]
    | Annotated[ExplicitLadderSection, Tag("levels")],
    Discriminator("kind"),
]


class RefinementSection(Section):
    """The schedule that chooses the level of each epoch (see `Coordinator` and
    `GradientCoordinator`).

    `schedule` is "prdp", "gradient", "constant", "manual", or a user-defined class (see `Schedule`
    and `ProbingSchedule`), created by `Name(ladder, adjoint_ladder, **keys)`.
    """

    schedule: str = "prdp"
    """Schedule: prdp, gradient, constant, manual, or a class in user code."""
    ladder: LadderSection = IterationLadderSection(kind="iterations")
    """Levels of forward solves, coarsest first; default: 1 to 60 iterations."""
    adjoint_ladder: LadderSection | None = None
    """Levels of adjoint solves; null: those of forward solves, see `adjoint_factor`."""
    adjoint_factor: Annotated[float, BeforeValidator(as_number), Field(gt=0, le=1)] = 1.0
    """Ratio of adjoint to forward iterations; tolerances are divided by it."""
    step_threshold: Positive = 0.98
    """prdp: error ratio above which the smoothed error is on a plateau (τ_step)."""
    stop_threshold: Positive = 0.9
    """prdp: error ratio above which a refinement has not helped (τ_stop)."""
    ema_window: Count = 6
    """prdp: window of the exponential moving average of errors, in epochs."""
    error_window: Count = 3
    """prdp: epochs between the two smoothed errors that are compared."""
    theta: Share = 0.35
    """gradient: permitted solver error of the gradient relative to the gradient."""
    theta_noise: Positive = 1.0
    """gradient: permitted solver error of the gradient relative to its sampling noise."""
    probe_share: Share = 0.1
    """gradient: maximum share of iterations that gradient measurements may use."""
    level: Level | None = None
    """Level of constant and full refinement; null: the finest of the ladder."""
    manual: dict[int, Level] = Field(default_factory=dict)
    """manual: levels by the epoch at which they start, e.g. {0: 1, 20: 5}."""

    @model_validator(mode="after")
    def _buildable(self) -> RefinementSection:
        if self.schedule == "manual" and 0 not in self.manual:
            raise InputError(
                "schedule manual needs refinement.manual with a level for epoch 0, e.g. "
                "{0: 1, 20: 5}"
            )
        if self.adjoint_ladder is not None and self.adjoint_factor != 1:
            raise InputError(
                "adjoint_ladder and adjoint_factor both set the level of adjoint solves: give one "
                "of them"
            )
        self.build()
        return self

    @property
    def schedule_name(self) -> str:
        """Name of the schedule in the files of a run."""
        name = self.schedule if isinstance(self.schedule, str) else str(self.schedule.kind)
        return name.rpartition(":")[2]

    @property
    def full_level(self) -> int | float:
        """The level of full refinement: `level` if given, otherwise the finest of the ladder."""
        ladder = self.ladder.build()
        return ladder.level(ladder.top) if self.level is None else self.level

    @property
    def full_adjoint_level(self) -> int | float:
        """The adjoint level of full refinement: the finest of `adjoint_ladder`. Without this ladder
        it is that of forward solves, independent of `adjoint_factor`.
        """
        if self.adjoint_ladder is None:
            return self.full_level
        ladder = self.adjoint_ladder.build()
        return ladder.level(ladder.top)

    def build(self) -> Schedule:
        """The schedule; a shorter adjoint ladder stays at its finest level."""
        ladder = self.ladder.build()
        adjoint: Ladder | None = None
        if self.adjoint_ladder is not None:
            adjoint = self.adjoint_ladder.build()
        elif self.adjoint_factor != 1:
            adjoint = LooserLadder(ladder, self.adjoint_factor)
        if self.schedule == "constant":
            return ConstantSchedule(self.full_level, self.full_adjoint_level)
        if self.schedule == "manual":
            adjoint_levels = {
                start: looser(level, self.adjoint_factor) for start, level in self.manual.items()
            }
            return ManualSchedule(self.manual, adjoint_levels)
        if self.schedule == "gradient":
            return GradientCoordinator(
                ladder, adjoint, self.theta, self.theta_noise, self.probe_share
            )
        if self.schedule != "prdp":
            kind, keys = made("schedules", self.schedule)
            own: Schedule = kind(ladder, adjoint, **keys)
            return own
        return Coordinator(
            ladder,
            self.step_threshold,
            self.stop_threshold,
            self.ema_window,
            self.error_window,
            adjoint,
        )
