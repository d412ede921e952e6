"""The samples of a group, held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.data.group_reader import GroupReader
from prdp_hpc.data.windows import Windows

Ids = NDArray[np.int64]


class Samples(Protocol):
    """The samples of a group.

    Attributes
    ----------
    reader : reads the group.
    windows : the samples as windows of the trajectories.
    streamed : whether samples are read when they are needed.
    """

    reader: GroupReader
    windows: Windows
    streamed: bool

    @property
    def nbytes(self) -> int:
        """Memory of the samples that are held on this rank, in bytes."""
        ...

    def follow(self, step: int, sequence: Callable[[], Iterator[Ids]]) -> None:
        """Prepare the batches of the steps from `step` on, which `sequence()` yields."""
        ...

    def advance(self) -> None:
        """Begin the next of these steps; collective."""
        ...

    def batch(self, ids: Ids) -> Tensor:
        """The samples with these numbers, `(b, window, C, *local_shape)`."""
        ...

    def batches(self, sequence: Iterable[Ids]) -> Iterator[Tensor]:
        """The samples of several batches, one after the other; collective."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class MemorySamples:
    """All samples of a group, of which each state is stored once.

    Parameters
    ----------
    reader : reads the group.
    device : where the states are stored.
    """

    streamed = False

    def __init__(self, reader: GroupReader, device: torch.device) -> None:
        self.reader, self.windows = reader, reader.windows
        self._states = reader.all(device)
        self._offsets = torch.arange(self.windows.length)

    @property
    def nbytes(self) -> int:
        """Memory of the states on this rank, in bytes."""
        return self._states.nbytes

    def follow(self, step: int, sequence: Callable[[], Iterator[Ids]]) -> None:
        """Do nothing, since all samples are in memory."""

    def advance(self) -> None:
        """Do nothing, since all samples are in memory."""

    def batch(self, ids: Ids) -> Tensor:
        """The samples with these numbers, `(b, window, C, *local_shape)`."""
        window, numbers = self.windows, torch.as_tensor(ids, dtype=torch.long)
        if window.per_trajectory == 1:
            whole = window.length == window.states
            states = self._states if whole else self._states[:, : window.length]
            return states[numbers].contiguous()
        trajectories = torch.div(numbers, window.per_trajectory, rounding_mode="floor")
        starts = (numbers % window.per_trajectory) * window.stride
        return self._states[trajectories[:, None], starts[:, None] + self._offsets].contiguous()

    def batches(self, sequence: Iterable[Ids]) -> Iterator[Tensor]:
        """The samples of several batches, one after the other."""
        return map(self.batch, sequence)

    def close(self) -> None:
        """Do nothing, since no file is open."""
