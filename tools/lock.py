#!/usr/bin/env python3
"""Renew the files of pinned versions and hashes beside this file (`make lock`).

uv resolves the requirements of pyproject.toml for every Python from 3.11 on. torch and CUDA are
in separate files, because not every machine uses PyPI's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

from petsc_cuda import COMPILERS, CUDA
from petsc_source import BUILD_TOOLS, MPI4PY, MPICH, NUMPY, OPENBLAS
from setup_steps import ROOT, TOOLS
from torch_install import TORCH

OLDEST_PYTHON = "3.11"
_ENTRY = re.compile(r"^[a-z0-9][^#\n]*(?:\n +[^\n]*)*\n?", re.MULTILINE)
_CUDA = re.compile(r"(cuda-|nvidia-|triton)")
# Not required by the package, but its matrices come from there in the tutorials.
TUTORIALS = ["scipy>=1.11"]
_ELSEWHERE = {"mpi4py", "petsc4py", "prdp-hpc"}  # the files of PETSc's two ways have them


def main() -> None:
    """Write the files of pinned versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [TORCH, f"numpy=={NUMPY}", BUILD_TOOLS[0], *TUTORIALS]
    runtime = resolve([*project["dependencies"], *pins])
    development = [*extra(project, "dev"), *extra(project, "docs")]
    every = resolve([*project["dependencies"], *development, *pins])
    shared = {name: entry for name, entry in every.items() if name in runtime}
    torch = {name: entry for name, entry in shared.items() if name == "torch"}
    cuda = {name: entry for name, entry in shared.items() if _CUDA.match(name)}
    apart = {*torch, *cuda, *_ELSEWHERE}
    write(
        "packages.txt", "what prdp-hpc needs", {n: e for n, e in shared.items() if n not in apart}
    )
    others = {n: e for n, e in every.items() if n not in shared and n not in apart}
    write("dev.txt", "tools, tests and documentation", others)
    write("torch.txt", "torch from PyPI", torch)
    write("torch-cuda.txt", "what torch needs on NVIDIA GPUs", cuda)
    build = resolve([*BUILD_TOOLS, OPENBLAS, f"mpich=={MPICH}", f"mpi4py=={MPI4PY}"])
    write("petsc-build.txt", "MPI, and what builds PETSc", build)
    compilers = resolve([f"{name}=={CUDA}.*" for name in COMPILERS])
    own = {name: entry for name, entry in compilers.items() if name in COMPILERS}
    write("cuda-build.txt", "CUDA's compiler", own, "tools/petsc_cuda.py")


def extra(project: dict[str, Any], name: str) -> list[str]:
    """The requirements of an extra, those of other extras that it names included."""
    found = []
    for line in project["optional-dependencies"][name]:
        others = re.fullmatch(rf"{project['name']}\[([\w,]+)\]", line)
        if others is None:
            found.append(line)
            continue
        for other in others[1].split(","):
            found += extra(project, other)
    return found


def resolve(requirements: list[str]) -> dict[str, str]:
    """Pinned requirements with hashes, by name."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--universal", "--no-config"]
    command += ["--python-version", OLDEST_PYTHON, "--generate-hashes", "--no-annotate"]
    command += ["--no-header", "--quiet"]
    done = subprocess.run(
        command, input="\n".join(requirements), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    entries: dict[str, str] = {}
    for entry in _ENTRY.findall(done.stdout):
        name = entry.split("==")[0]
        entries[name] = entries.get(name, "") + entry.rstrip("\n") + "\n"
    return entries


def write(
    name: str, contents: str, entries: dict[str, str], reader: str = "tools/environment.py"
) -> None:
    """One file of pinned requirements, which the script `reader` installs."""
    header = (
        f"# Pinned: {contents}. Written by `make lock`; installed by {reader} with\n"
        "# pip install --no-deps --require-hashes.\n"
    )
    (TOOLS / name).write_text(header + "".join(entry for _, entry in sorted(entries.items())))
    print(f"{name}: {len(entries)} packages")


if __name__ == "__main__":
    main()
