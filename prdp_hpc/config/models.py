"""The sections of a config, validated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

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
    check_level,
    looser,
)

_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; users mean the number. Pydantic takes True for 1; users do not
    mean that.
    """
    if isinstance(value, bool):
        raise InputError(f"must be a number, not {value!r}")
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _level(value: int | float) -> int | float:
    check_level(value)
    return value


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1, allow_inf_nan=False)]
Level = Annotated[int | float, BeforeValidator(_number), AfterValidator(_level)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Boundary = Literal["dirichlet", "neumann", "periodic"]


class Section(BaseModel):
    """A part of a config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GridSection(Section):
    """Points per axis, boundary and length (one for all axes, or a list)."""

    shape: tuple[Annotated[int, Field(ge=2, strict=True)], ...] = Field(min_length=1, max_length=3)
    """Points per axis; 1 to 3 axes. The last axis is x, the one before it y."""
    boundary: Boundary | tuple[Boundary, ...] = "dirichlet"
    """Of all axes, or one per axis: "dirichlet" (value 0), "neumann" (no flux) or "periodic"."""
    length: Positive | tuple[Positive, ...] = 1.0
    """Length of the domain; of all axes, or one per axis."""

    @property
    def boundaries(self) -> set[str]:
        """The kinds of boundary that some axis has."""
        return {self.boundary} if isinstance(self.boundary, str) else set(self.boundary)

    @model_validator(mode="after")
    def _one_per_axis(self) -> GridSection:
        for name in ("boundary", "length"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.shape):
                raise InputError(
                    f"{name} has {len(value)} entries for {len(self.shape)} axes; give one for "
                    "all, or one for each"
                )
        return self


class SolverSection(Section):
    """PETSc's names of method and preconditioner ("mg": geometric multigrid), any other PETSc
    options; how to differentiate; when to set up again, and where to start (docs/howto/solving.md).
    """

    ksp: str = "richardson"
    """PETSc's name of the Krylov method, or "steepest_descent"."""
    pc: str = "jacobi"
    """PETSc's name of the preconditioner. "mg" is geometric multigrid on the grid, "gamg" algebraic
    multigrid, "constraint" that of Navier–Stokes.
    """
    petsc_options: dict[str, str | int | float | bool | None] = {}
    """Any other PETSc options, without the dash. An option that no object reads is an error."""
    differentiation: Literal["implicit", "unrolled"] = "implicit"
    """"implicit": the backward pass solves the adjoint system. "unrolled": it differentiates the
    iterations of the forward solve.
    """
    lag_preconditioner: Count | Literal["auto"] | None = None
    """Set up the preconditioner for every n-th new matrix (n), or when solves have become 50 % more
    expensive ("auto"). null: for every new matrix.
    """
    initial_guess: Literal["zero", "state", "last"] = "zero"
    """Where a solve starts: "zero", "state" (the state before the step) or "last" (the last
    solution of the same sample).
    """

    @field_validator("ksp", "pc")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
            raise InputError(
                "must be PETSc's name of a method in small letters, as 'cg' or 'jacobi', not "
                f"{value!r}"
            )
        return value


class IterationLadderSection(Section):
    """Iterations start, start + step, …, stop."""

    kind: Literal["iterations"]
    """Fixed numbers of iterations."""
    start: Count = 1
    """First level, in iterations."""
    step: Count = 1
    """Iterations between two levels."""
    stop: Count = 60
    """Last level, in iterations."""

    @model_validator(mode="after")
    def _buildable(self) -> IterationLadderSection:
        self.build()
        return self

    def build(self) -> IterationLadder:
        """The ladder; `InputError` if stop is below start."""
        return IterationLadder(self.start, self.step, self.stop)


class ToleranceLadderSection(Section):
    """Tolerances start, start · factor, …, stop."""

    kind: Literal["tolerances"]
    """Relative tolerances."""
    start: Share = 1e-1
    """First level: relative residual at which a solve stops."""
    factor: Share = 1e-1
    """Ratio of two successive levels."""
    stop: Share = 1e-8
    """Last level."""

    @model_validator(mode="after")
    def _buildable(self) -> ToleranceLadderSection:
        self.build()
        return self

    def build(self) -> ToleranceLadder:
        """The ladder; `InputError` for numbers that do not descend within (0, 1)."""
        return ToleranceLadder(self.start, self.factor, self.stop)


class ExplicitLadderSection(Section):
    """Levels one by one: rising iterations or falling tolerances."""

    kind: Literal["levels"]
    """A list of levels."""
    levels: tuple[Level, ...]
    """Rising iterations (integers) or falling tolerances."""

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
    """Which schedule chooses the solver's level, and its parameters (see `Coordinator` and
    `GradientCoordinator`).

    `schedule`: "prdp", "gradient", "constant", "manual", or a class of the user's own, see
    `Schedule` and `ProbingSchedule`: made by `Name(ladder, adjoint_ladder, **keys)`. `theta` and
    `probe_share` are those of "gradient"; the thresholds and windows those of "prdp".
    """

    schedule: str = "prdp"
    """What chooses the level: "prdp", "gradient", "constant", "manual" or a class of your own."""
    ladder: LadderSection = IterationLadderSection(kind="iterations")
    """The levels of forward solves, from coarse to fine."""
    adjoint_ladder: LadderSection | None = None
    """The levels of adjoint solves; null: those of `ladder`."""
    adjoint_factor: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    """Share of the forward iterations that adjoint solves do (a tolerance is divided by it). Not
    together with `adjoint_ladder`.
    """
    step_threshold: Positive = 0.98
    """Of "prdp": a plateau is reached when the smoothed error falls to more than this share of its
    former value.
    """
    stop_threshold: Positive = 0.9
    """Of "prdp": refinement ends when the last one has not reduced the error to this share."""
    ema_window: Count = 6
    """Of "prdp": window of the exponential moving average, in epochs."""
    error_window: Count = 3
    """Of "prdp": epochs between the two errors that are compared."""
    theta: Share = 0.35
    """Of "gradient": permitted error of the gradient relative to its norm."""
    theta_noise: Positive = 1.0
    """Of "gradient": permitted error of the gradient relative to its standard deviation."""
    probe_share: Share = 0.1
    """Of "gradient": share of the inner iterations that measurements may take."""
    level: Level | None = None
    """The level of "constant" and of full refinement; null: the last level of the ladder."""
    manual: dict[int, Level] = {}
    """Of "manual": the level from each epoch on, e.g. {0: 1, 20: 5}."""

    @model_validator(mode="after")
    def _buildable(self) -> RefinementSection:
        if self.schedule == "manual" and 0 not in self.manual:
            raise InputError(
                "schedule manual needs refinement.manual with a level for epoch 0, as {0: 1, 20: 5}"
            )
        if self.adjoint_ladder is not None and self.adjoint_factor != 1:
            raise InputError(
                "adjoint_ladder and adjoint_factor both say what adjoint solves do: give one of "
                "them"
            )
        self.build()
        return self

    @property
    def schedule_name(self) -> str:
        """What the schedule is called in the run's files."""
        name = self.schedule if isinstance(self.schedule, str) else str(self.schedule.kind)
        return name.rpartition(":")[2]

    @property
    def full_level(self) -> int | float:
        """Full refinement: `level` if given, else the ladder's top."""
        ladder = self.ladder.build()
        return ladder.level(ladder.top) if self.level is None else self.level

    @property
    def full_adjoint_level(self) -> int | float:
        """Full refinement of adjoint solves: their ladder's top; without one, as forward, whatever
        `adjoint_factor`.
        """
        if self.adjoint_ladder is None:
            return self.full_level
        ladder = self.adjoint_ladder.build()
        return ladder.level(ladder.top)

    def build(self) -> Schedule:
        """The schedule; an adjoint ladder that is shorter stays at its top."""
        ladder, adjoint = self.ladder.build(), self._adjoint_levels()
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

    def _adjoint_levels(self) -> Ladder | None:
        if self.adjoint_ladder is not None:
            return self.adjoint_ladder.build()
        return (
            None
            if self.adjoint_factor == 1
            else LooserLadder(self.ladder.build(), self.adjoint_factor)
        )


class SupervisedTrainingSection(Section):
    """Adam with a learning rate that reaches `decay · learning_rate` after `decay_steps` steps.

    schedule: "exponential": `learning_rate · decay^(step / decay_steps)`, which goes on falling;
    "cosine": half a cosine wave, then constant. `precision` is the network's: bfloat16 keeps
    parameters, losses and everything else in float32.

    Of the user's own: optimizer: `Name(parameters, lr=learning_rate, **keys)`, e.g.
    `{kind: "torch.optim:SGD", momentum: 0.9}`; schedule: `Name(**keys)`, called with the number of
    steps done, returns a multiple of `learning_rate`; loss: `Name(**keys)`, called with prediction
    and target of one shape, returns the loss of each entry, in that shape.
    """

    epochs: Count = 100
    """Passes over the training samples."""
    batch_size: Count = 25
    """Samples per step, divided among the replicas."""
    learning_rate: Positive = 1e-3
    """Initial learning rate."""
    optimizer: str = "adam"
    """"adam" or a class of your own, e.g. {kind: "torch.optim:SGD", momentum: 0.9}."""
    loss: str = "squared"
    """"squared" or a class of your own."""
    schedule: str = "exponential"
    """Of the learning rate: "exponential", "cosine" (half a wave over `decay_steps`, then constant)
    or a class of your own.
    """
    decay: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    """Share of the learning rate that is left after `decay_steps` steps."""
    decay_steps: Count = 100
    """Steps over which the learning rate falls by the factor `decay`."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of the network. bfloat16 holds for its layers only. Solves are in double precision always."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints that are kept."""


class InverseTrainingSection(Section):
    """Gradient descent, one step an epoch."""

    epochs: Count = 180
    """Steps of gradient descent."""
    learning_rate: Positive = 275.0
    """Step size."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints that are kept."""


class InverseSection(Section):
    """Source `Σ_m θ_m sin(2π m x)`: the reference θ to be found, and where to start."""

    modes: Count = 1
    """Number of modes m of the source."""
    reference: tuple[Float, ...] = (2.0,)
    """The parameters θ to be found, one per mode."""
    start: tuple[Float, ...] = (5.0,)
    """The initial parameters, one per mode."""

    @model_validator(mode="after")
    def _one_per_mode(self) -> InverseSection:
        for name in ("reference", "start"):
            if len(getattr(self, name)) != self.modes:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} numbers for {self.modes} modes; give "
                    "one for each"
                )
        if not any(self.reference):
            raise InputError(
                "reference must not be all zeros: the error is measured relative to it"
            )
        return self


class CorrectorSection(Section):
    """Steps trained through; steps after which validation measures; the channel that the
    coordinator sees (null: the first).
    """

    unroll: Count = 2
    """Time steps that training differentiates through."""
    validation_steps: tuple[Count, ...] = Field(default=(1, 2, 5), min_length=1)
    """Time steps after which validation measures; the coordinator receives the error of the last.
    """
    measure: str | None = None
    """Channel whose error the coordinator receives, e.g. velocity_x; null: the first."""

    @field_validator("validation_steps")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise InputError(f"must rise from step to step, as [1, 2, 5], not {list(value)}")
        return value

    @property
    def steps(self) -> int:
        """Steps that trajectories must have."""
        return max(self.unroll, *self.validation_steps)


class DataSection(Section):
    """A file of trajectories and its format; or, with file null, how many to generate, from how
    many Fourier modes and which seed. `test` samples are evaluated at the end of a run, and nothing
    else sees them; a file has as many as it has.

    Navier–Stokes starts from noise instead of Fourier modes. format: "hdf5" (see
    `prdp_hpc.data.layout`), or a class of the user's own, see `TrajectoryDataset`.
    """

    file: str | None = None
    """File of trajectories; null: they are generated."""
    format: str = "hdf5"
    """"hdf5" or a reader of your own."""
    train: Count = 200
    """Generated trajectories for training."""
    validation: Count = 5
    """Generated trajectories for validation."""
    test: Annotated[int, Field(ge=0, strict=True)] = 0
    """Generated trajectories that are evaluated once, at the end of the run."""
    modes: Count = 5
    """Fourier modes per axis of generated initial states; not of Navier–Stokes."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seed of generated initial states."""

    @model_validator(mode="after")
    def _something_to_read(self) -> DataSection:
        if self.format != "hdf5" and self.file is None:
            raise InputError("file must be given: only the format hdf5 can be generated")
        return self


class CorrectorDataSection(DataSection):
    """Generated data are solved on a grid `reference_factor` times as fine, of which the points of
    `grid` are kept.
    """

    reference_factor: Count = 1
    """Generated data are solved on a grid that is finer by this factor per axis."""


class ParallelSection(Section):
    """How many ranks share one grid; the rest of the ranks are replicas.

    Null is 1 for an emulator or a corrector, and all ranks for an inverse problem, which has no
    samples to divide.
    """

    grid_ranks: Count | None = None
    """Ranks that share one grid; the other ranks are replicas. null: 1 for tasks with samples, all
    ranks for an inverse problem.
    """
