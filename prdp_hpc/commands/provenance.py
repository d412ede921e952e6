"""Provenance of results: the command, the versions and the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy
import torch
from mpi4py import MPI

from prdp_hpc import __version__
from prdp_hpc.petsc import PETSc


def provenance(command: str) -> dict[str, Any]:
    """The entries `command`, `versions` and `machine` of a results file."""
    ranks = MPI.COMM_WORLD.size
    return {
        "command": f"mpirun -n {ranks} {command}" if ranks > 1 else command,
        "versions": {
            "prdp-hpc": __version__,
            "python": platform.python_version(),
            "petsc": ".".join(map(str, PETSc.Sys.getVersion())),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "mpi": " ".join(MPI.Get_library_version().split()[:3]),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "ranks": ranks,
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def machine_text(machine: dict[str, Any]) -> str:
    """A short description of the machine."""
    parts = [
        f"{machine['cores']} cores of {machine['processor']}",
        machine["gpu"],
        f"{machine['ranks']} rank(s)",
    ]
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown processor"
