"""Conversion between torch tensors and numbers for PETSc; no other module converts.

PETSc works here in double precision. A float64, contiguous tensor in the memory of the solve is
shared without a copy; everything else is copied, since `placeArray` and DLPack would silently
reorder a non-contiguous tensor.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.petsc import PETSc

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


@dataclass(frozen=True)
class Memory:
    """One kind of memory.

    Attributes
    ----------
    device : torch's device of the numbers.
    matrix_type : PETSc's type of matrices; that of vectors corresponds to it.
    kind : "" for the host, else the part of PETSc's function names (`VecCUDAPlaceArray`).
    uses_tensors : whether the numbers of a solve are tensors, and not NumPy arrays.
    """

    device: torch.device
    matrix_type: str = "aij"
    kind: str = ""
    uses_tensors: bool = False


HOST = Memory(torch.device("cpu"))
# In torch for AMD GPUs the devices are named "cuda" too. The types for HIP have never been run.
_DEVICE_TYPES = {"CUDA": "aijcusparse", "HIP": "aijhipsparse"}


class Constant:
    """A tensor that does not change, and its copies on the devices that needed it."""

    def __init__(self, host: torch.Tensor) -> None:
        self._copies = {host.device: host}

    def on(self, device: torch.device) -> torch.Tensor:
        """The tensor on a device."""
        found = self._copies.get(device)
        if found is None:
            found = self._copies[device] = self._copies[torch.device("cpu")].to(device)
        return found


def memory_of(device: torch.device) -> Memory:
    """The memory of solves for tensors on a device: that device if this PETSc was built for it,
    else the host.
    """
    return HOST if device.type in ("cpu", "meta") else _device_memory(device)


@cache
def _device_memory(device: torch.device) -> Memory:
    kind = petsc_device_kind()
    if device.type != "cuda" or not kind:
        warnings.warn(
            f"this PETSc was built without support for {device.type!r}, so solves for tensors on "
            f"{device} run on the host: each copies its right-hand sides there and its solutions "
            "back, 16 bytes per unknown, and 8 bytes per value of a matrix that changed. Build "
            "PETSc for the GPU with `make environment CUDA=1`",
            stacklevel=4,
        )
        return HOST
    return Memory(device, _DEVICE_TYPES[kind], kind, uses_tensors=True)


@cache
def petsc_device_kind() -> str:
    """The kind of GPU that both PETSc and torch were built for, "CUDA" or "HIP"; "" if none."""
    kind = "HIP" if torch.version.hip else "CUDA" if torch.version.cuda else ""
    if not kind or not PETSc.Sys.hasExternalPackage(kind.lower()):
        return ""
    return kind if c_function(f"Vec{kind}PlaceArray", 2) is not None else ""


@cache
def c_function(name: str, pointers: int, *more: Any) -> Callable[..., int] | None:
    """A function of PETSc's C interface that petsc4py does not have, with this number of pointers
    and further arguments of the given C types; None if the library does not export it.
    """
    try:
        function = getattr(ctypes.CDLL(PETSc.__file__), name)
    except (AttributeError, OSError):
        return None
    function.argtypes = [*[ctypes.c_void_p] * pointers, *more]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def call(name: str, *pointers: int | None) -> None:
    """Call a C function of PETSc with handles and addresses."""
    function = c_function(name, len(pointers))
    assert function is not None, f"PETSc has no {name}"
    _check(function(*pointers))


@contextmanager
def viewed(vector: Any, memory: Memory, how: str) -> Iterator[torch.Tensor]:
    """The numbers of a PETSc vector as a tensor, inside a function that PETSc calls; `how`: "Read"
    or "Write". On the host what is read is a copy. Work on the tensor is in PETSc's order.
    """
    if not memory.kind:
        array = np.array(vector.getArray(readonly=True)) if how == "Read" else vector.getArray()
        yield torch.from_numpy(array)
        return
    address = ctypes.c_void_p()
    call(f"Vec{memory.kind}GetArray{how}", vector.handle, ctypes.addressof(address))
    try:
        with torch.cuda.stream(torch.cuda.default_stream(memory.device)):
            yield torch.as_tensor(
                _DeviceArray(address, vector.getLocalSize()), device=memory.device
            )
    finally:
        call(f"Vec{memory.kind}RestoreArray{how}", vector.handle, ctypes.addressof(address))


class _DeviceArray:
    """Float64 numbers at an address of a device, as torch takes them without a copy."""

    def __init__(self, address: ctypes.c_void_p, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "<f8",
            "data": (address.value or 0, False),
            "version": 3,
        }


def put_coo_values(matrix: Any, values: torch.Tensor) -> None:
    """MatSetValuesCOO with values in the matrix's own memory; collective."""
    function = c_function("MatSetValuesCOO", 2, ctypes.c_int)
    assert function is not None, "PETSc has no MatSetValuesCOO"
    with in_order(values.device):
        _check(function(matrix.handle, values.data_ptr(), int(PETSc.InsertMode.INSERT_VALUES)))


@contextmanager
def in_order(device: torch.device) -> Iterator[None]:
    """Order PETSc's work in a block after torch's earlier work and before its later work, by an
    event on each stream, without waiting for the device.

    PETSc works on the device's default stream (PetscDeviceContext's PETSC_STREAM_DEFAULT).
    """
    if device.type != "cuda":
        yield
        return
    current, petscs = torch.cuda.current_stream(device), torch.cuda.default_stream(device)
    if current == petscs:
        yield
        return
    petscs.wait_stream(current)
    try:
        yield
    finally:
        current.wait_stream(petscs)


def _check(code: int) -> None:
    if code:
        raise PETSc.Error(code)
