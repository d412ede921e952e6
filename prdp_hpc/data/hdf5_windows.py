"""Reading windows of states of an HDF5 data set by HDF5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.windows import runs


def read_by_hdf5(
    dataset: h5py.Dataset,
    found: NDArray[Any],
    places: Sequence[tuple[int, int]],
    part: Sequence[slice],
) -> None:
    """Read windows, a part of the grid, into a contiguous array `(windows, states, …, *part)` of
    the type of the data set; of overlapping windows in order each state is read once.
    """
    length, read_into = found.shape[1], _states_reader(dataset, part)
    for first, after in runs(places, length):
        trajectory, start = places[first]
        if after == first + 1:
            read_into(found[first], trajectory, start)
            continue
        used = places[after - 1][1] + length - start
        states: NDArray[Any] = np.empty((used, *found.shape[2:]), found.dtype)
        read_into(states, trajectory, start)
        for row in range(first, after):
            offset = places[row][1] - start
            found[row] = states[offset : offset + length]


def _states_reader(
    dataset: h5py.Dataset, part: Sequence[slice]
) -> Callable[[NDArray[Any], int, int], None]:
    """A function that reads consecutive states of a trajectory into a contiguous array.

    It calls HDF5 directly: the selection of h5py and the copy of its result take longer than
    reading a small window.
    """
    origin = (*[0] * (dataset.ndim - 2 - len(part)), *[axis.start for axis in part])
    kind, stored = h5py.h5t.py_create(dataset.dtype), dataset.id.get_space()

    def read_into(found: NDArray[Any], trajectory: int, start: int) -> None:
        counts = (1, *found.shape)
        stored.select_hyperslab((trajectory, start, *origin), counts)
        dataset.id.read(h5py.h5s.create_simple(counts), stored, found, kind)

    return read_into
