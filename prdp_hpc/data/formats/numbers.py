"""Conversion of stored numbers to those that PyTorch computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from prdp_hpc.data.layout import DataError


def converted_type(stored: DTypeLike, name: str) -> np.dtype[Any]:
    """The native floating-point type without a loss for numbers of the type `stored`.

    float16 and integers of at most 16 bits become float32, other integers float64. `name` is that
    of the data set in the message.

    Raises
    ------
    DataError
        For complex numbers, text and objects, and for more than 64 bits.
    """
    found = np.dtype(stored)
    if found.kind == "f" and found.itemsize <= 8:
        return np.dtype(np.float64 if found.itemsize == 8 else np.float32)
    if found.kind in "iub":
        return np.dtype(np.float32 if found.itemsize <= 2 else np.float64)
    raise DataError(f"{name} must contain real numbers of at most 64 bits, not {found}")


def converted(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The same numbers as a contiguous array of `converted_type`; no copy if it is one."""
    return np.ascontiguousarray(array, converted_type(array.dtype, name))
