"""Several data sets as one: `JoinedTrajectories`."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.alike import check_alike, common_attributes
from prdp_hpc.data.dataset import TrajectoryDataset
from prdp_hpc.data.formats.files import named
from prdp_hpc.data.layout import GROUPS, TEST, DataError
from prdp_hpc.data.windowed import WindowedDataset, dataset_name

KEPT_OPEN = 64
"""Number of data sets that remain open; there may be more than the files a process may open."""
OPTIONAL = ("shape", "spacing", "boundary", "channels")
"""Optional attributes of a data set, in which the data sets must agree."""


class JoinedTrajectories:
    """Several data sets of one PDE as one data set.

    The trajectories of each group are those of the first data set, then those of the second one,
    and so on. A data set need not have all groups: one file may have those for training, and
    another one those for validation. Nothing is read before it is needed.

    Parameters
    ----------
    parts : sequence of TrajectoryDataset
        The data sets. They must have equal grids and numbers of channels, and equal time steps and
        coefficients where their attributes contain them. The coefficients of all of them are
        compared with those of a task's PDE.

    Attributes
    ----------
    parts : tuple of TrajectoryDataset
        The data sets.
    path : Path
        The name of the data in messages.
    steps : int
        Number of time steps after the initial state, the smallest of all data sets.
    groups : tuple of str
        Names of the groups.
    attributes : dict
        The attributes that are equal in all data sets, and those that only some have.
    assumed : str
        What a data set does not name and was assumed, the first of these; "" if nothing.

    Raises
    ------
    DataError
        If the data sets do not fit together.

    See Also
    --------
    TrajectoryFile : A data set in an HDF5 file.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import JoinedTrajectories, TrajectoryArrays
    >>> one = TrajectoryArrays(numpy.ones((4, 3, 1, 16)), numpy.ones((2, 3, 1, 16)))
    >>> two = TrajectoryArrays(numpy.ones((5, 3, 1, 16)), numpy.ones((1, 3, 1, 16)))
    >>> data = JoinedTrajectories([one, two])
    >>> data.count("train"), data.count("validation"), data.steps
    (9, 3, 2)
    >>> data.read("train", range(3, 6), (slice(0, 8),)).shape
    (3, 3, 1, 8)
    """

    def __init__(self, parts: Sequence[TrajectoryDataset]) -> None:
        if not parts:
            raise DataError("JoinedTrajectories: give at least one data set")
        self.parts = tuple(parts)
        self.path = named([dataset_name(part) for part in parts])
        self.steps = min(part.steps for part in parts)
        self._used = [WindowedDataset(part, steps=self.steps) for part in parts]
        names = dict.fromkeys(name for part in parts for name in getattr(part, "groups", GROUPS))
        # Where the trajectories of each data set begin in each group, and the number of all.
        self._begins = {
            group: [0, *accumulate(part.count(group) for part in parts)] for group in names
        }
        self.groups = tuple(group for group in (*GROUPS, TEST) if self.count(group))
        self._open, self._lock = OrderedDict[int, None](), Lock()
        for part in parts[1:]:
            check_alike(part, parts[0])
        self.attributes = common_attributes(parts)
        found = (str(getattr(part, "assumed", "")) for part in parts)
        self.assumed = next((text for text in found if text), "")
        for name in OPTIONAL:
            if all(getattr(part, name, None) is not None for part in parts):
                setattr(self, name, getattr(parts[0], name))
        self._check_channels()

    def count(self, group: str) -> int:
        """Return the number of trajectories in a group.

        Parameters
        ----------
        group : str
            Name of the group.

        Returns
        -------
        int
            Number of trajectories; 0 for a group that does not exist.
        """
        return self._begins[group][-1] if group in self._begins else 0

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """Read a part of some trajectories.

        Parameters
        ----------
        group : str
            Name of the group.
        samples : sequence of int
            Indices of the trajectories, in increasing order.
        part : sequence of slice
            The points to read: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(samples), steps + 1, C, *part)`.
        """
        places = [(sample, 0) for sample in samples]

        def one(data: WindowedDataset, own: list[tuple[int, int]]) -> NDArray[Any]:
            return data.read(group, _as_range([sample for sample, _ in own]), part)

        found = self._collected(group, places, one)
        assert found is not None
        return found

    def read_states(
        self, group: str, sample: int, states: slice, part: Sequence[slice]
    ) -> NDArray[Any]:
        """Read a part of some states of one trajectory.

        Parameters
        ----------
        group : str
            Name of the group.
        sample : int
            Index of the trajectory.
        states : slice
            The states, with start, stop and step.
        part : sequence of slice
            The points to read: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(states), C, *part)`.
        """
        number, own = self._place(group, sample)
        return self._opened(number).read_states(group, own, states, part)

    def read_windows(
        self, group: str, places: Sequence[tuple[int, int]], length: int, part: Sequence[slice]
    ) -> NDArray[Any]:
        """Read a part of several windows of states.

        Parameters
        ----------
        group : str
            Name of the group.
        places : sequence of (int, int)
            The windows: index of the trajectory, and index of the first state.
        length : int
            Number of states of each window.
        part : sequence of slice
            The points to read: one slice per axis of the grid.

        Returns
        -------
        numpy array
            States of shape `(len(places), length, C, *part)`.
        """
        found = self._collected(
            group, places, lambda data, own: data.read_windows(group, own, length, part)
        )
        assert found is not None
        return found

    def cached_windows(
        self, group: str, places: Sequence[tuple[int, int]], length: int, part: Sequence[slice]
    ) -> NDArray[Any] | None:
        """Read a part of several windows of states if this cannot mean to wait for a disk.

        Parameters
        ----------
        group : str
            Name of the group.
        places : sequence of (int, int)
            See `read_windows`.
        length : int
            Number of states of each window.
        part : sequence of slice
            The points to read: one slice per axis of the grid.

        Returns
        -------
        numpy array, or None
            What `read_windows` returns; None if it has to be called.
        """
        return self._collected(
            group, places, lambda data, own: data.cached_windows(group, own, length, part)
        )

    def close(self) -> None:
        """Close the data sets; they are opened again when needed."""
        for part in self.parts:
            _close(part)

    def _place(self, group: str, sample: int) -> tuple[int, int]:
        """The data set of a trajectory, and its number there."""
        begins = self._begins[group]
        if not 0 <= sample < begins[-1]:
            raise IndexError(f"{self.path}: {group} has no trajectory {sample}")
        number = bisect_right(begins, sample) - 1
        return number, int(sample) - begins[number]

    def _opened(self, number: int) -> WindowedDataset:
        """A data set, which is about to be read; if too many are open, the least recently used one
        is closed.
        """
        with self._lock:
            self._open[number] = None
            self._open.move_to_end(number)
            old = self._open.popitem(last=False)[0] if len(self._open) > KEPT_OPEN else None
        if old is not None:
            _close(self.parts[old])
        return self._used[number]

    def _collected(
        self,
        group: str,
        places: Sequence[tuple[int, int]],
        read: Callable[[WindowedDataset, list[tuple[int, int]]], NDArray[Any] | None],
    ) -> NDArray[Any] | None:
        """What `read` returns for places `(trajectory, state)` of each data set, in the order of
        all places; None if it returns this for one of them.
        """
        rows: dict[int, list[int]] = {}
        own: dict[int, list[tuple[int, int]]] = {}
        for row, (sample, state) in enumerate(places):
            number, index = self._place(group, sample)
            rows.setdefault(number, []).append(row)
            own.setdefault(number, []).append((index, state))
        found: dict[int, NDArray[Any]] = {}
        for number, own_places in own.items():
            array = read(self._opened(number), own_places)
            if array is None:
                return None
            found[number] = array
        if len(found) == 1:
            return next(iter(found.values()))
        arrays = list(found.values())
        all_rows = np.empty((len(places), *arrays[0].shape[1:]), np.result_type(*arrays))
        for number, array in found.items():
            all_rows[rows[number]] = array
        return all_rows

    def _check_channels(self) -> None:
        """Compare the numbers of channels, at one point of each data set."""
        shape: Any = getattr(self, "shape", None)
        if shape is None:
            return
        counts: dict[int, str] = {}
        for number, part in enumerate(self.parts):
            group = next(group for group in self.groups if part.count(group))
            with contextlib.suppress(DataError):  # e.g. a number that is not finite
                point = self._opened(number).read_states(
                    group, 0, slice(0, 1, 1), [slice(0, 1)] * len(shape)
                )
                counts.setdefault(point.shape[1], dataset_name(part))
        if len(counts) > 1:
            shown = ", ".join(f"{count} in {name}" for count, name in counts.items())
            raise DataError(f"the numbers of channels differ, {shown}: they must agree")


def _as_range(numbers: list[int]) -> Sequence[int]:
    """Consecutive numbers as a range, which is read in one operation."""
    whole = range(numbers[0], numbers[-1] + 1) if numbers else range(0)
    return whole if list(whole) == numbers else numbers


def _close(part: Any) -> None:
    if hasattr(part, "close"):
        part.close()
