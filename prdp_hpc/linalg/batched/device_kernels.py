"""Whether there are kernels of our own for a device; imports Triton only where there may be."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from torch import Tensor

SWITCH = "PRDP_TRITON"
"""Set to 0, batched solves use torch's own operations on GPUs too."""
MOST_ROWS = 65_535
"""Right-hand sides up to which one launch serves them."""


def kernels_for(x: Tensor) -> Any:
    """The module `triton_kernels` for vectors `(B, n_local)`; None where torch's own operations are
    to be used.
    """
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
