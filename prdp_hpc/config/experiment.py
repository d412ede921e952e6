"""Whole configs, read from YAML and changed by `section.key=value`."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from prdp_hpc.config.comparison import ComparisonSection
from prdp_hpc.config.components import OWN, Component, known_names
from prdp_hpc.config.errors import ConfigError, nearest, problems
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
    CorrectorDataSection,
    CorrectorSection,
    DataSection,
    GridSection,
    InverseSection,
    InverseTrainingSection,
    ParallelSection,
    RefinementSection,
    Section,
    SolverSection,
    SupervisedTrainingSection,
)
from prdp_hpc.config.slots import ALL, Filled, Imports, Slot, fill, made
from prdp_hpc.errors import InputError
from prdp_hpc.files import write_text

TASK = Slot(("task",), "tasks")
_TRAINING_SLOTS = (
    Slot(("training", "optimizer"), "optimizers", "adam"),
    Slot(("training", "loss"), "losses", "squared"),
    Slot(("training", "schedule"), "rates", "exponential"),
)
_SCHEDULE = Slot(("refinement", "schedule"), "schedules", "prdp")


class _Experiment(Section):
    slots: ClassVar[tuple[Slot, ...]] = (_SCHEDULE,)
    default_seeds: ClassVar[int] = 3
    divides_samples: ClassVar[bool] = True

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; its folder is `<output>/<name>`."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 1
    """Seed of the network's parameters and of the order of samples."""
    output: str = "runs"
    """Folder of all runs."""
    grid: GridSection
    """The grid."""
    physics: SerializeAsAny[Any]
    """The PDE and its coefficients."""
    solver: SolverSection = SolverSection()
    """The linear solver."""
    refinement: RefinementSection = RefinementSection()
    """What chooses the accuracy of the solver."""
    comparison: ComparisonSection = ComparisonSection()
    """What `prdp-hpc compare` trains besides PRDP."""
    parallel: ParallelSection = ParallelSection()
    """How the ranks are divided."""

    @property
    def seeds(self) -> range:
        """The seeds of a comparison."""
        return range(self.seed, self.seed + (self.comparison.seeds or self.default_seeds))

    def to_yaml(self) -> str:
        """The config with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class SupervisedConfig(_Experiment):
    """What learns from trajectories."""

    slots: ClassVar[tuple[Slot, ...]] = (
        _SCHEDULE,
        *_TRAINING_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=True),
        Slot(("network", "kind"), "networks", "mlp", whole=True),
        Slot(("data", "format"), "formats", "hdf5"),
    )

    task: Any
    """What is trained."""
    network: SerializeAsAny[Any]
    """The network."""
    network_inputs: tuple[Literal["coordinates", "physics"], ...] = ()
    """Fields that the network receives besides the state: `coordinates`, `physics` (those that the
    PDE offers).
    """
    training: SupervisedTrainingSection = SupervisedTrainingSection()
    """Optimiser, epochs and checkpoints."""
    data: DataSection = DataSection()
    """The trajectories."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps that trajectories must have."""

    @property
    def task_name(self) -> str:
        """What the task is called in the run's files."""
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
                "data.reference_factor must be 1 with neumann boundaries: the points of a finer "
                "grid lie elsewhere"
            )
        return self


class EmulatorConfig(SupervisedConfig):
    """A network learns one step of a PDE."""

    component: ClassVar[str] = "prdp_hpc.tasks.emulator:Emulator"

    task: Literal["emulator"]
    """A network learns one time step of a PDE."""

    @property
    def steps(self) -> int:
        """Steps that trajectories must have: two of the chain, and of validation."""
        return 2


class CorrectorConfig(SupervisedConfig):
    """A network learns to correct the steps of a coarse solver."""

    component: ClassVar[str] = "prdp_hpc.tasks.corrector:Corrector"

    task: Literal["corrector"]
    """A network corrects the time steps of a coarse solver."""
    corrector: CorrectorSection = CorrectorSection()
    """Number of time steps, and what is validated."""
    data: CorrectorDataSection = CorrectorDataSection()
    """The trajectories."""

    @property
    def steps(self) -> int:
        """Steps that trajectories must have."""
        return self.corrector.steps


class OwnTaskConfig(SupervisedConfig):
    """A task of the user's own: `task: my.py:MyTask`, or `task: {kind: my.py:MyTask, key: …}`."""

    slots: ClassVar[tuple[Slot, ...]] = (
        _SCHEDULE,
        *_TRAINING_SLOTS,
        Slot(("physics", "pde"), "physics", whole=True),
        Slot(("network", "kind"), "networks", "mlp", whole=True),
        Slot(("data", "format"), "formats", "hdf5"),
    )

    data: CorrectorDataSection = CorrectorDataSection()
    """The trajectories."""

    @property
    def steps(self) -> int:
        """Steps that trajectories must have: the task's `steps`, 2 where it has none."""
        kind, keys = made("tasks", self.task)
        return int(keys.get("steps", getattr(kind, "steps", 2)))


class InverseConfig(_Experiment):
    """A physical parameter is found from a solution."""

    slots: ClassVar[tuple[Slot, ...]] = (
        _SCHEDULE,
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inverse:Inverse"
    default_seeds: ClassVar[int] = 1  # nothing is random
    divides_samples: ClassVar[bool] = False

    task: Literal["inverse"]
    """The parameters of a source are found."""
    training: InverseTrainingSection = InverseTrainingSection()
    """Gradient descent."""
    inverse: InverseSection = InverseSection()
    """The parameters and their initial values."""

    @property
    def task_name(self) -> str:
        """What the task is called in the run's files."""
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
    """A coefficient field is found from observations."""

    slots: ClassVar[tuple[Slot, ...]] = (
        _SCHEDULE,
        Slot(("training", "optimizer"), "inversion_optimizers", "adam"),
        Slot(("training", "schedule"), "rates", "exponential"),
        Slot(("physics", "pde"), "physics", whole=True, has_steps=False),
    )
    component: ClassVar[str] = "prdp_hpc.tasks.inversion.task:FieldInversion"
    default_seeds: ClassVar[int] = 1

    task: Literal["field_inversion"]
    """A coefficient field is found from measurements."""
    truth: TruthSection = TruthSection()
    """The synthetic field."""
    experiments: ExperimentsSection = ExperimentsSection()
    """What was measured."""
    validation: HeldOutSection = HeldOutSection()
    """What is held out."""
    unknown: UnknownSection = FieldSection(kind="field")
    """How the field is represented."""
    regularisation: RegularisationSection | None = H1Section(kind="h1")
    """The regularisation; null: none."""
    training: InversionTrainingSection = InversionTrainingSection()
    """Optimiser, epochs and checkpoints."""

    @property
    def task_name(self) -> str:
        """What the task is called in the run's files."""
        return self.task

    @model_validator(mode="after")
    def _enough_experiments(self) -> Self:
        if self.experiments.file is None and self.validation.experiments >= self.experiments.number:
            raise InputError(
                f"validation.experiments={self.validation.experiments} leaves none of "
                f"{self.experiments.number} experiments to be fitted"
            )
        return self


ExperimentConfig = SupervisedConfig | InverseConfig | FieldInversionConfig
M = TypeVar("M", bound=BaseModel)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), imports: Imports = ALL
) -> ExperimentConfig:
    """Read a YAML config, change it by `section.key=value`, and validate it.

    The components of the user's own that it names are imported: all of them, or those that
    `imports` permits, for a config that somebody else may have written.

    Raises
    ------
    ConfigError
        One message with the file and, for every wrong key, what is wrong and what is allowed.
    """
    content = read_yaml(Path(path))
    for override in overrides:
        _apply(content, override)
    return validate(content, str(path), Path(path).parent, imports)


def validate(
    content: dict[str, Any],
    source: str,
    folder: str | Path = "",
    imports: Imports = ALL,
) -> ExperimentConfig:
    """The config of a nested dictionary; `source` is named in errors.

    `folder` is where relative files of components start; `imports`: see `load_config`.
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
    """The model of the task that a config names, by which the rest is validated."""
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


def validated(
    model: type[M], content: dict[str, Any], source: str, already: Sequence[str] = ()
) -> M:
    """A model of a nested dictionary; all that is wrong with it, and `already`, in one
    `ConfigError`.
    """
    found = list(already)
    try:
        config = model.model_validate(content)
    except ValidationError as error:
        found += problems(model, error)
    if not found:
        return config
    lines = found[0] if len(found) == 1 else "\n  " + "\n  ".join(found)
    raise ConfigError(f"{source}: {lines}")


def write_resolved(config: ExperimentConfig, path: str | Path) -> None:
    """Write the config with all its defaults; beside and renamed."""
    write_text(path, config.to_yaml())


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, which YAML would silently overwrite."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if not isinstance(key, str | int | float):
            raise ConfigError(
                f"{key!r}: a key must be a word (line {key_node.start_mark.line + 1})"
            )
        if key in seen:
            raise ConfigError(f"{key}: given twice (line {key_node.start_mark.line + 1}); keep one")
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file; `ConfigError` where it cannot be read, or gives a key twice."""
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; give the YAML file of a config")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        there = sorted(other.name for other in path.parent.glob("*.y*ml"))
        raise ConfigError(
            f"{path}: no such config file" + (f"; {nearest(path.name, there)}" if there else "")
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; give another file, or the right to read it"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file; give the YAML file of a config") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: must hold sections with keys, as 'task: emulator', not {_what(content)}"
        )
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(re.fullmatch(r"\w+", key) for key in keys):
        raise ConfigError(
            f"{override!r} is not of the form section.key=value, as training.epochs=10"
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{dotted}: the value {text!r} is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    section = content
    for depth, key in enumerate(keys[:-1]):
        if section.get(key) is None:
            section[key] = {}
        inner = section[key]
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {'.'.join(keys[: depth + 1])} is a value, not a section")
        section = inner
    section[keys[-1]] = value


def _what(content: Any) -> str:
    return "nothing" if content is None else f"a {type(content).__name__}"
