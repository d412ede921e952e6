"""torch from PyPI, with CUDA where this machine has an NVIDIA GPU and without it elsewhere."""

from __future__ import annotations

import os

from petsc_cuda import is_cuda_requested
from setup_steps import (
    VENV,
    SetupError,
    Step,
    install,
    install_locked,
    run,
    say,
    site_packages,
    uninstall,
)
from torch_without_cuda import has_gpu, remove_replacements, replace_cuda

TORCH = "torch==2.13.0"
CHOICE = os.environ.get("TORCH", "")
DOWNLOAD = "2.6 GB to download"
# What training uses, so that a library that is missing is found now: convolutions, Fourier
# transforms, reverse mode and collective operations.
_PROBE = """
import torch, torch.distributed, torch.func
x = torch.ones(1, 1, 4, 4, requires_grad=True)
torch.fft.rfft2(torch.nn.functional.conv2d(x, torch.ones(1, 1, 3, 3))).abs().sum().backward()
assert torch.distributed.is_gloo_available() and not torch.cuda.is_available()
"""


def install_torch() -> None:
    """Install torch, as selected by `TORCH` if it is set: cpu, cuda, or a requirement of pip."""
    if CHOICE not in ("", "cpu", "cuda"):
        with Step(f"installing torch: {CHOICE}, as selected by TORCH"):
            install(CHOICE)
        return
    wanted = reason_for_cuda()
    if wanted:
        with Step(f"installing {TORCH} with CUDA ({DOWNLOAD}), since {wanted}"):
            install_with_cuda()
        return
    try:
        with Step(f"installing {TORCH} without CUDA's libraries, since {_reason_against()}"):
            install_without_cuda()
    except SetupError as error:
        say(f"torch does not work without CUDA's libraries here: {error.reason()}")
        with Step(f"installing {TORCH} with CUDA ({DOWNLOAD})"):
            install_with_cuda()


def reason_for_cuda() -> str:
    """Why CUDA's libraries are needed; empty if they are not."""
    if CHOICE:
        return "TORCH=cuda was given" if CHOICE == "cuda" else ""
    if is_cuda_requested() or "with-cuda=1" in os.environ.get("PRDP_PETSC_OPTIONS", ""):
        return "PETSc is built with CUDA"
    return "this machine has an NVIDIA GPU" if has_gpu() else ""


def install_with_cuda() -> None:
    """PyPI's wheel and all that it requires."""
    if remove_replacements(site_packages()):
        uninstall("torch")  # its metadata lacks CUDA
    install_locked("torch.txt")
    install_locked("torch-cuda.txt")


def install_without_cuda() -> None:
    """PyPI's wheel, its CUDA libraries replaced by empty ones; `SetupError` where that fails."""
    install_locked("torch.txt")
    if (site_packages() / "torch" / "lib" / "libtorch_cuda.so").exists():
        replace_cuda(site_packages())
    run([str(VENV / "bin" / "python"), "-c", _PROBE])


def _reason_against() -> str:
    if CHOICE == "cpu":
        return "TORCH=cpu was given"
    return "this machine has no NVIDIA GPU (TORCH=cuda installs them)"
