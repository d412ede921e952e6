"""Writing of fields that are divided among ranks to given addresses of one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray


class SharedFile:
    """An existing file in which the ranks of a communicator write fields together.

    Several such communicators may write to one file at different addresses. One rank writes by
    `pwrite`. Several ranks write by MPI-IO with one subarray per rank, so that MPI joins their
    rows to long pieces and no rank needs memory for the whole field.

    References: MPI standard, chapter I/O; Thakur, Gropp and Lusk (1999), Data sieving and
    collective I/O in ROMIO.

    Parameters
    ----------
    path : the file.
    comm : the ranks that share each field; collective.
    shape : shape of a whole field, `(C, *grid shape)`.
    part : this rank's part, one slice per axis of the grid; may be empty.
    dtype : float32 or float64, the type of the numbers in the file.

    Raises
    ------
    OSError
        If the file cannot be opened or written, on any rank.
    """

    def __init__(
        self,
        path: Path,
        comm: MPI.Comm,
        shape: Sequence[int],
        part: Sequence[slice],
        dtype: Any = np.float32,
    ) -> None:
        self._file: MPI.File | None = None
        self._dtype = np.dtype(dtype)
        self._number = {4: MPI.FLOAT, 8: MPI.DOUBLE}[self._dtype.itemsize]
        self._type = self._number
        if comm.size == 1:
            self._own = path.open("r+b", buffering=0)
            return
        try:
            intracomm = cast("MPI.Intracomm", comm)
            self._file = MPI.File.Open(intracomm, os.fspath(path), MPI.MODE_WRONLY)
        except MPI.Exception as error:
            raise _as_os_error(error) from error
        sizes = [shape[0], *(axis.stop - axis.start for axis in part)]
        if all(sizes):
            starts = [0, *(axis.start for axis in part)]
            subarray = self._number.Create_subarray(list(shape), sizes, starts)
            self._type = subarray.Commit()

    def write(self, addresses: Sequence[int], fields: NDArray[Any]) -> None:
        """Write this rank's parts of some fields, `(fields, C, *part)`, each with the address of
        its first byte in the file; collective over `comm`.
        """
        fields = np.ascontiguousarray(fields, self._dtype)
        for address, field in zip(addresses, fields, strict=True):
            if self._file is None:
                _write_all(self._own.fileno(), field.tobytes(), address)
                continue
            try:
                self._file.Set_view(address, self._number, self._type)
                self._file.Write_all([field, field.size, self._number])
            except MPI.Exception as error:
                raise _as_os_error(error) from error

    def sync(self) -> None:
        """Wait until what was written is on the disk; collective over `comm`."""
        if self._file is None:
            os.fsync(self._own.fileno())
            return
        try:
            self._file.Sync()
        except MPI.Exception as error:
            raise _as_os_error(error) from error

    def close(self) -> None:
        """Close the file; collective over `comm`."""
        if self._file is None:
            self._own.close()
            return
        self._file.Close()
        if self._type != self._number:
            self._type.Free()


def _write_all(descriptor: int, content: bytes, address: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, address)
        left, address = left[written:], address + written


def _as_os_error(error: MPI.Exception) -> OSError:
    return OSError(" ".join(str(error).split()))
