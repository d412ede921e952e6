"""Torch tensors to NumPy arrays that PETSc can use, and back; the only place that converts.

PETSc works here in double precision on the host. A float64, contiguous CPU tensor is shared without
a copy; everything else is copied, since `placeArray` and DLPack would silently reorder a
non-contiguous tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def to_host(tensor: Tensor | Array) -> Array:
    """A C-contiguous float64 array of the tensor's numbers, which shares memory with it if
    possible. An array is returned unchanged.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    detached = tensor.detach()
    if detached.dtype is not torch.float64 or not detached.is_cpu:
        detached = detached.to(device="cpu", dtype=torch.float64)
    # NumPy has no lazy negation, which e.g. the imaginary part of a conjugate has.
    array: Array = detached.contiguous().resolve_neg().numpy()
    return array


@contextmanager
def placed(*pairs: tuple[Any, Array]) -> Iterator[None]:
    """PETSc vectors that use these arrays as their memory during a block.

    The arrays must be contiguous float64 ones: PETSc places a copy of others. PETSc manual page:
    VecPlaceArray.
    """
    for vector, array in pairs:
        vector.placeArray(array)
    try:
        yield
    finally:
        for vector, _ in pairs:
            vector.resetArray()


def in_double(tensor: Tensor) -> Tensor:
    """The tensor on the host in double precision, as solves compute;
    differentiable.
    """
    return tensor.to(device="cpu", dtype=torch.float64)


def like(result: Tensor, model: Tensor) -> Tensor:
    """`result` in the precision and on the device of `model`; differentiable."""
    return (
        result
        if result.dtype is model.dtype and result.is_cpu and model.is_cpu
        else result.to(model)
    )


def has_bad_numbers(array: Array) -> bool:
    """Whether NaN or infinity occurs; the sum is NaN or infinite then, and needs one pass without a
    temporary array.
    """
    with np.errstate(invalid="ignore"):
        return not np.isfinite(array.sum()) and not bool(np.isfinite(array).all())


def is_aij(matrix: Any) -> bool:
    """Whether a PETSc matrix stores rows entry by entry, not in blocks (baij, sbaij)."""
    kind = str(matrix.getType()).removeprefix("seq").removeprefix("mpi")
    return kind.startswith("aij")


def is_real_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of real floating-point numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
