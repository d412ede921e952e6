"""The list of the paper's experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from prdp_hpc.config.errors import ConfigError
from prdp_hpc.config.experiment import ExperimentConfig, load_config, read_yaml, validated
from prdp_hpc.config.models import Section

LIST = Path("paper") / "experiments.yaml"
_SHIPPED = Path(__file__).resolve().parents[1] / "configs"


class PaperExperiment(Section):
    """The config of one experiment, relative to the list's folder, and the changes that make it
    quick.
    """

    config: str
    """The config, relative to the folder of the list."""
    quick: tuple[str, ...] = ()
    """Changes that `--quick` makes."""


class Paper(Section):
    """Experiments by name, in the order in which they are run and shown."""

    experiments: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], PaperExperiment
    ] = Field(min_length=1)
    """The experiments by name, in the order in which they run."""


def find_list(given: str | None = None) -> Path:
    """The list of experiments: the one given, else `configs/paper/experiments.yaml` here, else the
    installed package's.
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
    """The config of one experiment of the list in `path`, in the size asked for, with further
    changes; raises `ConfigError`.
    """
    try:
        config = load_config(
            path.parent / experiment.config, (*(experiment.quick if quick else ()), *changes)
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error}") from None
    return config.model_copy(update={"name": name})
