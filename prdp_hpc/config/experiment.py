"""Configs of trained networks, and `load_config`, which reads and validates any config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal

from prdp_hpc.config.base import COMMON_SLOTS, TRAINING_SLOTS, SupervisedConfig
from prdp_hpc.config.components import OWN, Component, known_names
from prdp_hpc.config.errors import ConfigError, strings, validated
from prdp_hpc.config.inverse_tasks import FieldInversionConfig, InverseConfig
from prdp_hpc.config.models import CorrectorDataSection, CorrectorSection, EmulatorSection
from prdp_hpc.config.slots import ALL, Filled, Imports, Slot, fill, made
from prdp_hpc.config.yaml_files import SHIPPED, apply_override, read_yaml
from prdp_hpc.files import write_text

TASK = Slot(("task",), "tasks")


class EmulatorConfig(SupervisedConfig):
    """Train a network that replaces one time step of a PDE."""

    component: ClassVar[str] = "prdp_hpc.tasks.emulator:Emulator"
    network_maps: ClassVar[str] = "a state to the next state"

    task: Literal["emulator"]
    """The task: train a network that replaces one time step of a PDE."""
    emulator: EmulatorSection = EmulatorSection()
    """The chain of network and solver steps of the loss."""

    @property
    def steps(self) -> int:
        """Number of time steps that trajectories must have, which training and validation need."""
        return max(2, self.emulator.window - 1)

    @property
    def sample_steps(self) -> tuple[int, int]:
        """Steps of the network and of the solver per training sample."""
        return self.emulator.unroll, self.emulator.solver_steps


class CorrectorConfig(SupervisedConfig):
    """Train a network that corrects the time steps of a coarse solver."""

    component: ClassVar[str] = "prdp_hpc.tasks.corrector:Corrector"
    network_maps: ClassVar[str] = (
        "a solver's step v to its correction, so that the next state is v + output"
    )
    starting: ClassVar[Mapping[str, Any]] = {
        "corrector": {"unroll": 2, "validation_steps": [1, 2, 5]},
        "training": SupervisedConfig.starting["training"],
        "data": {**SupervisedConfig.starting["data"], "reference_factor": 2},
    }

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
    def sample_steps(self) -> tuple[int, int]:
        """Steps of the network and of the solver per training sample."""
        return self.corrector.unroll, self.corrector.unroll

    @property
    def window(self) -> int:
        """Number of states of a training sample."""
        return self.data.window or self.corrector.unroll + 1


class OwnTaskConfig(SupervisedConfig):
    """A user-defined task: `task: my.py:MyTask`, or `task: {kind: my.py:MyTask, key: …}`."""

    slots: ClassVar[tuple[Slot, ...]] = (
        *COMMON_SLOTS,
        *TRAINING_SLOTS,
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
        steps = keys.get("steps", getattr(kind, "steps", 2))
        if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1:
            raise ConfigError(
                f"task: {kind.__name__}.steps must be the number of time steps of a sample, at "
                f"least 1, not {steps!r}"
            )
        return int(steps)


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
    changes = strings("overrides", overrides, "training.epochs=10")
    if not isinstance(path, str | Path):
        raise ConfigError(f"path must be the path of a YAML file, not {path!r}")
    content = read_yaml(Path(path))
    for override in changes:
        apply_override(content, override)
    # No files of a user are beside a shipped config.
    folder = Path() if Path(path).parent == SHIPPED else Path(path).parent
    return validate(content, str(path), folder, imports)


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
