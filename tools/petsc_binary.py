"""PETSc, petsc4py and MPI as binaries from PyPI (the distribution `dolfinx-solver-real`)."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from petsc_libraries import BINARY, PETSC, SETTINGS, SHA256, libraries_wheel
from petsc_source import (
    BINDING_FLAGS,
    BUILD_TOOLS,
    LOCK,
    MPICH,
    compiler,
    install_mpi4py,
    install_petsc4py,
    version_of,
)
from setup_steps import TOOLS, VENV, install_locked, install_wheels, run, uninstall, wheel_folder

REQUIREMENTS = TOOLS / "petsc-binary.txt"
_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 14)
# Older versions of Python need a petsc4py that is built for them.
_OLDEST_WITH_BINDINGS = (3, 12)
_OLDEST_GLIBC = (2, 34)
# In the order of the package: MPI first, then a PETSc object, which fails if a library is missing.
_PROBE = (
    "from mpi4py import MPI; from petsc4py import PETSc; PETSc.Vec().createSeq(1); "
    "assert PETSc.ScalarType().itemsize == 8"
)


def misfit() -> str:
    """The reason why the binaries do not support this Python and machine; empty if they do."""
    machine, library = f"{platform.system()} on {platform.machine()}", platform.libc_ver()
    if machine != "Linux on x86_64":
        return f"they are for Linux on x86_64, this is {machine}"
    if library[0] != "glibc" or _numbers(library[1]) < _OLDEST_GLIBC:
        return f"they need glibc 2.34 or newer, this is {' '.join(library)}"
    if not _OLDEST_PYTHON <= sys.version_info[:2] <= _NEWEST_PYTHON:
        return f"they are for Python 3.11 to 3.14, this is {platform.python_version()}"
    if os.environ.get("PRDP_PETSC_OPTIONS"):
        return "PRDP_PETSC_OPTIONS needs a build"
    return ""


def are_bindings_included() -> bool:
    """Whether the binary has a petsc4py for this Python."""
    return sys.version_info[:2] >= _OLDEST_WITH_BINDINGS


def install_binary() -> None:
    """Install the pinned wheels and load them once; raise `SetupError` if that fails."""
    uninstall("petsc", "petsc4py")
    if are_bindings_included():
        install_locked(REQUIREMENTS.name)
    else:
        _install_libraries()
    run([str(VENV / "bin" / "python"), "-c", _PROBE])


def _install_libraries() -> None:
    """Install the binary's libraries, and build petsc4py for them."""
    cc = compiler()
    install_locked(LOCK, *BUILD_TOOLS, f"mpich=={MPICH}")
    shape = (" ".join(BINARY), PETSC, SETTINGS, version_of(cc), *BUILD_TOOLS, BINDING_FLAGS)
    folder = wheel_folder(*shape)
    install_wheels(libraries_wheel(folder))
    install_mpi4py(folder)
    install_petsc4py(folder, PETSC, SHA256["petsc4py"])


def remove_binary() -> None:
    """Uninstall the wheels, since one environment must not contain two builds of PETSc."""
    # Some of what the wheels need is also in the other files, and stays.
    others = {name for lock in ("packages.txt", "dev.txt") for name in _pinned(TOOLS / lock)}
    uninstall(*(name for name in _pinned(REQUIREMENTS) if name not in others))


def _pinned(lock: Path) -> list[str]:
    return [line.split("==")[0] for line in lock.read_text().splitlines() if "==" in line]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
