"""Conversion between torch tensors and numbers for PETSc; no other module converts.

PETSc works here in double precision. A float64, contiguous tensor in the memory of the solve is
shared without a copy; everything else is copied, since `placeArray` and DLPack would silently
reorder a non-contiguous tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.linalg.memory import HOST, Memory, call, in_order, put_coo_values

Array = NDArray[np.float64]


def to_host(tensor: Tensor | Array) -> Array:
    """A C-contiguous float64 array of the tensor's numbers, which shares memory with it if
    possible. An array is returned unchanged.
    """
    array: Array = to_memory(tensor, HOST)
    return array


def to_memory(tensor: Tensor | Array, memory: Memory) -> Numbers:
    """The tensor's numbers, contiguous float64, in a memory: an array on the host, a tensor on a
    device. It shares memory with the tensor if possible.
    """
    if isinstance(tensor, np.ndarray):
        if not memory.uses_tensors:
            return tensor
        tensor = torch.from_numpy(tensor)
    detached = _in_double(tensor.detach() if tensor.requires_grad else tensor, memory.device)
    # NumPy has no lazy negation, which e.g. the imaginary part of a conjugate has.
    if not detached.is_contiguous() or detached.is_neg():
        detached = detached.contiguous().resolve_neg()
    return detached if memory.uses_tensors else detached.numpy()


def placed(*pairs: tuple[Any, Numbers]) -> AbstractContextManager[None]:
    """PETSc vectors that use these numbers as their memory during a block.

    The numbers must be contiguous float64 ones in the vector's memory: PETSc places a copy of
    others. PETSc manual pages: VecPlaceArray, VecCUDAPlaceArray.
    """
    return _placed_tensors(pairs) if isinstance(pairs[0][1], Tensor) else _Placed(pairs)


def call_on_arrays(
    function: Callable[[Any, Any], Any], first: tuple[Any, Numbers], second: tuple[Any, Numbers]
) -> None:
    """Call a function with two PETSc vectors, `placed` on their numbers."""
    (one, array), (other, result) = first, second
    if isinstance(array, Tensor):
        with placed(first, second):
            function(one, other)
        return
    # Without a context, because this is called by each solve.
    one.placeArray(array)
    other.placeArray(result)
    try:
        function(one, other)
    finally:
        one.resetArray()
        other.resetArray()


class _Placed:
    """`placed` on the host; a class, because a generator takes longer than a small solve's
    iteration.
    """

    __slots__ = ("_pairs",)

    def __init__(self, pairs: tuple[tuple[Any, Array], ...]) -> None:
        self._pairs = pairs

    def __enter__(self) -> None:
        for vector, array in self._pairs:
            vector.placeArray(array)

    def __exit__(self, *raised: object) -> None:
        for vector, _ in self._pairs:
            vector.resetArray()


@contextmanager
def _placed_tensors(pairs: tuple[tuple[Any, Tensor], ...]) -> Iterator[None]:
    kind = kind_of(pairs[0][1].device)
    with in_order(pairs[0][1].device):
        for vector, tensor in pairs:
            call(f"Vec{kind}PlaceArray", vector.handle, tensor.data_ptr())
        try:
            yield
        finally:
            for vector, _ in pairs:
                call(f"Vec{kind}ResetArray", vector.handle)


def put_values(matrix: Any, values: Numbers | None) -> None:
    """Put the values of a matrix's COO pattern into it, from its own memory; collective. PETSc
    manual page: MatSetValuesCOO.
    """
    if isinstance(values, Tensor):
        put_coo_values(matrix, values)
    else:
        matrix.setValuesCOO(values)


def kind_of(device: torch.device) -> str:
    """The name of a device in PETSc's function names; "" for the host."""
    return "" if device.type == "cpu" else "HIP" if torch.version.hip else "CUDA"


def in_double(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """The tensor in double precision, on the host or a device, as solves compute;
    differentiable.
    """
    return _in_double(tensor, HOST.device if device is None else device)


def _in_double(tensor: Tensor, device: torch.device) -> Tensor:
    # `Tensor.to` takes several times as long as these comparisons.
    if tensor.dtype is torch.float64 and tensor.device == device:
        return tensor
    return tensor.to(device=device, dtype=torch.float64)


def like(result: Tensor, model: Tensor) -> Tensor:
    """`result` in the precision and on the device of `model`; differentiable."""
    return (
        result
        if result.dtype is model.dtype and result.device == model.device
        else result.to(model)
    )


def is_aij(matrix: Any) -> bool:
    """Whether a PETSc matrix stores rows entry by entry, not in blocks (baij, sbaij)."""
    kind = str(matrix.getType()).removeprefix("seq").removeprefix("mpi")
    return kind.startswith("aij")


def is_real_tensor(value: Any) -> bool:
    """Whether `value` is a tensor of real floating-point numbers, which are stored one by one."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and not value.is_meta
    )


def kind_of_argument(value: Any) -> str:
    """A description of a value that is no tensor of real numbers."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout is not torch.strided:
        return f"a tensor of layout {value.layout} (use to_dense())"
    return "a tensor without numbers (device meta)" if value.is_meta else str(value.dtype)
