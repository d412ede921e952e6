"""Operations of solves on batches of vectors, in either memory.

A batch `(B, n_local)` is a float64 NumPy array on the host or a float64 tensor on a device. Results
per row are NumPy arrays on the host, because they are few scalars.
"""

from __future__ import annotations

import ctypes
import math
import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = Any
"""A float64 NumPy array on the host, or a float64 tensor."""
HostArray = NDArray[np.float64]

_MEMCMP = ctypes.CDLL(None).memcmp
_MEMCMP.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def zeros_like(numbers: Numbers) -> Numbers:
    """Zeros in the same memory."""
    is_tensor = isinstance(numbers, Tensor)
    return torch.zeros_like(numbers) if is_tensor else np.zeros(numbers.shape)


def empty_like(numbers: Numbers) -> Numbers:
    """Unset numbers in the same memory."""
    is_tensor = isinstance(numbers, Tensor)
    return torch.empty_like(numbers) if is_tensor else np.empty_like(numbers)


def copied(numbers: Numbers) -> Numbers:
    """A copy in the same memory."""
    return numbers.clone() if isinstance(numbers, Tensor) else numbers.copy()


def as_tensor(numbers: Numbers) -> Tensor:
    """A tensor that shares memory with the numbers."""
    return numbers if isinstance(numbers, Tensor) else torch.from_numpy(numbers)


def on_host(numbers: Numbers) -> HostArray:
    """The numbers as a NumPy array, copied where they are on a device."""
    array: HostArray = numbers.cpu().numpy() if isinstance(numbers, Tensor) else numbers
    return array


def array_of(given: Any) -> NDArray[Any]:
    """An argument of a user as a NumPy array, without its gradient; one of objects for lists of
    different lengths.
    """
    if isinstance(given, Tensor):
        own = given.detach().cpu()
        given = (own.double() if own.is_floating_point() else own).numpy()
    try:
        return np.asarray(given)
    except ValueError:
        return np.asarray(given, dtype=object)


def in_memory_of(numbers: Numbers, model: Numbers) -> Numbers:
    """The numbers, e.g. of a checkpoint, in the memory of `model`."""
    if isinstance(model, Tensor):
        if isinstance(numbers, np.ndarray):
            numbers = torch.from_numpy(np.ascontiguousarray(numbers))
        return numbers.to(model.device)
    return on_host(numbers)


def split_rows(rows: Numbers, parts: int) -> list[Numbers]:
    """Equal parts, in the order of the rows; views."""
    if isinstance(rows, Tensor):
        return list(rows.split(len(rows) // parts))
    return np.split(rows, parts)


def has_bad_numbers(numbers: Numbers) -> bool:
    """Whether NaN or infinity occurs; a sum of all numbers, or of their squares, is NaN or infinite
    then, and needs one pass without a temporary array.
    """
    if isinstance(numbers, Tensor):
        return not bool(torch.isfinite(numbers.sum())) and not bool(torch.isfinite(numbers).all())
    return not math.isfinite(np.vdot(numbers, numbers)) and not bool(np.isfinite(numbers).all())


def largest_of_rows(rows: Numbers) -> HostArray:
    """The largest size of a number in each row, `(B,)`; NaN where one occurs."""
    if isinstance(rows, Tensor):
        if not rows.numel():
            return np.zeros(len(rows))
        return on_host(torch.maximum(rows.amax(dim=1), -rows.amin(dim=1)))
    # Two passes without a temporary of the rows' size.
    sizes: HostArray = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    return sizes


def nonzero_rows(rows: Numbers) -> NDArray[np.bool_]:
    """Whether each row has a number that is not zero."""
    if isinstance(rows, Tensor):
        return rows.ne(0.0).any(dim=1).cpu().numpy()
    found: NDArray[np.bool_] = np.any(rows, axis=1)
    return found


def squares_of_rows(rows: Numbers) -> HostArray:
    """The squared length of each row."""
    if isinstance(rows, Tensor):
        return on_host(torch.linalg.vecdot(rows, rows))
    return np.array(squares_of(rows))


def squares_of(rows: Numbers) -> list[float]:
    """The same as numbers of Python, because arrays of a few take longer than small solves may."""
    if isinstance(rows, Tensor):
        found: list[float] = torch.linalg.vecdot(rows, rows).tolist()
        return found
    # By index: the end of an iteration over an array takes longer than a product.
    own = [rows[index] for index in range(len(rows))]
    # `ndarray.dot` would warn of an overflow.
    return [float(np.vdot(row, row)) for row in own]


def inner(one: Numbers, other: Numbers) -> float:
    """The sum of the products of all numbers."""
    if isinstance(one, Tensor):
        return float(torch.dot(one.reshape(-1), other.reshape(-1)))
    return float(np.vdot(one, other))


def set_rows(rows: Numbers, which: NDArray[np.bool_], value: Numbers) -> None:
    """Set some rows to a number, or to the same rows of an array."""
    for index in np.flatnonzero(which):
        rows[index] = value if isinstance(value, float) else value[index]


def times_power_of_two(rows: Numbers, exponents: NDArray[np.int32], sign: int = 1) -> Numbers:
    """`rows · 2^(sign · exponents)` for exponents `(B, 1)`, in new memory."""
    if isinstance(rows, Tensor):
        whole = torch.from_numpy(sign * exponents).to(rows.device)
        half = torch.div(whole, 2, rounding_mode="trunc")
        # In two steps, because one power of two may overflow.
        return torch.ldexp(torch.ldexp(rows, half), whole - half)
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(rows, sign * exponents)


def differ(ours: Numbers, theirs: Numbers, block: int) -> bool:
    """Whether two sets of numbers of the same shape are not equal number by number."""
    if isinstance(ours, Tensor):
        return not torch.equal(ours, theirs)
    if ours.size <= block:
        return not (ours == theirs).all()
    flat, others = ours.reshape(-1), theirs.reshape(-1)
    # Block by block, so that the compared numbers stay in the cache.
    blocks = (slice(start, start + block) for start in range(0, flat.size, block))
    return not all((flat[part] == others[part]).all() for part in blocks)


def same_bytes(address: int, other: int, size: int) -> bool:
    """Whether the memory at two addresses is equal, byte for byte; several times as fast as a
    comparison of numbers, for which NumPy makes a temporary array.
    """
    return bool(_MEMCMP(address, other, size) == 0)


def are_single(numbers: Numbers) -> bool:
    """Whether all are single-precision numbers."""
    if isinstance(numbers, Tensor):
        return bool((numbers.float() == numbers).all())
    with np.errstate(over="ignore"):
        return bool((numbers.astype(np.float32) == numbers).all())


def digest(numbers: Numbers | None) -> int:
    """A checksum by which changed numbers are detected without a copy of the earlier ones."""
    if numbers is None:
        return 0
    if isinstance(numbers, Tensor):
        bits = numbers.reshape(-1).view(torch.int64)
        weights = torch.arange(1, 2 * bits.numel(), 2, device=bits.device)
        # Sums of 64-bit integers are exact modulo 2⁶⁴, in any order.
        mixed = (bits ^ (bits >> 29)) * weights
        return int((mixed ^ (mixed >> 32)).sum())
    return zlib.crc32(numbers.reshape(-1).view(np.uint8).data)
