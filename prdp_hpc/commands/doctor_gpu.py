"""What `prdp-hpc doctor` reports about GPUs: whether PETSc and torch can both use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SIZE = 200
"""Points per axis of the solve that is done as a check."""


def gpu_lines() -> list[tuple[str, str, str]]:
    """Subject, finding and problem of each line; without a GPU one line."""
    import torch

    from prdp_hpc.linalg.torch_petsc import petsc_device_kind

    kind = petsc_device_kind()
    built = torch.version.cuda or torch.version.hip
    petsc = f"PETSc with {kind}" if kind else "PETSc without GPUs"
    software = f"{petsc}, torch {'without CUDA' if built is None else f'for {built}'}"
    if not torch.cuda.is_available():
        return [("GPU", f"none visible; {software}", "")]
    lines = [("GPU", f"{software}; {_messages()}", _two_runtimes())]
    if kind:
        return [*lines, _solve()]
    hint = "PETSc solves on the host; `make environment CUDA=1` builds it for the GPU"
    return [*lines, ("note", hint, "")]


def _messages() -> str:
    """How ranks with GPUs exchange messages."""
    import torch.distributed

    from prdp_hpc.gpu_messages import mpi_reports_gpu_support

    aware = "yes" if mpi_reports_gpu_support() else "no (messages go through the host)"
    nccl = torch.distributed.is_nccl_available()
    version = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "none"
    return f"GPU-aware MPI: {aware}; NCCL: {version}"


def _two_runtimes() -> str:
    """A problem if PETSc and torch have loaded different copies of CUDA's runtime."""
    maps = Path("/proc/self/maps")
    text = maps.read_text() if maps.is_file() else ""
    copies = sorted(set(re.findall(r"(/\S*lib(?:cudart|amdhip64)\.so\S*)", text)))
    if len(copies) < 2:
        return ""
    return (
        f"PETSc and torch use different copies of the GPU's runtime ({', '.join(copies)}): build "
        "PETSc for torch's, or install the torch that was built for PETSc's"
    )


def _solve() -> tuple[str, str, str]:
    """A solve on the device, compared with the same on the host."""
    import time

    import torch
    from mpi4py import MPI

    from prdp_hpc import Grid, Poisson, Refinement, Solver

    poisson = Poisson(
        Grid((SIZE, SIZE), comm=MPI.COMM_SELF), Solver("cg", "jacobi", Refinement(20))
    )
    f = torch.ones(SIZE, SIZE, dtype=torch.float64)
    results: list[Any] = []
    try:
        for device in ("cuda", "cpu"):
            poisson(f.to(device))  # the first one prepares the device
            torch.cuda.synchronize()
            start = time.perf_counter()
            results.append(poisson(f.to(device)).cpu())
            seconds = time.perf_counter() - start
            results.append(seconds)
    except Exception as error:
        return "solve on the GPU", "failed", f"{type(error).__name__}: {error}"
    device, device_seconds, host, host_seconds = results
    text = f"20 iterations of {SIZE}² points: {1e3 * device_seconds:.1f} ms, host "
    text += f"{1e3 * host_seconds:.1f} ms"
    wrong = float((device - host).abs().max()) > 1e-10 * float(host.abs().max())
    return "solve on the GPU", text, "its result differs from the host's" if wrong else ""
