"""The site file: what `prdp-hpc submit` must know about a cluster, once per user."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from prdp_hpc.config.errors import validated
from prdp_hpc.config.models import Count, Section
from prdp_hpc.config.yaml_files import read_yaml
from prdp_hpc.errors import InputError

VARIABLE = "PRDP_SITE"
"""Environment variable with the path of the site file; empty: none is read."""


def _quoted(value: Any) -> Any:
    # YAML 1.1 reads 4:00:00 as the number 14400, which sbatch would take for minutes.
    if isinstance(value, int | float):
        raise InputError("must be text in quotes, e.g. '4:00:00' for a time or '64G' for a memory")
    return value


def _word(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _line(value: str) -> str:
    # The text is written into one line of a batch script, in which sbatch or the shell reads it.
    if not value.strip() or len(value.splitlines()) > 1:
        raise InputError(f"must be text in one line, not {value!r}")
    return value.strip()


def _module(value: str) -> str:
    if re.search(r"\s", value):
        raise InputError(f"must be the name of one module, e.g. gcc/12, not {value!r}")
    return value


def _command(value: str) -> str:
    try:
        shlex.split(value)
    except ValueError as error:
        raise InputError(f"must be a command with its options: {error} in {value!r}") from None
    return value


def checked_gpus(value: str) -> str:
    """Numbers of GPUs per node with or without types, e.g. `4`, `a100:4` or `a100:2,h100:2`.

    Raises
    ------
    InputError
        For other text.
    """
    if not all(re.fullmatch(r"([\w.-]+:)?[1-9]\d*", one) for one in value.split(",")):
        raise InputError(f"must be a number or TYPE:NUMBER, not {value!r}")
    return value


Text = Annotated[str, AfterValidator(_line)]
Word = Annotated[str, BeforeValidator(_word), AfterValidator(_line)]
Quoted = Annotated[str, BeforeValidator(_quoted), AfterValidator(_line)]


class JobDefaults(Section):
    """Options of every job; options of `prdp-hpc submit` override them."""

    account: Word | None = None
    """Account to charge; null: that of the user."""
    partition: Word | None = None
    """Partition; null: that of the site."""
    qos: Word | None = None
    """Quality of service; null: that of the user."""
    constraint: Word | None = None
    """Features that the nodes must have, e.g. "icelake"."""
    time: Quoted | None = None
    """Time limit in quotes, e.g. "4:00:00"; null: that of the partition."""
    mem: Quoted | None = None
    """Memory per node in quotes, e.g. "64G"; null: that of the partition."""
    cpus_per_task: Count | None = None
    """Cores per rank; null: 1."""
    gpus_per_node: Annotated[Word, AfterValidator(checked_gpus)] | None = None
    """GPUs per node, e.g. 4 or a100:4; null: none."""
    exclusive: Literal[True, False, "user", "mcs", "topo"] = False
    """Whether jobs share their nodes with no other job, or as in sbatch."""
    sbatch: dict[str, Word | None] = Field(default_factory=dict)
    """Further options of sbatch, e.g. {hint: nomultithread}; null: without value."""


class Site(Section):
    """How jobs start on a cluster."""

    modules: tuple[Annotated[Text, AfterValidator(_module)], ...] = ()
    """Modules that each job loads, e.g. [gcc/12, cray-mpich]."""
    launcher: Annotated[Text, AfterValidator(_command)] = "srun"
    """Command that starts the ranks, e.g. srun or mpirun, with its options."""
    mpi: Text | None = "pmi2"
    """Type for `srun --mpi=…` (`srun --mpi=list`); null: the site's default."""
    container_runtime: Literal["apptainer", "singularity", "pyxis"] = "apptainer"
    """What starts --container IMAGE; pyxis: SLURM's own option --container-image."""
    container_options: tuple[Text, ...] = ()
    """Further options of the container runtime, e.g. [--bind, /scratch]."""
    defaults: JobDefaults = JobDefaults()
    """Options of every job."""

    @property
    def starts_by_srun(self) -> bool:
        """Whether the launcher is srun, not that of an MPI."""
        return Path(shlex.split(self.launcher)[0]).name == "srun"


def site_path() -> Path | None:
    """The path of the site file: that in `PRDP_SITE`, or `prdp-hpc/site.yaml` in the user's folder
    of configurations (`XDG_CONFIG_HOME`, default `~/.config`); None if `PRDP_SITE` is empty.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given).expanduser() if given else None
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "prdp-hpc" / "site.yaml"


def load_site() -> Site:
    """Read the site file; the defaults if there is none.

    Raises
    ------
    ConfigError
        For an invalid file, or if `PRDP_SITE` names a file that does not exist.
    """
    path = site_path()
    if path is None or not (os.environ.get(VARIABLE) or path.exists()):
        return Site()
    return validated(Site, read_yaml(path, "mpi: pmix", empty=True), str(path))
