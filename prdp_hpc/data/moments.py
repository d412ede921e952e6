"""Means and standard deviations of channels, computed in one pass over distributed data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.group_reader import BLOCK_BYTES, GroupReader
from prdp_hpc.data.layout import DataError
from prdp_hpc.data.windowed import dataset_name
from prdp_hpc.distributed.signals import stop_if_held

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared differences from the mean of the values of each channel.

    Two of them are combined without cancellation (Chan, Golub, LeVeque 1983, "Algorithms for
    computing the sample variance").

    Attributes
    ----------
    count : number of values per channel.
    mean, squares : arrays of shape `(C,)`.
    """

    count: int
    mean: Numbers
    squares: Numbers

    @classmethod
    def of(cls, states: NDArray[Any]) -> Moments:
        """The moments of states `(states, C, …)`."""
        values = np.moveaxis(states, 1, 0).reshape(states.shape[1], -1).astype(np.float64)
        if not values.size:
            return cls(0, np.zeros(len(values)), np.zeros(len(values)))
        mean = values.mean(axis=1)
        return cls(values.shape[1], mean, np.square(values - mean[:, None]).sum(axis=1))

    def combined(self, other: Moments) -> Moments:
        """The moments of the values of both."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = np.square(difference) * (self.count * (other.count / count))
        return Moments(count, mean, self.squares + other.squares + between)

    @property
    def std(self) -> Numbers:
        """The standard deviation per channel; 1 for a channel that is constant up to rounding."""
        std = np.sqrt(self.squares / max(self.count, 1))
        constant = std <= 1e-12 * np.abs(self.mean)
        found: Numbers = np.where(constant, 1.0, std)
        return found


def combined(parts: Sequence[Moments]) -> Moments:
    """The moments of all values of several parts."""
    found = parts[0]
    for part in parts[1:]:
        found = found.combined(part)
    return found


def group_moments(reader: GroupReader, trajectories: Iterable[int]) -> Moments:
    """The moments of this rank's part of some trajectories of a group, in blocks of states."""
    nothing = np.zeros(reader.channels)
    found, states = Moments(0, nothing, nothing), reader.windows.states
    at_once = max(1, BLOCK_BYTES // max(1, reader.state_bytes))
    for trajectory in trajectories:
        for first in range(0, states, at_once):
            stop_if_held()
            block = slice(first, min(first + at_once, states), 1)
            part = Moments.of(reader.states(int(trajectory), block).numpy())
            if not np.isfinite(part.squares).all():
                raise DataError(
                    f"{dataset_name(reader.data)}: {reader.group} contains NaN or infinity in "
                    f"sample {trajectory}, steps {block.start} to {block.stop - 1}"
                )
            found = found.combined(part)
    return found
