"""Whole configs, read from YAML and changed by `section.key=value`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from prdp_hpc.config.comparison import ComparisonSection
from prdp_hpc.config.errors import ConfigError, nearest, problems
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
from prdp_hpc.config.networks import MLPSection, NetworkSection
from prdp_hpc.config.physics import (
    CorrectedSection,
    EmulatedSection,
    HeatSection,
    PoissonSection,
    SteppedSection,
)
from prdp_hpc.errors import InputError
from prdp_hpc.files import write_text


class _Experiment(Section):
    default_seeds: ClassVar[int] = 3

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Annotated[int, Field(ge=0, strict=True)] = 1
    output: str = "runs"
    grid: GridSection
    physics: PoissonSection | SteppedSection
    solver: SolverSection = SolverSection()
    refinement: RefinementSection = RefinementSection()
    comparison: ComparisonSection = ComparisonSection()
    parallel: ParallelSection = ParallelSection()

    @property
    def seeds(self) -> range:
        """The seeds of a comparison."""
        return range(self.seed, self.seed + (self.comparison.seeds or self.default_seeds))

    def to_yaml(self) -> str:
        """The config with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class _Supervised(_Experiment):
    """What learns from trajectories."""

    physics: SteppedSection
    network: NetworkSection = MLPSection()
    training: SupervisedTrainingSection = SupervisedTrainingSection()
    data: DataSection = DataSection()

    @model_validator(mode="after")
    def _fitting_grid(self) -> Self:
        pde = self.physics.pde
        if isinstance(self.physics, HeatSection):
            return self
        if self.grid.boundaries != {"periodic"}:
            raise InputError(
                f"physics.pde={pde} needs a periodic grid: give grid.boundary=periodic"
            )
        if pde == "navier_stokes" and len(self.grid.shape) == 1:
            raise InputError(
                "physics.pde=navier_stokes needs grid.shape with 2 or 3 entries, not 1"
            )
        return self


class EmulatorConfig(_Supervised):
    """A network learns one step of a PDE."""

    task: Literal["emulator"]
    physics: EmulatedSection

    @property
    def steps(self) -> int:
        """Steps that trajectories must have: two of the chain, and of validation."""
        return 2


class CorrectorConfig(_Supervised):
    """A network learns to correct the steps of a coarse solver."""

    task: Literal["corrector"]
    physics: CorrectedSection
    corrector: CorrectorSection = CorrectorSection()
    data: CorrectorDataSection = CorrectorDataSection()

    @property
    def steps(self) -> int:
        """Steps that trajectories must have."""
        return self.corrector.steps

    @model_validator(mode="after")
    def _reference_grid(self) -> CorrectorConfig:
        if self.data.reference_factor > 1 and "neumann" in self.grid.boundaries:
            raise InputError(
                "data.reference_factor must be 1 with neumann boundaries: the points of a finer "
                "grid lie elsewhere"
            )
        return self


class InverseConfig(_Experiment):
    """A physical parameter is found from a solution."""

    default_seeds: ClassVar[int] = 1  # nothing is random

    task: Literal["inverse"]
    physics: PoissonSection
    training: InverseTrainingSection = InverseTrainingSection()
    inverse: InverseSection = InverseSection()

    @model_validator(mode="after")
    def _one_dimension(self) -> InverseConfig:
        if len(self.grid.shape) != 1:
            raise InputError(
                "the inverse problem is one-dimensional: grid.shape must have 1 entry, not "
                f"{len(self.grid.shape)}"
            )
        return self


SupervisedConfig = EmulatorConfig | CorrectorConfig
ExperimentConfig = EmulatorConfig | InverseConfig | CorrectorConfig
M = TypeVar("M", bound=BaseModel)
_TASKS: dict[str, type[ExperimentConfig]] = {
    "emulator": EmulatorConfig,
    "inverse": InverseConfig,
    "corrector": CorrectorConfig,
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a YAML config, change it by `section.key=value`, and validate it.

    Raises
    ------
    ConfigError
        One message with the file and, for every wrong key, what is wrong and what is allowed.
    """
    content = read_yaml(Path(path))
    for override in overrides:
        _apply(content, override)
    return validate(content, str(path))


def validate(content: dict[str, Any], source: str) -> ExperimentConfig:
    """The config of a nested dictionary; `source` is named in errors."""
    task = content.get("task")
    if not isinstance(task, str) or task not in _TASKS:
        hint = "must be given" if task is None else f"{task!r} is not known"
        raise ConfigError(f"{source}: task: {hint}; choose one of {', '.join(_TASKS)}")
    return validated(_TASKS[task], content, source)


def validated(model: type[M], content: dict[str, Any], source: str) -> M:
    """A model of a nested dictionary; all that is wrong with it in one `ConfigError`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        found = problems(model, error)
        lines = found[0] if len(found) == 1 else "\n  " + "\n  ".join(found)
        raise ConfigError(f"{source}: {lines}") from None


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
