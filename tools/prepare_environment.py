"""The set-up itself: creates `.venv` and installs everything, see environment.py."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

import environment_state
from petsc_binary import are_bindings_included, install_binary, misfit, remove_binary
from petsc_cuda import is_cuda_requested
from petsc_source import (
    BUILD_TOOLS,
    LOCK,
    PETSC_OPTIONS,
    build_petsc,
    check_build_is_possible,
    compiler,
    use_petsc,
)
from setup_steps import (
    PREFIX,
    ROOT,
    TOOLS,
    VENV,
    SetupError,
    Step,
    beside,
    compile_modules,
    install,
    install_locked,
    say,
)
from torch_install import CHOICE, install_torch, reason_for_cuda

DEVELOPMENT = "dev.txt"
_SETTINGS = ("PETSC", "PETSC_DIR", "PETSC_ARCH", "CUDA", "CUDA_ARCH", "CUDA_HOME")


def reason_to_build() -> str:
    """Why PETSc is built instead of installed as a binary; empty if a binary is suitable."""
    wanted = os.environ.get("PETSC", "")
    if wanted not in ("", "build", "binary"):
        raise SetupError(f"PETSC must be build, binary or not set, not {wanted!r}")
    reason = "PETSC=build was given" if wanted == "build" else misfit()
    if is_cuda_requested():
        reason = "CUDA=1 was given, and the binaries are without CUDA"
    if reason and wanted == "binary":
        raise SetupError(f"no binary of PETSc supports this machine: {reason}")
    return reason


def install_petsc() -> None:
    """Install MPI, PETSc and their Python bindings: an existing PETSc, binaries, or a build."""
    if os.environ.get("PETSC_DIR"):
        remove_binary()
        install_locked(LOCK, *BUILD_TOOLS)
        use_petsc(Path(os.environ["PETSC_DIR"]))
        return
    reason = reason_to_build() or reason_against_binary()
    if not reason:
        return
    say(f"building PETSc instead of installing binaries from PyPI: {reason}")
    check_build_is_possible()
    remove_binary()
    install_locked(LOCK, *BUILD_TOOLS)
    build_petsc(compiler())


def reason_against_binary() -> str:
    """Install the binaries; why they could not be installed or loaded, empty if they work."""
    try:
        say(f"PETSc and MPI are binaries from PyPI, since they fit {_machine()}{_what_is_built()}")
        with Step("installing PETSc and MPI"):
            install_binary()
    except SetupError as error:
        if os.environ.get("PETSC") == "binary":
            raise
        return f"the binaries could not be installed or loaded ({error.reason()})"
    return ""


def _what_is_built() -> str:
    return "" if are_bindings_included() else "; petsc4py is built for them"


def _machine() -> str:
    library = " ".join(platform.libc_ver())
    return f"Python {platform.python_version()} on {platform.machine()} with {library}"


def fingerprints(is_for_development: bool) -> list[str]:
    """Hashes of everything that training depends on and, if wanted, of the tools for development;
    the set-up runs again if one changes.
    """
    locks = sorted(set(TOOLS.glob("*.txt")) - {TOOLS / DEVELOPMENT})
    files = [ROOT / "pyproject.toml", *sorted(TOOLS.glob("*.py")), *locks]
    parts = [
        *(file.read_text() for file in files),
        CHOICE or reason_for_cuda(),
        *PETSC_OPTIONS,
        *(os.environ.get(name, "") for name in _SETTINGS),
        sys.version,
    ]
    tools = [_hash((TOOLS / DEVELOPMENT).read_text())] if is_for_development else []
    return [_hash(*parts), *tools]


def _hash(*parts: str) -> str:
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def prepare(is_for_development: bool) -> None:
    """Make the environment complete, unless it is; one set-up at a time."""
    wanted = fingerprints(is_for_development)
    if environment_state.is_finished(wanted):
        return
    if not environment_state.is_finished(wanted[:1]):
        check_can_be_prepared()
    with environment_state.locked():
        if environment_state.is_finished(wanted):
            return
        start = time.monotonic()
        can_train = environment_state.is_finished(wanted[:1])
        environment_state.begin()
        if not can_train:
            install_runtime()
        if is_for_development:
            install_tools()
        environment_state.write_state(*wanted)
        say(f"ready in {time.monotonic() - start:.0f} s: {VENV.name if not PREFIX else VENV}")


def check_can_be_prepared() -> None:
    """`SetupError` for a mistake that can be known before anything is installed."""
    if os.environ.get("PETSC_DIR"):
        return
    if reason_to_build():
        check_build_is_possible()
    elif not are_bindings_included():
        compiler()


def install_tools() -> None:
    """Install the tools for tests, lint and documentation."""
    with Step("installing tools for tests, lint and documentation"):
        install_locked(DEVELOPMENT)


def install_runtime() -> None:
    """Install packages, torch, PETSc and prdp-hpc into the environment."""
    with beside(install_petsc):
        with Step("installing packages of pinned versions"):
            install_locked("packages.txt")
        install_torch()
    with Step("installing prdp-hpc"):
        install("--no-deps", "--no-build-isolation", *([] if PREFIX else ["-e"]), str(ROOT))
    if PREFIX or sys.dont_write_bytecode:
        with Step("compiling Python files"):
            compile_modules()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="environment.py",
        description="Prepare .venv with MPI, PETSc, torch and prdp-hpc, without root.",
        epilog="The environment variables that it reads are described in tools/environment.py.",
    )
    parser.add_argument(
        "--runtime",
        action="store_true",
        help="leave out the tools for tests, lint and documentation",
    )
    return parser


def main(words: list[str]) -> None:
    """Prepare the environment; errors and interrupts end with one message."""
    arguments = _parser().parse_args(words)
    # Without this, the end of this process would leave pip running.
    signal.signal(signal.SIGTERM, _stop)
    try:
        prepare(is_for_development=not (PREFIX or arguments.runtime))
    except SetupError as error:
        sys.exit(f"[setup] {error}")
    except OSError as error:
        where = f" {error.filename}:" if error.filename else ""
        sys.exit(f"[setup] {VENV} cannot be prepared:{where} {error.strerror or error}")
    except KeyboardInterrupt:
        say("interrupted: the next call starts again (what was downloaded and built is kept)")
        sys.exit(130)
