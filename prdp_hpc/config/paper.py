"""The list of the paper's experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from prdp_hpc.config.errors import ConfigError, validated
from prdp_hpc.config.experiment import ExperimentConfig, load_config
from prdp_hpc.config.models import Section
from prdp_hpc.config.yaml_files import read_yaml

LIST = Path("paper") / "experiments.yaml"
_SHIPPED = Path(__file__).resolve().parents[1] / "configs"


class PaperExperiment(Section):
    """One experiment of the list."""

    config: str
    """The YAML file of the config, relative to the folder of the list."""
    quick: tuple[str, ...] = ()
    """Changes `section.key=value` to the config with `--quick`."""


class Paper(Section):
    """The list of experiments."""

    experiments: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], PaperExperiment
    ] = Field(min_length=1)
    """Experiments by name, in the order in which they are run and shown."""


def find_list(given: str | None = None) -> Path:
    """The file with the list of experiments: `given`, or `configs/paper/experiments.yaml` in the
    working directory, or that of the installed package.
    """
    if given is not None:
        return Path(given)
    here = Path("configs") / LIST
    return here if here.is_file() else _SHIPPED / LIST


def load_paper(path: Path) -> Paper:
    """Read a list of experiments; raises `ConfigError`."""
    return validated(Paper, read_yaml(path), str(path))


def load_experiment(
    path: Path,
    name: str,
    experiment: PaperExperiment,
    quick: bool,
    changes: Sequence[str] = (),
) -> ExperimentConfig:
    """The config of one experiment of the list in `path`, of full or quick size, with further
    changes; raises `ConfigError`.
    """
    try:
        config = load_config(
            path.parent / experiment.config, (*(experiment.quick if quick else ()), *changes)
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error}") from None
    return config.model_copy(update={"name": name})
