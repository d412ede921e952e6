"""The memory of a solve's numbers, and the corresponding PETSc types.

It depends on the device of the right-hand side. On the host the numbers are NumPy arrays, and
PETSc's types are the usual ones. On a GPU they are tensors, and matrices, vectors and KSPs are of
that device, so that a solve transfers only scalars between the two memories. The rest of the
package does not depend on the memory.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from prdp_hpc.petsc import PETSc


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
