"""The parts of a config that the tasks share: the base of all, and that of trained networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from prdp_hpc.config.models import (
    ComparisonSection,
    DataSection,
    GridSection,
    ParallelSection,
    Section,
    SolverSection,
)
from prdp_hpc.config.refinement import RefinementSection
from prdp_hpc.config.slots import Slot
from prdp_hpc.config.tracking import LoggingSection
from prdp_hpc.config.training import SupervisedTrainingSection
from prdp_hpc.config.yaml_files import to_yaml
from prdp_hpc.errors import InputError

TRAINING_SLOTS = (
    Slot(("training", "optimizer"), "optimizers", "adam"),
    Slot(("training", "loss"), "losses", "squared"),
    Slot(("training", "schedule"), "rates", "exponential"),
)
COMMON_SLOTS = (
    Slot(("refinement", "schedule"), "schedules", "prdp"),
    Slot(("tracking",), "trackers", "tensorboard", many=True),
)


class Experiment(Section):
    """Base of all tasks. `prdp-hpc init` writes `starting`, on a grid of `starting_dimensions`."""

    slots: ClassVar[tuple[Slot, ...]] = COMMON_SLOTS
    default_seeds: ClassVar[int] = 3
    divides_samples: ClassVar[bool] = True
    error_name: ClassVar[str] = "error"
    """What tables call the validation error."""
    starting: ClassVar[Mapping[str, Any]] = {}
    starting_dimensions: ClassVar[tuple[int, ...]] = (1, 2, 3)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; the run folder is `<output>/<name>`."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 1
    """Random seed of initial parameters, order of samples and synthetic fields."""
    output: str = "runs"
    """Folder that contains the run folders."""
    grid: GridSection
    """The structured grid of the PDE."""
    physics: SerializeAsAny[Any]
    """The PDE and its coefficients; the key `pde` names it."""
    solver: SolverSection = SolverSection()
    """Linear solver and preconditioner."""
    refinement: RefinementSection = RefinementSection()
    """Schedule that chooses the level (solve accuracy) of each epoch."""
    comparison: ComparisonSection = ComparisonSection()
    """Variants, seeds and targets of `prdp-hpc compare`."""
    parallel: ParallelSection = ParallelSection()
    """Distribution of the MPI ranks."""
    tracking: tuple[Any, ...] = ("tensorboard",)
    """Trackers of the metrics: tensorboard, wandb, mlflow, or in user code."""
    logging: LoggingSection = LoggingSection()
    """Log files of messages."""

    @model_validator(mode="after")
    def _network_to_shard(self) -> Self:
        if self.parallel.shard_network and not hasattr(self, "network"):
            raise InputError(
                "parallel.shard_network: this task has no network to be divided: leave the key out"
            )
        return self

    @property
    def seeds(self) -> range:
        """The seeds of a comparison."""
        return range(self.seed, self.seed + (self.comparison.seeds or self.default_seeds))

    def to_yaml(self) -> str:
        """The config with every default written out."""
        return to_yaml(self.model_dump(mode="json"))


class SupervisedConfig(Experiment):
    """Base of the tasks that train a network on samples, e.g. trajectories."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *COMMON_SLOTS,
        *TRAINING_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=True),
        Slot(("network", "kind"), "networks", "mlp", whole=True),
        Slot(("data", "format"), "formats", "hdf5"),
    )
    starting: ClassVar[Mapping[str, Any]] = {
        "training": {"epochs": 50, "batch_size": 25, "learning_rate": 1e-3},
        "data": {"train": 200, "validation": 20, "test": 20, "seed": 0},
    }
    starting_networks: ClassVar[tuple[str, str, str]] = ("mlp", "resnet", "resnet")
    """The networks that `prdp-hpc init` writes for 1, 2 and 3 axes."""
    network_maps: ClassVar[str] = "the input of the task's network to its output"
    """What the network computes, in the metadata of exported networks."""

    task: Any
    """What is trained: a built-in task, or `file.py:Name` of a task in user code."""
    network: SerializeAsAny[Any]
    """The network and its sizes; the key `kind` names it."""
    network_inputs: tuple[Literal["coordinates", "physics"], ...] = ()
    """Fields that are added to the state as input: coordinates, or fields of the PDE."""
    training: SupervisedTrainingSection = SupervisedTrainingSection()
    """Number of epochs, optimiser, loss and checkpoints."""
    data: DataSection = DataSection()
    """Trajectories for training, validation and testing."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of time steps that trajectories must have."""

    @property
    def sample_steps(self) -> tuple[int, int]:
        """Steps of the network and of the solver per training sample."""
        return 1, 1

    @property
    def window(self) -> int:
        """Number of states of a training sample."""
        return self.data.window or self.steps + 1

    @property
    def generated_steps(self) -> int:
        """Number of time steps of generated trajectories."""
        return self.data.steps or max(self.steps, (self.data.window or 1) - 1)

    @property
    def task_name(self) -> str:
        """Name of the task in the files of a run."""
        name = self.task if isinstance(self.task, str) else str(self.task.kind)
        return name.rpartition(":")[2]

    @model_validator(mode="after")
    def _fitting_grid(self) -> Self:
        check = getattr(self.physics, "check_grid", None)
        if check is not None:
            check(self.grid)
        return self

    @model_validator(mode="after")
    def _reference_grid(self) -> Self:
        factor = getattr(self.data, "reference_factor", 1)
        if factor > 1 and "neumann" in self.grid.boundaries:
            raise InputError(
                "data.reference_factor must be 1 with neumann boundaries, because a finer grid "
                "does not contain the cell centres of the grid"
            )
        return self
