"""Validated types of numbers, and the sections of a config that most tasks share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from prdp_hpc.errors import InputError
from prdp_hpc.refinement import check_level

_FLOAT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _number(value: Any) -> Any:
    """Accept `1e-3`, which YAML 1.1 reads as text, and reject booleans, which pydantic would accept
    as 0 and 1.
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
    """Base of the sections of a config; unknown keys are errors.

    The string below a field is its description, e.g. in the reference of the config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GridSection(Section):
    """A structured grid in 1 to 3 dimensions."""

    shape: tuple[Annotated[int, Field(ge=2, strict=True)], ...] = Field(min_length=1, max_length=3)
    """Number of points per axis, for 1 to 3 axes; the last axis is x."""
    boundary: Boundary | tuple[Boundary, ...] = "dirichlet"
    """Boundary type, one or per axis: dirichlet (0), neumann (no flux), periodic."""
    length: Positive | tuple[Positive, ...] = 1.0
    """Length of the domain for all axes or per axis, in units of length."""

    @property
    def boundaries(self) -> set[str]:
        """The boundary types of all axes."""
        return {self.boundary} if isinstance(self.boundary, str) else set(self.boundary)

    @model_validator(mode="after")
    def _one_per_axis(self) -> GridSection:
        for name in ("boundary", "length"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.shape):
                raise InputError(
                    f"{name} has {len(value)} entries for {len(self.shape)} axes; give one for "
                    "all axes, or one per axis"
                )
        return self


class SolverSection(Section):
    """The linear solver and its derivative; see docs/howto/solving.md."""

    ksp: str = "richardson"
    """PETSc's name of the method, e.g. cg; also steepest_descent, batched_cg etc."""
    pc: str = "jacobi"
    """PETSc's name of the preconditioner, e.g. gamg, lu; mg: geometric multigrid."""
    petsc_options: dict[str, str | int | float | bool | None] = {}
    """Further PETSc options without the leading dash; unused options are errors."""
    differentiation: Literal["implicit", "unrolled"] = "implicit"
    """Gradients by an adjoint solve (implicit) or through the iterations (unrolled)."""
    lag_preconditioner: Count | Literal["auto"] | None = None
    """Set up the preconditioner every n matrices, or on slow solves (auto); null: 1."""
    initial_guess: Literal["zero", "state", "last"] = "zero"
    """Initial guess of a solve: zero, the state, or the last solution of the sample."""
    precision: Literal["float64", "float32"] = "float64"
    """Precision of the iterations of a batched method (docs/howto/batched.md)."""

    @field_validator("ksp", "pc")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
            raise InputError(
                "must be PETSc's name of a method in lower-case letters, e.g. 'cg' or 'jacobi', "
                f"not {value!r}"
            )
        return value


class SupervisedTrainingSection(Section):
    """Training of a network.

    `schedule` is "exponential", for the rate `learning_rate · decay^(step / decay_steps)`, or
    "cosine", for half a cosine wave from `learning_rate` to `decay · learning_rate` in
    `decay_steps` steps and a constant rate after them.

    User-defined components: `optimizer` is created by `Name(parameters, lr=learning_rate, **keys)`,
    e.g. `{kind: "torch.optim:SGD", momentum: 0.9}`. `schedule` is created by `Name(**keys)`; it is
    called with the number of completed steps and returns a multiple of `learning_rate`. `loss` is
    created by `Name(**keys)`; it is called with prediction and target of the same shape and returns
    the loss of each entry in that shape.
    """

    epochs: Count = 100
    """Number of epochs, i.e. passes over the training data."""
    batch_size: Count = 25
    """Samples per step of the optimiser, divided among the replicas."""
    learning_rate: Positive = 1e-3
    """Initial learning rate."""
    optimizer: str = "adam"
    """Optimiser: adam, or a class in user code."""
    loss: str = "squared"
    """Loss per entry: squared (mean squared error), or in user code."""
    schedule: str = "exponential"
    """Schedule of the learning rate: exponential, cosine, or in user code."""
    decay: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] = 1.0
    """Factor of the learning rate after `decay_steps` steps; 1: constant."""
    decay_steps: Count = 100
    """Number of steps after which the rate is `decay · learning_rate`."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Floating-point type of the network; bfloat16: layers only, rest in float32."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep, the latest ones."""


class InverseTrainingSection(Section):
    """Gradient descent with one step per epoch."""

    epochs: Count = 180
    """Number of epochs, i.e. of gradient steps."""
    learning_rate: Positive = 275.0
    """Learning rate of gradient descent; constant."""
    checkpoint_every: Count = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep, the latest ones."""


class InverseSection(Section):
    """The source `Σ_m θ_m sin(2π m x)`, whose parameters θ are to be found."""

    modes: Count = 1
    """Number of modes, i.e. of parameters θ."""
    reference: tuple[Float, ...] = (2.0,)
    """True values of θ, with which the data are computed; one per mode."""
    start: tuple[Float, ...] = (5.0,)
    """Initial values of θ; one per mode."""

    @model_validator(mode="after")
    def _one_per_mode(self) -> InverseSection:
        for name in ("reference", "start"):
            if len(getattr(self, name)) != self.modes:
                raise InputError(
                    f"{name} has {len(getattr(self, name))} numbers for {self.modes} modes; give "
                    "one per mode"
                )
        if not any(self.reference):
            raise InputError(
                "reference must not be all zeros: the error is measured relative to it"
            )
        return self


class CorrectorSection(Section):
    """Training and validation of a corrector."""

    unroll: Count = 2
    """Number of time steps through which the loss is differentiated."""
    validation_steps: tuple[Count, ...] = Field(default=(1, 2, 5), min_length=1)
    """Steps after which the error is computed; the coordinator uses the last one."""
    measure: str | None = None
    """Channel whose error the coordinator uses, e.g. velocity_x; null: the first."""

    @field_validator("validation_steps")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise InputError(f"must be strictly increasing, e.g. [1, 2, 5], not {list(value)}")
        return value

    @property
    def steps(self) -> int:
        """Number of time steps that trajectories must have."""
        return max(self.unroll, *self.validation_steps)


class DataSection(Section):
    """Trajectories from a file, or generated by the solver if `file` is null.

    `format` is "hdf5" (see `prdp_hpc.data.layout`), or a user-defined class, see
    `TrajectoryDataset`.
    """

    file: str | None = None
    """File of trajectories; null: trajectories are generated."""
    format: str = "hdf5"
    """Format of the file: hdf5, or a reader in user code."""
    train: Count = 200
    """Number of training trajectories to generate."""
    validation: Count = 5
    """Number of validation trajectories to generate."""
    test: Annotated[int, Field(ge=0, strict=True)] = 0
    """Number of test trajectories to generate; used only once, at the end of a run."""
    modes: Count = 5
    """Number of Fourier modes of generated initial states; unused for Navier–Stokes."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 0
    """Random seed of generated initial states."""

    @model_validator(mode="after")
    def _something_to_read(self) -> DataSection:
        if self.format != "hdf5" and self.file is None:
            raise InputError("file must be given: only the format hdf5 can be generated")
        return self


class CorrectorDataSection(DataSection):
    """Trajectories from a file, or generated by the solver on a finer grid."""

    reference_factor: Count = 1
    """Refinement factor of the grid on which trajectories are generated."""


class ParallelSection(Section):
    """Distribution of the MPI ranks: replicas × grid ranks."""

    grid_ranks: Count | None = None
    """Ranks that share one grid; null: 1 to train a network, all for inverse problems."""
