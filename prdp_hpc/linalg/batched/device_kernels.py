"""The package's kernels for a device, if there are any; imports Triton only then."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from torch import Tensor

SWITCH = "PRDP_TRITON"
"""If set to 0, batched solves use torch's operations on GPUs too."""
MOST_ROWS = 65_535
"""Largest number of right-hand sides per launch."""


def kernels_for(x: Tensor) -> Any:
    """The module `triton_kernels` for vectors `(B, n_local)`; None for torch's operations."""
    if not x.is_cuda or len(x) > MOST_ROWS or x.numel() == 0:
        return None
    return _kernels() if os.environ.get(SWITCH, "1") != "0" else None


@cache
def _kernels() -> Any:
    try:
        importlib.import_module("triton")
    except ImportError:
        return None
    return importlib.import_module("prdp_hpc.linalg.batched.triton_kernels")
