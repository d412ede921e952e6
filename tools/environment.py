#!/usr/bin/env python3
"""Prepare `.venv`: MPI, PETSc, petsc4py, mpi4py, torch and prdp-hpc itself, without root.

Only the standard library is used, since this runs before anything is installed. PETSc is installed
as a binary from PyPI if one supports this machine, and built otherwise. Built wheels are cached in
`$PRDP_CACHE` (default `~/.cache/prdp-hpc`), in a folder named by a hash of everything that affects
them, so that another clone on the same machine installs them in seconds.

Environment variables:

PYTHON : the interpreter to use; default: the newest `python3.12` to `python3.14` on the PATH that
    PETSc's binary supports, else the one that runs this file.
PETSC : `build` to build PETSc for this processor, `binary` to fail if no binary is suitable.
PETSC_DIR, PETSC_ARCH : an installed PETSc, used with its MPI; PETSc is not built.
CUDA, CUDA_ARCH, CUDA_HOME : `CUDA=1` builds PETSc for NVIDIA GPUs, see petsc_cuda.py.
TORCH : `cpu` or `cuda` (default: `cuda` if the machine has an NVIDIA GPU), or a requirement for
    another torch than the pinned one, e.g. `torch==2.11.0`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from petsc_binary import install_binary, misfit, remove_binary
from petsc_cuda import is_cuda_requested
from petsc_source import BUILD_TOOLS, LOCK, PETSC_OPTIONS, build_petsc, compiler, use_petsc
from setup_steps import (
    PREFIX,
    ROOT,
    TOOLS,
    VENV,
    SetupError,
    Step,
    compile_modules,
    install,
    install_locked,
    run,
    say,
)
from torch_install import CHOICE, install_torch, reason_for_cuda

STAMP = VENV / "prdp-environment"
_SETTINGS = ("PETSC", "PETSC_DIR", "PETSC_ARCH", "CUDA", "CUDA_ARCH", "CUDA_HOME")
CHOSEN = "PRDP_CHOSEN_PYTHON"
"""Set when this file restarts itself with the chosen interpreter, which then does not choose again.
"""


def newest_fitting_python() -> str | None:
    """The newest interpreter on the PATH that the binaries of PETSc support, if there is one."""
    if os.environ.get("PETSC") == "build" or os.environ.get("PETSC_DIR") or is_cuda_requested():
        return None
    for minor in (14, 13, 12):
        found = shutil.which(f"python3.{minor}")
        if found and works_for_binaries(found):
            return found
    return None


def works_for_binaries(python: str) -> bool:
    """Whether an interpreter runs (a pyenv shim may not), can create virtual environments, and is
    supported by the binaries.
    """
    probe = "import ensurepip, petsc_binary, sys; sys.exit(bool(petsc_binary.misfit()))"
    done = subprocess.run([python, "-c", probe], cwd=TOOLS, capture_output=True, check=False)
    return done.returncode == 0


def choose_python() -> None:
    """Restart this file with the chosen interpreter, unless it is the running one."""
    if os.environ.get("PYTHON") or os.environ.get(CHOSEN):
        return
    best = newest_fitting_python()
    if best is not None and Path(best).resolve() != Path(sys.executable).resolve():
        os.execve(best, [best, __file__], {**os.environ, CHOSEN: best})


def create_venv() -> None:
    """Create the virtual environment of this Python, replacing one of another version."""
    settings = VENV / "pyvenv.cfg"
    version = f"{sys.version_info.major}.{sys.version_info.minor}."
    if settings.is_file() and f"version = {version}" in settings.read_text():
        return
    with Step(f"creating {VENV.name} with Python {platform.python_version()}"):
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def install_petsc() -> None:
    """Install MPI, PETSc and their Python bindings: an existing PETSc, binaries, or a build."""
    if os.environ.get("PETSC_DIR"):
        remove_binary()
        install_locked(LOCK, *BUILD_TOOLS)
        use_petsc(Path(os.environ["PETSC_DIR"]))
        return
    wanted = os.environ.get("PETSC", "")
    if wanted not in ("", "build", "binary"):
        raise SetupError(f"PETSC must be build, binary or not set, not {wanted!r}")
    reason = "PETSC=build was given" if wanted == "build" else misfit()
    if is_cuda_requested():
        reason = "CUDA=1 was given, and the binaries are without CUDA"
    if not reason:
        try:
            with Step(f"installing PETSc and MPI: binaries from PyPI, since they fit {_machine()}"):
                install_binary()
            return
        except SetupError as error:
            reason = f"the binaries could not be installed or loaded ({error.reason()})"
            remove_binary()
    if wanted == "binary":
        raise SetupError(f"no binary of PETSc supports this machine: {reason}")
    say(f"building PETSc instead of installing binaries from PyPI: {reason}")
    remove_binary()
    install_locked(LOCK, *BUILD_TOOLS)
    build_petsc(compiler())


def _machine() -> str:
    library = " ".join(platform.libc_ver())
    return f"Python {platform.python_version()} on {platform.machine()} with {library}"


def fingerprint() -> str:
    """A hash of everything that the environment depends on; the set-up runs again if it changes."""
    files = [ROOT / "pyproject.toml", *sorted(TOOLS.glob("*.py")), *sorted(TOOLS.glob("*.txt"))]
    parts = [
        *(file.read_text() for file in files),
        CHOICE or reason_for_cuda(),
        *PETSC_OPTIONS,
        *(os.environ.get(name, "") for name in _SETTINGS),
        sys.version,
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def prepare() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - users may run it with an older Python
        raise SetupError(
            f"Python 3.11 or newer is needed, this is {platform.python_version()}: run make "
            "PYTHON=python3.12"
        )
    if STAMP.is_file() and STAMP.read_text() == fingerprint():
        return
    start = time.monotonic()
    create_venv()
    with Step("installing packages of pinned versions"):
        install_locked("packages.txt")
        if not PREFIX:
            install_locked("dev.txt")
    install_torch()
    install_petsc()
    with Step("installing prdp-hpc"):
        install("--no-deps", "--no-build-isolation", *([] if PREFIX else ["-e"]), str(ROOT))
    if PREFIX or sys.dont_write_bytecode:
        with Step("compiling Python files"):
            compile_modules()
    STAMP.write_text(fingerprint())
    say(f"ready in {time.monotonic() - start:.0f} s: {VENV.name if not PREFIX else VENV}")


if __name__ == "__main__":
    choose_python()
    try:
        prepare()
    except SetupError as error:
        sys.exit(f"[setup] {error}")
