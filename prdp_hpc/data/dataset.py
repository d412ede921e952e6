"""What a data set is for the rest of the package: `TrajectoryDataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


@runtime_checkable
class TrajectoryDataset(Protocol):
    """Trajectories in groups: "train", "validation", and where it says so "test".

    A class of one's own reads any format. In a config it is named by `data.format` and made by
    `Name(path, **keys)` on every rank, or by its class method `open(path, shape, groups, **keys)`
    where it has one: the points of the grid, and the groups that are needed.

    Optional: `attributes`, a mapping with numbers such as `dt` that are compared with the PDE's;
    `path`, by which messages call it; `groups`, the names of all groups: where "test" is among
    them, its samples are evaluated once, at the end of a run, and nothing else sees them.

    Attributes
    ----------
    steps : steps of a trajectory after its initial state.

    Example
    -------
        class Arrays:
            def __init__(self, path):
                self._states = numpy.load(path, mmap_mode="r")  # (samples, steps + 1, C, *shape)
                self.steps = self._states.shape[1] - 1

            def count(self, group):
                return len(self._states) - 5 if group == "train" else 5

            def read(self, group, samples, part):
                first = 0 if group == "train" else len(self._states) - 5
                return numpy.array(self._states[(slice(first + samples[0], first + samples[-1] + 1),
                                                 slice(None), slice(None), *part)])
    """

    @property
    def steps(self) -> int:
        """Steps of a trajectory after its initial state."""
        ...

    def count(self, group: str) -> int:
        """Samples of a group; 0 where there is none."""
        ...

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """Trajectories `(len(samples), steps + 1, C, *part)`, float32 or float64; `part` is one
        slice per axis of the grid: this rank's points.
        """
        ...
