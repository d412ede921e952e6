"""Conversion of the number types in data files to float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.layout import DataError

EXACT = 2**24
"""The largest n for which all integers from −n to n are exact in float32."""


def is_number_type(dtype: Any) -> bool:
    """Whether data of this type can be read: floating-point numbers of up to 64 bits and integers,
    in any byte order.
    """
    found = np.dtype(dtype)
    return found.kind in "iu" or (found.kind == "f" and found.itemsize <= 8)


def as_floating(array: NDArray[Any], where: str) -> NDArray[Any]:
    """The same numbers as float32 or float64 in the byte order of this machine.

    float64 remains float64; float32, float16 and integers become float32, in which they are exact.

    Parameters
    ----------
    array : numpy array
        Numbers of any type of `is_number_type`.
    where : str
        Name of the array in messages.

    Returns
    -------
    numpy array
        The numbers; the array itself if its type needs no conversion.

    Raises
    ------
    DataError
        For another type, and for integers beyond ±2²⁴, which float32 would round.
    """
    if array.dtype.char in "fd" and array.dtype.isnative:
        return array
    if not is_number_type(array.dtype):
        raise DataError(
            f"{where} must have floating-point numbers of at most 64 bits or integers, not "
            f"{array.dtype}"
        )
    if array.dtype.kind in "iu" and array.size and array.dtype.itemsize > 2:
        largest = max(abs(int(array.max())), abs(int(array.min())))
        if largest > EXACT:
            raise DataError(
                f"{where} contains the integer {largest} (or its negative), which float32 cannot "
                f"represent exactly beyond {EXACT}: store it as float64"
            )
    double = array.dtype.kind == "f" and array.dtype.itemsize == 8
    converted: NDArray[Any] = array.astype(np.float64 if double else np.float32, copy=False)
    return converted


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite. A sum is faster than a test of each; it may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum()
    return bool(np.isfinite(total)) or bool(np.isfinite(array).all())
