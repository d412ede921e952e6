"""`prdp-hpc site`: write a first site file from what is found on this cluster. This module does not
load MPI, which may be unusable on login nodes.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator
from typing import Any

from prdp_hpc.commands.site_discovery import Found, discover
from prdp_hpc.config.commented import commented_yaml
from prdp_hpc.config.site import VARIABLE, Site, site_path
from prdp_hpc.console import show
from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors, write_text


def site(arguments: argparse.Namespace) -> None:
    """Write the site file and print it.

    Raises
    ------
    InputError
        If the file exists and `--overwrite` is not given.
    """
    path = site_path()
    if path is None:
        raise InputError(f"{VARIABLE} is empty, so no site file is used: unset it")
    with file_errors(path, "cannot be read"):
        exists = path.exists()
    if exists and not arguments.overwrite:
        raise InputError(f"{path} exists: edit it, or replace it with --overwrite")
    text = site_text(discover())
    write_text(path, text)
    show(text.rstrip("\n"), f"written: {path}")


def site_text(found: Found) -> str:
    """The site file for what was found: all keys with comments, and below what to choose from."""
    content = _content(found)
    head = (
        f"# How prdp-hpc submit starts jobs here: written by prdp-hpc site on "
        f"{socket.gethostname()}, {time.strftime('%Y-%m-%d')}.\n"
        "# Check the values; options of prdp-hpc submit override them.\n"
    )
    lines = "".join(f"# {line}".rstrip() + "\n" for line in _comments(found))
    return f"{head}{commented_yaml(content, Site.model_validate(content))}\n{lines}"


def _content(found: Found) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "account": found.accounts[0] if len(found.accounts) == 1 else None,
        "partition": None,
        "qos": None,
        "constraint": None,
        "time": None,
        "mem": None,
        "cpus_per_task": None,
        "gpus_per_node": None,
        "exclusive": False,
        "sbatch": {},
    }
    return {
        "modules": list(found.modules),
        "launcher": found.launcher,
        "mpi": found.mpi,
        "container_runtime": found.container_runtime or "apptainer",
        "container_options": [],
        "defaults": defaults,
    }


def _comments(found: Found) -> Iterator[str]:
    yield "What was found here:"
    yield f"  MPI: {found.mpi_library or 'no mpiexec'}"
    yield f"  srun --mpi=list: {', '.join(found.mpi_types) or 'no srun'}"
    yield f"  modules: {'the command module exists' if found.has_modules else 'no command module'}"
    yield f"  containers: {found.container_runtime or 'no apptainer, singularity or pyxis'}"
    yield f"  accounts: {', '.join(found.accounts) or 'none listed by sacctmgr'}"
    if not found.partitions:
        yield "  partitions: none listed by sinfo"
        return
    yield "  partitions (* default): time limit, nodes, cores and megabytes per node, GPUs"
    for one in found.partitions:
        yield f"    {one.name}: {one.limit}, {one.nodes}, {one.cores}, {one.memory}, {one.gpus}"
