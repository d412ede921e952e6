"""What a cluster has, by its commands: modules, MPI, SLURM and containers. Loads no MPI."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 30.0


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo prints it; the name of the default one ends with a star."""

    name: str
    limit: str
    nodes: str
    cores: str
    memory: str
    gpus: str


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes
    ----------
    modules : names of the loaded modules.
    has_modules : whether there is a command `module`.
    mpi_library : first line of `mpiexec --version`.
    mpi_types : what `srun --mpi=list` prints.
    launcher, mpi : the launcher and the type for `srun --mpi=…` that fit the MPI.
    partitions : what sinfo lists.
    accounts : accounts of the user.
    container_runtime : apptainer, singularity or pyxis; None if there is none.
    """

    modules: tuple[str, ...]
    has_modules: bool
    mpi_library: str
    mpi_types: tuple[str, ...]
    launcher: str
    mpi: str | None
    partitions: tuple[Partition, ...]
    accounts: tuple[str, ...]
    container_runtime: str | None


def discover() -> Found:
    """Look at the environment and call SLURM's commands."""
    library, types = _mpi_library(), _mpi_types()
    mpi = _fitting_type(library, types)
    loaded = os.environ.get("LOADEDMODULES", "")
    return Found(
        modules=tuple(name for name in loaded.split(":") if name),
        has_modules=any(key in os.environ for key in ("MODULESHOME", "LMOD_CMD")),
        mpi_library=library,
        mpi_types=types,
        # SLURM without a type for this MPI: MPI's own launcher starts its ranks through SLURM.
        launcher="mpirun" if types and mpi is None else "srun",
        mpi=mpi,
        partitions=_partitions(),
        accounts=_accounts(),
        container_runtime=_container_runtime(),
    )


def _output(*words: str) -> str:
    """What a command prints; empty if it does not exist, fails or hangs."""
    try:
        ended = subprocess.run(
            words, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # srun of older versions lists its types on stderr.
    return "" if ended.returncode else ended.stdout + ended.stderr


def _mpi_library() -> str:
    """The MPI: that of Cray's modules, or the one whose mpiexec is beside Python or first on the
    path.
    """
    cray = os.environ.get("CRAY_MPICH_VERSION")
    if cray:
        return f"Cray MPICH {cray}"
    own = Path(sys.executable).with_name("mpiexec")
    return _mpi_name(_output(str(own) if own.exists() else "mpiexec", "--version"))


def _mpi_name(text: str) -> str:
    """The name of an MPI in the output of its `mpiexec --version`."""
    for pattern, name in (("Open MPI", "Open MPI"), ("Intel", "Intel MPI"), ("HYDRA", "MPICH")):
        if pattern in text:
            number = re.search(r"(?:Version:?\s+|\) )(\d[\w.]*)", text)
            return f"{name} {number[1]}" if number else name
    return text.strip().partition("\n")[0]


def _mpi_types() -> tuple[str, ...]:
    lines = _output("srun", "--mpi=list").splitlines()
    names = (re.fullmatch(r"\s*(?:srun: )?\s*(\w+)\s*", line) for line in lines)
    return tuple(found[1] for found in names if found)


def _fitting_type(library: str, types: Sequence[str]) -> str | None:
    """The type with which srun starts ranks of this MPI; None if there is none."""
    # SLURM lists cray_shasta on other machines too, where it starts N jobs of one rank.
    families = {"Open MPI": ("pmix",), "Cray": ("cray_shasta", "pmi2", "pmix")}
    wanted = next(
        (names for family, names in families.items() if library.startswith(family)),
        ("pmi2", "pmix"),
    )
    if not types:
        return wanted[0]
    return next((name for name in wanted if name in types), None)


def _partitions() -> tuple[Partition, ...]:
    lines = _output("sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G").splitlines()
    rows = (line.split("|") for line in lines)
    return tuple(
        Partition(name, limit, f"{nodes} nodes", f"{cores} cores", f"{memory} MB", _gpus(gres))
        for name, limit, nodes, cores, memory, gres in (row for row in rows if len(row) == 6)
    )


def _gpus(gres: str) -> str:
    """The GPUs in SLURM's list of generic resources, e.g. `gpu:a100:4(S:0-1)`."""
    found = re.findall(r"gpu(?::[\w.-]+)?:\d+", gres)
    return ", ".join(found) or "no GPUs"


def _accounts() -> tuple[str, ...]:
    words = ("show", "associations", f"user={getpass.getuser()}", "format=account")
    listed = _output("sacctmgr", "--noheader", "--parsable2", *words)
    return tuple(dict.fromkeys(line.strip() for line in listed.splitlines() if line.strip()))


def _container_runtime() -> str | None:
    for name in ("apptainer", "singularity"):
        if shutil.which(name):
            return name
    return "pyxis" if "--container-image" in _output("srun", "--help") else None
