"""Reading the samples of a group as tensors: this rank's part of windows of states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.data.layout import DataError
from prdp_hpc.data.number_types import as_floating
from prdp_hpc.data.windowed import WindowedDataset, dataset_name
from prdp_hpc.data.windows import Windows
from prdp_hpc.distributed.signals import stop_if_held

BLOCK_BYTES = 2**26
"""Bytes that are read at once where a group is read as a whole."""


@dataclass(frozen=True)
class GroupReader:
    """Reads this rank's part of the samples of a group, in the type of the network, on the host.

    Attributes
    ----------
    data : the data set.
    group : name of the group.
    windows : its samples.
    part : the points of this rank, one slice per axis of the grid.
    channels : number of channels, in which all groups must agree.
    dtype : floating-point type of the tensors.
    """

    data: WindowedDataset
    group: str
    windows: Windows
    part: tuple[slice, ...]
    channels: int
    dtype: torch.dtype

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Points of this rank per axis."""
        return tuple(axis.stop - axis.start for axis in self.part)

    @property
    def state_bytes(self) -> int:
        """Bytes of this rank's part of a state."""
        return self.channels * int(np.prod(self.local_shape)) * self.dtype.itemsize

    def samples(self, ids: Iterable[int], pinned: bool = False) -> Tensor:
        """The samples with these numbers, `(b, window, C, *local_shape)`, on the host; `pinned`: in
        memory from which a GPU can copy without the host.
        """
        places, length = self._places(ids), self.windows.length
        if not places:
            return torch.empty((0, length, self.channels, *self.local_shape), dtype=self.dtype)
        array = self.data.read_windows(self.group, places, length, self.part)
        return self._batch(array, places, pinned)

    def cached_samples(self, ids: Iterable[int]) -> Tensor | None:
        """What `samples` returns, if no waiting for a disk is needed."""
        places = self._places(ids)
        if not places:
            return self.samples(ids)
        array = self.data.cached_windows(self.group, places, self.windows.length, self.part)
        return None if array is None else self._batch(array, places)

    def _places(self, ids: Iterable[int]) -> list[tuple[int, int]]:
        return [self.windows.place(sample) for sample in ids]

    def _batch(self, array: Any, places: list[tuple[int, int]], pinned: bool = False) -> Tensor:
        """Windows that were read, as a tensor of finite numbers in the type of the network."""
        shape = (len(places), self.windows.length, self.channels, *self.local_shape)
        stored = self._checked(
            np.asarray(array), shape, "read_windows", "(windows, states, C, *part)"
        )
        read = torch.from_numpy(stored)
        if pinned or read.dtype != self.dtype:
            found = torch.empty(shape, dtype=self.dtype, pin_memory=pinned).copy_(read)
        else:
            found = read
        self._check_finite(found, places)
        return found

    def states(self, trajectory: int, states: slice) -> Tensor:
        """Some states of a trajectory, `(states, C, *local_shape)`, in the type of the file."""
        found = self.data.read_states(self.group, trajectory, states, self.part)
        count = len(range(states.start, states.stop, states.step))
        wanted = (count, self.channels, *self.local_shape)
        array = self._checked(np.asarray(found), wanted, "read_states", "(states, channels, *part)")
        return torch.from_numpy(array)

    def all(self, device: torch.device) -> Tensor:
        """The states of all trajectories, `(trajectories, states, C, *local_shape)`, on a device.
        Only a block of trajectories at a time is also held in the type of the file.
        """
        count, states = self.windows.trajectories, self.windows.states
        shape = (count, states, self.channels, *self.local_shape)
        found = torch.empty(shape, dtype=self.dtype, device=device)
        at_once = max(1, BLOCK_BYTES // max(1, states * self.state_bytes))
        for first in range(0, count, at_once):
            stop_if_held()
            block = range(first, min(first + at_once, count))
            array = np.asarray(self.data.read(self.group, block, self.part))
            wanted = (len(block), *shape[1:])
            array = self._checked(array, wanted, "read", "(samples, steps + 1, channels, *part)")
            rows = torch.from_numpy(array)
            if not _is_finite(rows):
                raise DataError(f"{dataset_name(self.data)}: {self.group} contains NaN or infinity")
            found[block.start : block.stop] = rows
        return found

    def _check_finite(self, found: Tensor, places: list[tuple[int, int]]) -> None:
        if _is_finite(found):
            return
        row, state = (int(i) for i in (~found.isfinite()).nonzero()[0, :2])
        trajectory, start = places[row]
        raise DataError(
            f"{dataset_name(self.data)}: {self.group} contains NaN or infinity, first in sample "
            f"{trajectory}, step {start + state}"
        )

    def _checked(
        self, array: NDArray[Any], wanted: tuple[int, ...], method: str, meaning: str
    ) -> NDArray[Any]:
        name = dataset_name(self.data)
        if array.shape != wanted:
            raise DataError(
                f"{name}: {method}({self.group!r}, …) must return {meaning} = {wanted}, not "
                f"{array.shape}"
            )
        return np.ascontiguousarray(as_floating(array, f"{name}: {self.group}"))


def _is_finite(values: Tensor) -> bool:
    """Whether all values are finite. A sum is faster than a test of each value; it may overflow."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
