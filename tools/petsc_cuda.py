"""CUDA for the build of PETSc: compilers and libraries from PyPI, or an installed CUDA.

Building needs neither a GPU nor root. The libraries are those that PyPI's torch loads, so that both
use one copy at run time.

CUDA=1 : build PETSc with CUDA (`make environment CUDA=1`).
CUDA_ARCH : compute capabilities to build for, e.g. `80,90`; default: that of this machine's GPU, or
    80 and 90 (A100 and H100) if it has none.
CUDA_HOME : an installed CUDA to use instead of PyPI's.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from setup_steps import Step, install_locked, run, say, site_packages

LOCK = "cuda-build.txt"
CUDA = "13.0"
"""The version of torch's libraries in torch-cuda.txt."""
COMPILERS = ("nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-cuda-nvcc", "nvidia-nvvm")
ARCHITECTURES = "80,90"
# Functions of the driver that CUDA's libraries call. PETSc's configure links test programs with
# them, and a machine without a GPU has no driver. The built libraries do not use this stub.
_DRIVER_STUB = """
int cuInit(unsigned flags) { return 100; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return 0; }
int cuGetErrorName(int error, const char **text) { *text = "stub"; return 0; }
"""


def is_cuda_requested() -> bool:
    """Whether `CUDA=1` requests PETSc with CUDA."""
    return os.environ.get("CUDA", "0") not in ("", "0")


def architectures() -> str:
    """Compute capabilities to build for, separated by commas."""
    given = os.environ.get("CUDA_ARCH")
    if given:
        return given
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ARCHITECTURES
    numbers = {line.strip().replace(".", "") for line in found.splitlines() if line.strip()}
    return ",".join(sorted(numbers)) or ARCHITECTURES


def cuda_options(cc: str) -> list[str]:
    """PETSc's configure options for CUDA, which is installed from PyPI unless CUDA_HOME is set."""
    home = os.environ.get("CUDA_HOME")
    folder = Path(home) if home else cuda_from_pypi(cc)
    say(f"CUDA: {folder}, for compute capabilities {architectures()}")
    return [
        "--with-cuda=1",
        f"--with-cuda-dir={folder}",
        f"--with-cuda-arch={architectures()}",
        "CUDAOPTFLAGS=-O3",
    ]


def cuda_from_pypi(cc: str) -> Path:
    """Install CUDA's compiler from PyPI beside the libraries of torch; the folder that looks like
    an installed CUDA.
    """
    with Step("installing CUDA's compiler from PyPI"):
        install_locked("torch-cuda.txt")
        install_locked(LOCK)
    folder = next(site_packages().glob("nvidia/cu[0-9]*"))
    libraries = folder / "lib"
    _link(folder / "lib64", "lib")
    for library in libraries.glob("lib*.so.*"):
        _link(libraries / f"{library.name.split('.so')[0]}.so", library.name)
    stubs = libraries / "stubs"
    stubs.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "driver.c"
        source.write_text(_DRIVER_STUB)
        soname = "-Wl,-soname,libcuda.so.1"
        run([cc, "-shared", "-fPIC", soname, "-o", str(stubs / "libcuda.so"), str(source)])
    return folder


def _link(link: Path, target: str) -> None:
    if not link.exists():
        link.symlink_to(target)
