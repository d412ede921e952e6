"""Whole configs, read from YAML and changed by `section.key=value`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from prdp_hpc.config.errors import ConfigError, explain, location, nearest
from prdp_hpc.config.models import (
    DataSection,
    EmulatorTrainingSection,
    GridSection,
    InverseSection,
    InverseTrainingSection,
    NetworkSection,
    ParallelSection,
    PhysicsSection,
    RefinementSection,
    Section,
    SolverSection,
)
from prdp_hpc.files import write_text


class _Experiment(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Annotated[int, Field(ge=0, strict=True)] = 1
    output: str = "runs"
    grid: GridSection
    physics: PhysicsSection
    solver: SolverSection = SolverSection()
    refinement: RefinementSection = RefinementSection()
    parallel: ParallelSection = ParallelSection()

    def to_yaml(self) -> str:
        """The config with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class EmulatorConfig(_Experiment):
    """A network learns one step of a PDE."""

    task: Literal["emulator"]
    network: NetworkSection = NetworkSection()
    training: EmulatorTrainingSection = EmulatorTrainingSection()
    data: DataSection = DataSection()

    @model_validator(mode="after")
    def _has_steps(self) -> EmulatorConfig:
        if self.physics.pde != "heat":
            raise ValueError("an emulator learns time steps: physics.pde must be 'heat'")
        return self


class InverseConfig(_Experiment):
    """A physical parameter is found from a solution."""

    task: Literal["inverse"]
    training: InverseTrainingSection = InverseTrainingSection()
    inverse: InverseSection = InverseSection()

    @model_validator(mode="after")
    def _one_dimension(self) -> InverseConfig:
        if self.physics.pde != "poisson":
            raise ValueError("the inverse problem is Poisson's: physics.pde must be 'poisson'")
        if len(self.grid.shape) != 1:
            raise ValueError(f"the inverse problem is one-dimensional: grid.shape must have 1 entry, not {len(self.grid.shape)}")
        return self


ExperimentConfig = EmulatorConfig | InverseConfig
_TASKS: dict[str, type[EmulatorConfig] | type[InverseConfig]] = {"emulator": EmulatorConfig, "inverse": InverseConfig}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a YAML config, change it by `section.key=value`, and validate it.

    Raises
    ------
    ConfigError
        One message with the file and, for every wrong key, what is wrong and what is allowed.
    """
    content = _read(Path(path))
    for override in overrides:
        _apply(content, override)
    return validate(content, str(path))


def validate(content: dict[str, Any], source: str) -> ExperimentConfig:
    """The config of a nested dictionary; `source` is named in errors."""
    task = content.get("task")
    if not isinstance(task, str) or task not in _TASKS:
        hint = "must be given" if task is None else f"{task!r} is not known"
        raise ConfigError(f"{source}: task: {hint}; choose one of {', '.join(_TASKS)}")
    model = _TASKS[task]
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # One value that fits no member of a union gives one error a member; the first says enough.
        first = {location(dict(one)): dict(one) for one in reversed(error.errors())}
        problems = [explain(one, _known_keys(model, one["loc"])) for one in reversed(first.values())]
        lines = problems[0] if len(problems) == 1 else "\n  " + "\n  ".join(problems)
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
            raise ConfigError(f"{key!r}: a key must be a word (line {key_node.start_mark.line + 1})")
        if key in seen:
            raise ConfigError(f"{key}: given twice (line {key_node.start_mark.line + 1}); keep one")
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the YAML file of a config")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        there = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such config file" + (f"; {nearest(path.name, there)}" if there else "")) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file; give the YAML file of a config") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold sections with keys, as 'task: emulator', not {_what(content)}")
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(re.fullmatch(r"\w+", key) for key in keys):
        raise ConfigError(f"{override!r} is not of the form section.key=value, as training.epochs=10")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{dotted}: the value {text!r} is not valid YAML: {' '.join(str(error).split())}") from None
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


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """The keys allowed beside the one that an error is about."""
    models = [model]
    for part in location[:-1]:
        inner = [found for one in models if part in one.model_fields for found in _models(one.model_fields[str(part)].annotation)]
        # Pydantic puts the kind of a ladder into the path.
        of_kind = [one for one in models if "kind" in one.model_fields and part in get_args(one.model_fields["kind"].annotation)]
        models = inner or of_kind or models
    return {key for one in models for key in one.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models within an annotation, through unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
