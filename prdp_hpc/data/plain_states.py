"""States whose bytes lie in an HDF5 file as they do in memory, read at their address."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


class PlainStates:
    """The states of an HDF5 data set `(trajectories, states, …)`, each of which lies in one piece
    of the file, without compression.

    They are read by system calls: a call of HDF5 takes longer than reading a small state, and
    copies each chunk twice. Several threads may read.

    Parameters
    ----------
    dataset : the data set, of a file that remains open.

    References: HDF5 reference manual, H5Dget_offset, H5Dget_chunk_info_by_coord; preadv(2).
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self._descriptor = dataset, dataset.file.id.get_vfd_handle()
        # Not asked for at each batch, which takes as long in h5py as reading a state.
        self._shape: tuple[int, ...] = dataset.shape
        self._size = math.prod(self._shape[2:]) * dataset.dtype.itemsize
        trajectories, states = self._shape[:2]
        chunk = (trajectories, states) if dataset.chunks is None else dataset.chunks[:2]
        counts = (-(-trajectories // chunk[0]), -(-states // chunk[1]))
        # Addresses of the chunks that were used; none has the address 0. The system allocates the
        # memory of zeros where they are overwritten.
        self._chunk, self._addresses = chunk, np.zeros(counts, dtype=np.int64)
        if dataset.chunks is None:
            self._addresses[...] = dataset.id.get_offset()

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> PlainStates | None:
        """The states of a data set; None if only HDF5 can read them."""
        file, filters = dataset.file, dataset.id.get_create_plist().get_nfilters()
        # Of a file that this process also writes, a part may not be in the file yet.
        if file.driver != "sec2" or file.id.get_intent() != h5py.h5f.ACC_RDONLY:
            return None
        if file.userblock_size or not dataset.size or filters:
            return None
        if dataset.id.get_type() != h5py.h5t.py_create(dataset.dtype):
            return None
        if dataset.chunks is not None:
            return cls(dataset) if dataset.chunks[2:] == dataset.shape[2:] else None
        # Compact, virtual and external data have no address in the file.
        return None if dataset.id.get_offset() is None else cls(dataset)

    def read(
        self,
        found: NDArray[Any],
        places: Sequence[tuple[int, int]],
        part: Sequence[slice],
        flags: int = 0,
    ) -> bool:
        """Read windows of states, a part of the grid, into a contiguous array `(windows, states, …,
        *part)` of the type of the data set; `places` are trajectories and first states.

        False if only HDF5 can read them: the part is not a range along the first axis of the grid,
        or nothing was written there. `flags` are those of preadv.

        Raises
        ------
        OSError
            If the file ends before the states, or with `RWF_NOWAIT` if they are not in memory.
        """
        points = self._shape[len(self._shape) - len(part) :]
        if any(axis.stop - axis.start < n for axis, n in zip(part[1:], points[1:], strict=True)):
            return False
        states = self._places(np.array(places, dtype=np.int64), found.shape[1])
        if states is None:
            return False
        size, rows = self._size, part[0].stop - part[0].start
        if rows < points[0]:
            field = self._size // math.prod(self._shape[2 : len(self._shape) - len(part)])
            first = part[0].start * field // points[0]
            states = states[..., None] + np.arange(first, self._size, field)
            size = rows * field // points[0]
        self._fill(found.reshape(-1).view(np.uint8), states.ravel(), size, flags)
        return True

    def _places(self, windows: NDArray[np.int64], length: int) -> NDArray[np.int64] | None:
        """Where each state begins in the file, `(windows, length)`; None if nothing was written in
        one of these places.
        """
        trajectories, states = windows[:, :1], windows[:, 1:] + np.arange(length)
        rows, columns = trajectories // self._chunk[0], states // self._chunk[1]
        chunks = self._addresses[rows, columns]
        if not chunks.all():
            self._find(rows, columns)
            chunks = self._addresses[rows, columns]
            if not chunks.all():
                return None
        before = trajectories % self._chunk[0] * self._chunk[1] + states % self._chunk[1]
        found: NDArray[np.int64] = chunks + before * self._size
        return found

    def _find(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """Ask HDF5 for the addresses of chunks."""
        inner = (0,) * (len(self._shape) - 2)
        for place in np.ndindex(columns.shape):
            row, column = int(rows[place[0], 0]), int(columns[place])
            if not self._addresses[row, column]:
                corner = (row * self._chunk[0], column * self._chunk[1], *inner)
                found = self._dataset.id.get_chunk_info_by_coord(corner).byte_offset
                self._addresses[row, column] = found or 0

    def _fill(
        self, into: NDArray[np.uint8], places: NDArray[np.int64], size: int, flags: int
    ) -> None:
        """Read pieces of equal size one after the other; those side by side in the file at once."""
        begins = [0, *(np.flatnonzero(np.diff(places) != size) + 1).tolist()]
        for first, last in zip(begins, [*begins[1:], len(places)], strict=True):
            self._read(into[first * size : last * size], int(places[first]), flags)

    def _read(self, into: NDArray[np.uint8], address: int, flags: int) -> None:
        while into.size:
            count = os.preadv(self._descriptor, [into.data], address, flags)
            if not count:
                raise OSError(f"the file ends before byte {address + into.size}")
            into, address = into[count:], address + count
