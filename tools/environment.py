#!/usr/bin/env python3
"""Prepare `.venv`: MPI, PETSc, petsc4py, mpi4py, torch and prdp-hpc itself, without root.

This file chooses the interpreter, and restarts itself with it; `prepare_environment.py` does the
work. It is also started by old versions of Python, which must be able to read it: it has no
annotations and no f-strings, and imports the other files only when the version is known.

`--runtime` leaves out the tools for tests, lint and documentation. Only the standard library is
used, since this runs before anything is installed. PETSc is installed
as a binary from PyPI if one supports this machine, and built otherwise. Built wheels are cached in
`$PRDP_CACHE` (default `~/.cache/prdp-hpc`), in a folder named by a hash of everything that affects
them, so that another clone on the same machine installs them in seconds.

Environment variables:

PYTHON : the interpreter to use; default: the newest `python3.12` to `python3.14` on the PATH that
    PETSc's binary supports, else the one that runs this file, else the newest other one.
PETSC : `build` to build PETSc, `binary` to fail if no binary is suitable.
PETSC_DIR, PETSC_ARCH : an installed PETSc, used with its MPI; PETSc is not built.
CUDA, CUDA_ARCH, CUDA_HOME : `CUDA=1` builds PETSc for NVIDIA GPUs, see petsc_cuda.py.
TORCH : `cpu` or `cuda` (default: `cuda` if the machine has an NVIDIA GPU), or a requirement for
    another torch than the pinned one, e.g. `torch==2.11.0`.
"""

import os
import platform
import shutil
import subprocess
import sys

OLDEST = (3, 11)
TOOLS = os.path.dirname(os.path.abspath(__file__))
CHOSEN = "PRDP_CHOSEN_PYTHON"
# CHOSEN is set when this file restarts itself with the chosen interpreter, which then does not
# choose again.
FITS = "import ensurepip, petsc_binary, sys; sys.exit(bool(petsc_binary.misfit()))"
WORKS = "import ensurepip"


def choice():
    """The interpreter to restart this file with; None to continue with the running one."""
    if os.environ.get("PYTHON") or os.environ.get(CHOSEN):
        return None
    if are_binaries_wanted():
        found = newest((14, 13, 12), FITS)
        if found is not None:
            return found
    return None if sys.version_info >= OLDEST else newest((14, 13, 12, 11), WORKS)


def are_binaries_wanted():
    """Whether no variable requests another PETSc than the binaries."""
    asked = os.environ.get("PETSC") == "build" or os.environ.get("PETSC_DIR")
    return not asked and os.environ.get("CUDA", "0") in ("", "0")


def newest(minors, probe):
    """The first interpreter `python3.<minor>` on the PATH that runs the probe without an error.

    A shim of pyenv may not run, and Debian's interpreters may not create virtual environments.
    """
    for minor in minors:
        found = shutil.which("python3." + str(minor))
        if found and subprocess.call([found, "-c", probe], cwd=TOOLS, **SILENT) == 0:
            return found
    return None


SILENT = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def too_old():
    """The message for an interpreter that is too old; empty for any other."""
    if sys.version_info >= OLDEST:
        return ""
    version = platform.python_version()
    if os.environ.get("PYTHON"):
        return "Python 3.11 or newer is needed, but PYTHON=%s is %s" % (  # noqa: UP031
            os.environ["PYTHON"],
            version,
        )
    return (
        "Python 3.11 or newer is needed, and the PATH has none (this is %s): install one or load "  # noqa: UP031
        "its module, or give its path: make PYTHON=/path/to/python3.12" % version
    )


def main():
    """Choose the interpreter and prepare the environment."""
    best = choice() if sys.version_info >= (3,) else None
    if best is not None and os.path.realpath(best) != os.path.realpath(sys.executable):
        command = [best, os.path.abspath(__file__)] + sys.argv[1:]  # noqa: RUF005
        os.execve(best, command, dict(os.environ, **{CHOSEN: best}))
    message = too_old()
    if message:
        sys.exit("[setup] " + message)
    import prepare_environment

    prepare_environment.main(sys.argv[1:])


if __name__ == "__main__":
    main()
