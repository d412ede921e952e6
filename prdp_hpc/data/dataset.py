"""The interface of a data set: `TrajectoryDataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


@runtime_checkable
class TrajectoryDataset(Protocol):
    """Interface of a data set of trajectories in the groups "train" and "validation".

    A user-defined class can read any format. A config names it by `data.format`, and it is created
    on every rank by its class method `open(path, shape, groups, **keys)`, with the shape of the
    grid and the groups that are needed, or without this method by `Name(path, **keys)`.

    A data set may also have the method `read_states(group, sample, states, part)`, which reads only
    some states of one trajectory: `states` is a slice with start, stop and step, and the result has
    the shape `(len(states), C, *part)`. Without it whole trajectories are read, and the states are
    cut from them. With the method `read_windows(group, places, length, part)` a batch is read by
    one call: `places` are pairs (trajectory, first state), and the result has the shape
    `(len(places), length, C, *part)`. Where data are not held in memory, they are called by a
    thread, one call at a time. A data set with the method `close()` is closed at the end of a run.
    If `data.file` is a list, each file is opened by itself and they are joined, see
    `JoinedTrajectories`; a class with the attribute `several = True` gets the list instead.

    Optional attributes: `attributes`, a mapping with numbers such as `dt` that are compared with
    those of the PDE; `shape` and `spacing`, the points of the grid and their distance per axis,
    which are compared with those of the grid; `path`, its name in messages; `groups`, the names of
    all groups. If `groups` contains "test", the samples of this group are evaluated once, at the
    end of a run, and used for nothing else. Optional methods: `content_id()`, which returns a text
    that is equal for equal data. A resumed run compares it; by default it is computed from a part
    of the numbers, see `prdp_hpc.data.content`.

    Attributes
    ----------
    steps : int
        Number of time steps of a trajectory after its initial state.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import TrajectoryDataset
    >>> class Arrays:
    ...     def __init__(self, states):  # (samples, steps + 1, C, *shape)
    ...         self._states = {"train": states[:-2], "validation": states[-2:]}
    ...         self.steps = states.shape[1] - 1
    ...
    ...     def count(self, group):
    ...         return len(self._states.get(group, ()))
    ...
    ...     def read(self, group, samples, part):
    ...         return self._states[group][(list(samples), slice(None), slice(None), *part)]
    >>> data = Arrays(numpy.zeros((6, 3, 1, 16)))
    >>> isinstance(data, TrajectoryDataset), data.steps, data.count("train")
    (True, 2, 4)
    >>> data.read("train", range(3), (slice(0, 8),)).shape
    (3, 3, 1, 8)
    """

    @property
    def steps(self) -> int:
        """Number of time steps of a trajectory after its initial state."""
        ...

    def count(self, group: str) -> int:
        """Return the number of samples in a group.

        Parameters
        ----------
        group : str
            Name of the group, e.g. "train".

        Returns
        -------
        int
            Number of samples; 0 for a group that does not exist.
        """
        ...

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """Read a part of some trajectories.

        Parameters
        ----------
        group : str
            Name of the group.
        samples : sequence of int
            Indices of the samples, in increasing order.
        part : sequence of slice
            The points of this rank: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(samples), steps + 1, C, *part)`: floating-point numbers of up to
            64 bits, or integers up to 2²⁴.
        """
        ...
