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
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OWN_NAMES = re.compile(r"prdp|gradient|full|constant_.*|seed_.*|figures")


def as_number(value: Any) -> Any:
    """Accept `1e-3`, which YAML 1.1 reads as text, and reject booleans, which pydantic would accept
    as 0 and 1.
    """
    if isinstance(value, bool):
        raise InputError(f"must be a number, not {value!r}")
    return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value


def _level(value: int | float) -> int | float:
    check_level(value)
    return value


Float = Annotated[float, BeforeValidator(as_number), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(as_number), Field(gt=0, lt=1, allow_inf_nan=False)]
Level = Annotated[int | float, BeforeValidator(as_number), AfterValidator(_level)]
Positive = Annotated[float, BeforeValidator(as_number), Field(gt=0, allow_inf_nan=False)]
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
        if not _NAME.fullmatch(value):
            raise InputError(
                "must be PETSc's name of a method in lower-case letters, e.g. 'cg' or 'jacobi', "
                f"not {value!r}"
            )
        return value


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


class ParallelSection(Section):
    """Distribution of the MPI ranks: replicas × grid ranks."""

    grid_ranks: Count | None = None
    """Ranks that share one grid; null: 1 to train a network, all for inverse problems."""
    gradients: Literal["auto", "mpi", "torch"] = "auto"
    """What averages gradients: mpi, torch (NCCL or gloo), or auto for one of them."""
    shard_network: bool = False
    """Divide parameters and optimiser's state among all ranks: less memory."""

    @model_validator(mode="after")
    def _averaged_by_torch(self) -> ParallelSection:
        if self.shard_network and self.gradients == "mpi":
            raise InputError(
                "gradients: torch.distributed averages those of a sharded network: give auto or "
                "torch instead of mpi"
            )
        return self


class EmulatorSection(Section):
    """The training chain of an emulator; see docs/howto/training.md."""

    chain: Literal["mixed", "one_step", "rollout", "diverted"] = "mixed"
    """Chain of network and solver steps whose loss is minimised."""
    unroll: Count = 1
    """Number of network steps through which the loss is differentiated."""
    every: Count = 1
    """Network steps between two solver steps of the diverted chain."""

    @property
    def window(self) -> int:
        """Number of states that a training sample needs."""
        return {"mixed": self.unroll + 2, "diverted": 1}.get(self.chain, self.unroll + 1)

    @property
    def solver_steps(self) -> int:
        """Number of time steps of the solver per training sample."""
        return {"mixed": 1, "diverted": -(-self.unroll // self.every)}.get(self.chain, 0)

    @model_validator(mode="after")
    def _used_keys(self) -> EmulatorSection:
        if self.chain == "one_step" and self.unroll != 1:
            raise InputError(
                f"unroll is {self.unroll}, but the chain one_step has 1 network step: choose the "
                "chain rollout"
            )
        if self.every != 1 and (self.chain != "diverted" or self.every > self.unroll):
            raise InputError(
                f"every is {self.every}, which only the chain diverted uses, with every ≤ unroll: "
                "leave it out or change chain or unroll"
            )
        return self


class DataSection(Section):
    """Trajectories from a file, or generated by the solver if `file` is null.

    `format` is "hdf5" (see `prdp_hpc.data.layout`), or a user-defined class, see
    `TrajectoryDataset`.
    """

    file: str | tuple[str, ...] | None = None
    """File or list of files; null: trajectories are generated."""
    format: str = "hdf5"
    """Format of the file, e.g. hdf5, pdebench or numpy, or a reader in user code."""
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
    streams: Literal["sample", "shared"] = "sample"
    """Random stream of initial states: per sample, or one for all (version 0.1)."""
    window: Count | None = None
    """States of a training sample; null: what the task needs."""
    stride: Count = 1
    """States between the starts of two samples of a trajectory."""
    steps: Count | None = None
    """Time steps used of each trajectory; null: all, or generate what is needed."""
    in_memory: Literal["auto", True, False] = "auto"
    """Hold the data in memory, or read batches as needed; auto: if they fit."""
    normalise: Literal["none", "standard"] = "none"
    """Normalise the channels for the network: none, or standard (mean 0, deviation 1)."""

    @field_validator("file", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        names = given if isinstance(given, list | tuple) else [given]
        if given is not None and not (names and all(isinstance(one, str) for one in names)):
            raise InputError(f"must be a file name or a list of file names, not {given!r}")
        return given

    @model_validator(mode="after")
    def _something_to_read(self) -> DataSection:
        if self.format != "hdf5" and self.file is None:
            raise InputError("file must be given: only the format hdf5 can be generated")
        return self


class CorrectorDataSection(DataSection):
    """Trajectories from a file, or generated by the solver on a finer grid."""

    reference_factor: Count = 1
    """Refinement factor of the grid on which trajectories are generated."""


def _baseline_name(name: str) -> str:
    if not _NAME.fullmatch(name) or _OWN_NAMES.fullmatch(name):
        raise InputError(
            "a baseline's name must be a word in lower-case letters that no other run has, e.g. "
            f"plain_gmres, not {name!r}"
        )
    return name


BaselineName = Annotated[str, AfterValidator(_baseline_name)]


class BaselineSection(Section):
    """A further variant with full refinement and another solver."""

    solver: SolverSection
    """Linear solver of this variant."""
    level: Level | None = None
    """Constant level of this variant; null: that of full refinement."""


class TargetSection(Section):
    """Savings that PRDP must reach, as shares between 0 and 1."""

    inner_iterations: Share | None = None
    """Share of forward and adjoint iterations to be saved; null: no target."""
    solver_seconds: Share | None = None
    """Share of the time in the solver to be saved; null: no target."""
    total_seconds: Share | None = None
    """Share of the total time to be saved; null: no target."""


class ComparisonSection(Section):
    """The variants of a comparison, its seeds and its targets."""

    seeds: Count | None = None
    """Number of seeds: `seed`, `seed + 1`, …; null: 3, or 1 for inverse problems."""
    schedules: tuple[Literal["prdp", "gradient"], ...] = ("prdp",)
    """Schedules to compare with full refinement; "prdp" is always included."""
    constant_levels: tuple[Level, ...] = ()
    """Constant levels to train with as well, forward and adjoint, e.g. [1, 3, 10]."""
    baselines: dict[BaselineName, BaselineSection] = Field(default_factory=dict)
    """Further variants by name: full refinement with another solver."""
    in_turns: bool = False
    """Train the runs of a seed in turns, for their times on a busy machine."""
    targets: dict[str, TargetSection] = Field(default_factory=dict)
    """Savings to be reached against `full` or a baseline, by its name."""

    @field_validator("constant_levels")
    @classmethod
    def _levels(cls, value: Any) -> Any:
        if len(set(value)) < len(value):
            raise InputError(f"constant_levels must all be different, not {list(value)}")
        return value

    @property
    def further_schedules(self) -> tuple[str, ...]:
        """The schedules other than PRDP, without duplicates."""
        return tuple(dict.fromkeys(name for name in self.schedules if name != "prdp"))

    @model_validator(mode="after")
    def _targets_exist(self) -> ComparisonSection:
        unknown = [name for name in self.targets if name != "full" and name not in self.baselines]
        if unknown:
            known = ", ".join(["full", *self.baselines])
            raise InputError(f"targets are measured against {known}; there is no {unknown[0]!r}")
        return self
