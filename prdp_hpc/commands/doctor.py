"""`prdp-hpc doctor`: report what this machine has and what is missing."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prdp_hpc.console import note, show
from prdp_hpc.distributed.launch import launched_rank
from prdp_hpc.errors import PrdpError


@dataclass(frozen=True)
class Finding:
    """One line of the report; `missing` is empty, or the advice for something that is missing."""

    name: str
    found: str
    missing: str = ""


def doctor(arguments: argparse.Namespace) -> None:
    """Print the findings on one rank; exit with code 1 if a requirement is missing."""
    findings = [finding for check in _CHECKS for finding in check()]
    mpi = sys.modules.get("mpi4py.MPI")
    # Processes that each have an MPI world of size 1 must not all print the same report.
    first = (
        launched_rank() == 0
        if mpi is None or mpi.COMM_WORLD.size == 1
        else mpi.COMM_WORLD.rank == 0
    )
    if not first:
        return
    width = max(len(finding.name) for finding in findings)
    show("\n".join(f"{finding.name:<{width}}  {finding.found}" for finding in findings))
    missing = [finding for finding in findings if finding.missing]
    for finding in missing:
        note(f"missing: {finding.name}: {finding.missing}")
    if missing:
        sys.exit(1)
    show("nothing is missing")


def _python() -> list[Finding]:
    return [
        Finding("Python", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"),
    ]


def _mpi() -> list[Finding]:
    mpi = _import("mpi4py.MPI")
    if isinstance(mpi, str):
        return [
            Finding(
                "MPI",
                "not usable",
                f"{mpi}; install an MPI and mpi4py (`make environment`, or your cluster's modules)",
            )
        ]
    vendor, version = mpi.get_vendor()
    beside = str(Path(sys.executable).parent)
    launcher = (
        shutil.which("mpiexec") or shutil.which("mpiexec", path=beside) or "no mpiexec on the PATH"
    )
    return [Finding("MPI", f"{vendor} {'.'.join(map(str, version))}, launcher {launcher}")]


def _petsc() -> list[Finding]:
    # Not petsc4py alone: a PETSc with CUDA aborts if it is initialised without an option that
    # prdp_hpc.petsc gives.
    module = _import("prdp_hpc.petsc")
    petsc = module if isinstance(module, str) else module.PETSc
    if isinstance(petsc, str):
        advice = "run `make environment`, or install petsc4py for the PETSc of PETSC_DIR"
        return [Finding("PETSc", "not usable", f"{petsc}; {advice}")]
    import petsc4py

    config = petsc4py.get_config()
    folder = _loaded_from() or Path(config["PETSC_DIR"]) / config.get("PETSC_ARCH", "")
    options = _petsc_options(folder)
    version = ".".join(map(str, petsc.Sys.getVersion()))
    kind = f"{petsc.ScalarType.__name__} scalars, {petsc.IntType.__name__} indices"
    wrong = (
        ""
        if "float64" in kind
        else "needs real double precision: build PETSc without complex or single"
    )
    findings = [
        Finding("PETSc", f"{version} in {folder}, {kind}", wrong),
        Finding("PETSc options", options or "not recorded"),
        Finding("BLAS", _blas(folder)),
    ]
    if "--with-debugging=0" not in options and options:
        findings.append(
            Finding(
                "note", "this PETSc was built with debugging, which makes it several times slower"
            )
        )
    return findings


def _loaded_from() -> Path | None:
    """The folder of the loaded PETSc library; petsc4py only has the path at which it was built."""
    maps = Path("/proc/self/maps")
    return _folder_of_petsc(maps.read_text()) if maps.is_file() else None


def _folder_of_petsc(maps: str) -> Path | None:
    """The folder in the list of a process's mapped files, whose paths may contain blanks."""
    found = re.search(r"^(?:\S+\s+){5}(/.*)/lib/libpetsc\.so", maps, re.MULTILINE)
    return Path(found.group(1)) if found else None


def _petsc_options(folder: Path) -> str:
    header = folder / "include" / "petscconfiginfo.h"
    found = (
        re.search(r'petscconfigureoptions = "(.*)"', header.read_text())
        if header.is_file()
        else None
    )
    return found.group(1) if found else ""


def _blas(folder: Path) -> str:
    variables = folder / "lib" / "petsc" / "conf" / "petscvariables"
    found = (
        re.search(r"^BLASLAPACK_LIB\s*=\s*(.*)$", variables.read_text(), re.MULTILINE)
        if variables.is_file()
        else None
    )
    libraries = re.findall(r"-l(\S+)", found.group(1)) if found else []
    names = ["OpenBLAS from PyPI" if name == "prdpblas" else name for name in libraries]
    return ", ".join(dict.fromkeys(names)) or "not recorded"


def _torch() -> list[Finding]:
    torch = _import("torch")
    if isinstance(torch, str):
        return [
            Finding("torch", "not usable", f"{torch}; run `make environment`, or pip install torch")
        ]
    devices = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    shown = ", ".join(devices) if devices else "no GPU"
    backends = [
        name for name in ("gloo", "nccl") if getattr(torch.distributed, f"is_{name}_available")()
    ]
    return [
        Finding("torch", f"{torch.__version__}, {shown}, torch.distributed: {', '.join(backends)}")
    ]


def _gpu() -> list[Finding]:
    """Whether PETSc and torch can both use a GPU."""
    if any(isinstance(_import(name), str) for name in ("mpi4py.MPI", "prdp_hpc.petsc", "torch")):
        return []
    from prdp_hpc.commands.doctor_gpu import gpu_lines

    return [Finding(*line) for line in gpu_lines()]


def _launch() -> list[Finding]:
    """On which nodes the ranks run, and how they connect to each other; collective."""
    if isinstance(mpi := _import("mpi4py.MPI"), str) or isinstance(_import("torch"), str):
        return []
    from prdp_hpc.distributed.process_mesh import check_launch
    from prdp_hpc.distributed.rendezvous import common_address
    from prdp_hpc.distributed.topology import describe, each_has_a_gpu, rank_locations

    world = mpi.COMM_WORLD
    try:
        check_launch(world)
        if world.size == 1:
            return []
        locations = rank_locations(world)
        through = "NCCL" if each_has_a_gpu(locations) else "gloo"
        address = common_address(world, locations[world.rank].node)
        return [
            Finding(
                "launch",
                f"{describe(locations)}, reductions through {through}, rank 0 at {address}",
            )
        ]
    except PrdpError as error:
        return [Finding("launch", "not one MPI job", str(error))]


def _hdf5() -> list[Finding]:
    h5py = _import("h5py")
    if isinstance(h5py, str):
        return [Finding("HDF5", "not usable", f"{h5py}; pip install h5py")]
    return [
        Finding(
            "HDF5",
            f"{h5py.version.hdf5_version}, parallel: "
            f"{'yes' if h5py.get_config().mpi else 'no (not needed)'}",
        )
    ]


def _slurm() -> list[Finding]:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return [Finding("SLURM", "no (not needed)")]
    version = subprocess.run(
        [sbatch, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout.strip()
    return [Finding("SLURM", f"{version or 'no answer from its controller'}, {sbatch}")]


def _import(name: str) -> Any:
    """The module, or the reason why it cannot be imported (a broken library fails only then)."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        return f"{name} cannot be imported ({type(error).__name__}: {error})"


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    _python,
    _mpi,
    _petsc,
    _torch,
    _gpu,
    _launch,
    _hdf5,
    _slurm,
)
