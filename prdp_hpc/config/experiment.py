"""Complete configs: one model per task, and `load_config`, which reads and validates a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from prdp_hpc.config.comparison import ComparisonSection
from prdp_hpc.config.components import OWN, Component, known_names
from prdp_hpc.config.data import CorrectorDataSection, DataSection
from prdp_hpc.config.errors import ConfigError, strings
from prdp_hpc.config.errors import validated as validated
from prdp_hpc.config.inversion import (
    ExperimentsSection,
    FieldSection,
    H1Section,
    HeldOutSection,
    InversionTrainingSection,
    RegularisationSection,
    TruthSection,
    UnknownSection,
)
from prdp_hpc.config.models import (
    CorrectorSection,
    EmulatorSection,
    GridSection,
    InverseSection,
    ParallelSection,
    Section,
    SolverSection,
)
from prdp_hpc.config.refinement import RefinementSection
from prdp_hpc.config.slots import ALL, Filled, Imports, Slot, fill, made
from prdp_hpc.config.tracking import LoggingSection
from prdp_hpc.config.training import InverseTrainingSection, SupervisedTrainingSection
from prdp_hpc.config.yaml_files import apply_override, read_yaml, to_yaml
from prdp_hpc.errors import InputError
from prdp_hpc.files import write_text

TASK = Slot(("task",), "tasks")
_TRAINING_SLOTS = (
    Slot(("training", "optimizer"), "optimizers", "adam"),
    Slot(("training", "loss"), "losses", "squared"),
    Slot(("training", "schedule"), "rates", "exponential"),
)
_COMMON_SLOTS = (
    Slot(("refinement", "schedule"), "schedules", "prdp"),
    Slot(("tracking",), "trackers", "tensorboard", many=True),
)


class _Experiment(Section):
    slots: ClassVar[tuple[Slot, ...]] = _COMMON_SLOTS
    default_seeds: ClassVar[int] = 3
    divides_samples: ClassVar[bool] = True

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


class SupervisedConfig(_Experiment):
    """Base of the tasks that train a network on samples, e.g. trajectories."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *_COMMON_SLOTS,
        *_TRAINING_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=True),
        Slot(("network", "kind"), "networks", "mlp", whole=True),
        Slot(("data", "format"), "formats", "hdf5"),
    )

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


class EmulatorConfig(SupervisedConfig):
    """Train a network that replaces one time step of a PDE."""

    component: ClassVar[str] = "prdp_hpc.tasks.emulator:Emulator"

    task: Literal["emulator"]
    """The task: train a network that replaces one time step of a PDE."""
    emulator: EmulatorSection = EmulatorSection()
    """The chain of network and solver steps of the loss."""

    @property
    def steps(self) -> int:
        """Number of time steps that trajectories must have, which training and validation need."""
        return max(2, self.emulator.window - 1)


class CorrectorConfig(SupervisedConfig):
    """Train a network that corrects the time steps of a coarse solver."""

    component: ClassVar[str] = "prdp_hpc.tasks.corrector:Corrector"

    task: Literal["corrector"]
    """The task: train a network that corrects the time steps of a coarse solver."""
    corrector: CorrectorSection = CorrectorSection()
    """Number of unrolled steps, and what validation measures."""
    data: CorrectorDataSection = CorrectorDataSection()
    """Trajectories for training, validation and testing."""

    @property
    def steps(self) -> int:
        """Number of time steps that trajectories must have."""
        return self.corrector.steps

    @property
    def window(self) -> int:
        """Number of states of a training sample."""
        return self.data.window or self.corrector.unroll + 1


class OwnTaskConfig(SupervisedConfig):
    """A user-defined task: `task: my.py:MyTask`, or `task: {kind: my.py:MyTask, key: …}`."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *_COMMON_SLOTS,
        *_TRAINING_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True),
        Slot(("network", "kind"), "networks", "mlp", whole=True),
        Slot(("data", "format"), "formats", "hdf5"),
    )

    data: CorrectorDataSection = CorrectorDataSection()
    """Trajectories for training, validation and testing."""

    @property
    def steps(self) -> int:
        """Number of time steps that trajectories must have: the task's `steps`, default 2."""
        kind, keys = made("tasks", self.task)
        return int(keys.get("steps", getattr(kind, "steps", 2)))


class InverseConfig(_Experiment):
    """Find the parameters of a source term from a solution of the PDE."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *_COMMON_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inverse:Inverse"
    default_seeds: ClassVar[int] = 1  # The problem is deterministic.
    divides_samples: ClassVar[bool] = False

    task: Literal["inverse"]
    """The task: find the parameters of a source term."""
    training: InverseTrainingSection = InverseTrainingSection()
    """Number of epochs, learning rate and checkpoints."""
    inverse: InverseSection = InverseSection()
    """The source term, its true parameters and the initial guess."""

    @property
    def task_name(self) -> str:
        """Name of the task in the files of a run."""
        return self.task

    @model_validator(mode="after")
    def _one_dimension(self) -> InverseConfig:
        if len(self.grid.shape) != 1:
            raise InputError(
                "the inverse problem is one-dimensional: grid.shape must have 1 entry, not "
                f"{len(self.grid.shape)}"
            )
        return self


class FieldInversionConfig(_Experiment):
    """Find a coefficient field from observations."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *_COMMON_SLOTS,
        Slot(("training", "optimizer"), "inversion_optimizers", "adam"),
        Slot(("training", "schedule"), "rates", "exponential"),
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inversion.task:FieldInversion"
    default_seeds: ClassVar[int] = 1

    task: Literal["field_inversion"]
    """The task: find a coefficient field."""
    truth: TruthSection = TruthSection()
    """The synthetic field to be found, for experiments without measured data."""
    experiments: ExperimentsSection = ExperimentsSection()
    """Sources and measurements."""
    validation: HeldOutSection = HeldOutSection()
    """Measurements that are not fitted, but used for the validation error."""
    unknown: UnknownSection = FieldSection(kind="field")
    """Representation of the field; default: one value per grid point."""
    regularisation: RegularisationSection | None = H1Section(kind="h1")
    """Regularisation of the field; default: H1; null: none."""
    training: InversionTrainingSection = InversionTrainingSection()
    """Number of epochs, optimiser and checkpoints."""

    @property
    def task_name(self) -> str:
        """Name of the task in the files of a run."""
        return self.task

    @model_validator(mode="after")
    def _enough_experiments(self) -> Self:
        if self.experiments.file is None and self.validation.experiments >= self.experiments.number:
            raise InputError(
                f"validation.experiments={self.validation.experiments} leaves none of the "
                f"{self.experiments.number} experiments to be fitted: give a smaller number"
            )
        return self


ExperimentConfig = SupervisedConfig | InverseConfig | FieldInversionConfig


def load_config(
    path: str | Path, overrides: Sequence[str] = (), imports: Imports = ALL
) -> ExperimentConfig:
    """Read a YAML config, change it by `section.key=value`, and validate it.

    The user-defined components that it names are imported.

    Parameters
    ----------
    path : str or Path
        The YAML file.
    overrides : sequence of str, default ()
        Changes of the form `section.key=value`, e.g. `training.epochs=10`; the value is YAML.
    imports : Imports, default ALL
        Which user-defined components may be imported. The default permits all of them; restrict it
        for a config from an untrusted source, since importing executes code.

    Returns
    -------
    SupervisedConfig, InverseConfig or FieldInversionConfig
        The validated config: an immutable pydantic model with all defaults filled in.

    Raises
    ------
    ConfigError
        For an invalid config. One message names the file and, for every wrong key, what is wrong
        and what is allowed.

    See Also
    --------
    train : Train according to a config.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from prdp_hpc import load_config
    >>> text = '''
    ... task: emulator
    ... name: tiny
    ... grid: {shape: [16]}
    ... physics: {pde: heat, diffusivity: 0.1, dt: 0.01}
    ... '''
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tiny.yaml"
    ...     _ = file.write_text(text)
    ...     config = load_config(file, ["training.epochs=10"])
    >>> config.training.epochs, config.network.kind, config.solver.ksp
    (10, 'mlp', 'richardson')
    """
    content = read_yaml(Path(path))
    for override in strings("overrides", overrides, "training.epochs=10"):
        apply_override(content, override)
    return validate(content, str(path), Path(path).parent, imports)


def validate(
    content: dict[str, Any],
    source: str,
    folder: str | Path = "",
    imports: Imports = ALL,
) -> ExperimentConfig:
    """Validate a nested dictionary; `source` is its name in error messages.

    `folder`: the start of relative paths of components; `imports`: see `load_config`.
    """
    found = _task(content, source, Path(folder), imports)
    filled = fill(found.model, found.model.slots, found.content, Path(folder), imports)
    filled.problems[:0] = found.problems
    config = validated(filled.model, filled.content, source, filled.problems)
    assert isinstance(config, ExperimentConfig)
    return config


def components(config: ExperimentConfig) -> dict[str, Component]:
    """The components that a config names, by dotted key."""
    slots = (TASK, *type(config).slots)
    found = fill(type(config), slots, config.model_dump(mode="json"), Path())
    return found.components


def _task(content: dict[str, Any], source: str, folder: Path, imports: Imports) -> Filled:
    """Find the model of the task that a config names, which validates the rest of the config."""
    if content.get("task") is None:
        known = ", ".join(known_names("tasks"))
        raise ConfigError(f"{source}: task: must be given; choose one of {known}, or {OWN}")
    filled = fill(OwnTaskConfig, (TASK,), content, folder, imports)
    if not filled.problems and "task" not in filled.components and not imports.needs(TASK):
        return filled
    if filled.problems or "task" not in filled.components:
        problem = (filled.problems or [f"task: must be a name, not {content['task']!r}"])[0]
        raise ConfigError(f"{source}: {problem}")
    if filled.components["task"].built_in:
        filled.model = filled.components["task"].target
    return filled


def write_resolved(config: ExperimentConfig, path: str | Path) -> None:
    """Write the config with all its defaults, atomically."""
    write_text(path, config.to_yaml())
