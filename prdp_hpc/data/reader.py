"""Reading trajectories; each rank reads only its part."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.formats.files import DataFiles
from prdp_hpc.data.hdf5_axes import check_axes, own_shape, unlikely_axes
from prdp_hpc.data.hdf5_dataset import checked_dataset
from prdp_hpc.data.hdf5_several import open_files
from prdp_hpc.data.hdf5_windows import read_by_hdf5
from prdp_hpc.data.joined import JoinedTrajectories
from prdp_hpc.data.layout import DATASET, GROUPS, TEST, DataError, reason_of
from prdp_hpc.data.number_types import as_floating, is_finite
from prdp_hpc.data.plain_states import PlainStates

NOT_WAITING: int | None = getattr(os, "RWF_NOWAIT", None)
"""Flag of preadv with which it does not wait for the disk; None where there is no such flag."""


class TrajectoryFile:
    """An HDF5 file of trajectories.

    The layout is described in `prdp_hpc.data.layout`. Numbers in float16 and integers are read as
    float32, float32 and float64 unchanged, in any byte order. `read` opens the file for each
    call; `read_states` and `read_windows` keep it open until `close`, and several threads may call
    them.

    Parameters
    ----------
    path : str or Path
        The file.
    shape : sequence of int, optional
        Points of the grid per axis. Default: the attribute `grid_shape` of the file.
    groups : sequence of str, default ("train", "validation")
        Groups that are needed. With "train", an existing group "test" is included.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of int
        Points of the grid per axis.
    steps : int
        Number of time steps of a trajectory after its initial state.
    attributes : dict
        Attributes of the file.
    groups : tuple of str
        Names of the groups.
    assumed : str
        How axes that the file does not name are read, if another way is more likely; else "".

    Raises
    ------
    DataError
        If the file cannot be read, if it has no `grid_shape` and `shape` is not given, or if a
        data set is missing or has an unexpected shape or type.

    See Also
    --------
    TrajectoryDataset : The interface, for other formats.

    Examples
    --------
    >>> import numpy
    >>> from prdp_hpc import TrajectoryFile
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> groups = {"train": numpy.ones((4, 3, 1, 16)), "validation": numpy.ones((2, 3, 1, 16))}
    >>> numbers = {"dt": 0.01, "diffusivity": 0.1}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, numbers, ("u",), "Euler")
    >>> write_trajectories("heat.h5", groups, about)
    >>> data = TrajectoryFile("heat.h5")
    >>> data.count("train"), data.steps
    (4, 2)
    >>> data.read("train", samples=range(2), part=[slice(0, 8)]).shape
    (2, 3, 1, 8)
    """

    several: ClassVar[bool] = True

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int] | None = None,
        groups: Sequence[str] = GROUPS,
    ) -> None:
        self.path = Path(path)
        # Predictions need only initial states, and read one group.
        self._least_states = 1 if len(groups) == 1 and "train" not in groups else 2
        with self._open() as file:
            self.attributes = dict(file.attrs)
            given = own_shape(self.path, self.attributes) if shape is None else shape
            self.shape = tuple(given)
            there = [*groups, TEST] if "train" in groups and TEST in file else list(groups)
            shapes = {group: self._checked(file, group).shape for group in dict.fromkeys(there)}
        if len({found[1:] for found in shapes.values()}) > 1:
            names = " and ".join(f"{group}/{DATASET}" for group in shapes)
            raise DataError(
                f"{self.path}: {names} must agree in all but the number of samples: "
                f"{' and '.join(str(found) for found in shapes.values())}"
            )
        stored = shapes[groups[0]]
        check_axes(self.path, stored, self.shape, self.attributes)
        self.assumed = unlikely_axes(stored, self.shape, self.attributes)
        self.groups = tuple(shapes)
        self._samples = {group: int(found[0]) for group, found in shapes.items()}
        self.steps = int(stored[1]) - 1
        self._lock = RLock()
        self._kept: h5py.File | None = None
        self._datasets: dict[str, Any] = {}
        self._plain: dict[str, PlainStates | None] = {}

    @classmethod
    def open(
        cls, path: DataFiles, shape: Sequence[int], groups: Sequence[str] = GROUPS
    ) -> TrajectoryFile | JoinedTrajectories:
        """Open the file or the files of a config's section `data`.

        Parameters
        ----------
        path : str, Path or sequence of them
            A file, a folder, a pattern such as `a_*.h5`, or several of them.
        shape : sequence of int
            Points of the grid per axis.
        groups : sequence of str, default ("train", "validation")
            Groups that are needed; of several files each may have some of them.

        Returns
        -------
        TrajectoryFile or JoinedTrajectories
            The data set.
        """
        return open_files(cls, path, shape, groups)

    def count(self, group: str) -> int:
        """Return the number of samples in a group.

        Parameters
        ----------
        group : str
            Name of the group.

        Returns
        -------
        int
            Number of samples; 0 for a group that is not needed.
        """
        return self._samples.get(group, 0)

    def read(
        self,
        group: str,
        samples: Sequence[int] | None = None,
        part: Sequence[slice] | None = None,
    ) -> NDArray[Any]:
        """Read a part of some trajectories.

        Only this part is read from the file.

        Parameters
        ----------
        group : str
            Name of the group.
        samples : sequence of int, optional
            Indices of the samples, in increasing order. Default: all.
        part : sequence of slice, optional
            The points to read: one slice per axis of the grid. Default: the whole grid.

        Returns
        -------
        numpy array
            States of shape `(len(samples), steps + 1, C, *part)`, float32 or float64.

        Raises
        ------
        DataError
            If the file is damaged or a number is not finite.
        """
        slices = (slice(None),) * len(self.shape) if part is None else tuple(part)
        chosen = slice(None) if samples is None else _as_index(samples)
        with self._open() as file, self._explained(group):
            array: NDArray[Any] = self._checked(file, group)[(chosen, ..., *slices)]
        if array.ndim == len(self.shape) + 2:
            array = array[:, :, None]
        array = as_floating(array, self._name(group))
        numbers = range(len(array)) if samples is None else samples
        self._check_finite(array, group, numbers, 0)
        return np.ascontiguousarray(array)

    def read_states(
        self, group: str, sample: int, states: slice, part: Sequence[slice]
    ) -> NDArray[Any]:
        """Read a part of some states of one trajectory.

        Only this part is read from the file.

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
            States of shape `(len(states), C, *part)`, float32 or float64.

        Raises
        ------
        DataError
            If the file is damaged or a number is not finite.
        """
        with self._lock, self._explained(group):
            array: NDArray[Any] = self._kept_dataset(group)[(sample, states, ..., *part)]
        if array.ndim == len(self.shape) + 1:
            array = array[:, None]
        array = as_floating(array, self._name(group))
        self._check_finite(array[None], group, [sample], states.start, states.step)
        return np.ascontiguousarray(array)

    def read_windows(
        self, group: str, places: Sequence[tuple[int, int]], length: int, part: Sequence[slice]
    ) -> NDArray[Any]:
        """Read a part of several windows of states.

        Only this part is read from the file.

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
            States of shape `(len(places), length, C, *part)`, float32 or float64.

        Raises
        ------
        DataError
            If the file is damaged or a number is not finite.
        """
        # The file must not be closed, and its descriptor not be that of another file, meanwhile.
        with self._lock, self._explained(group):
            dataset, found = self._array_for(group, places, length, part)
            plain = self._plain[group]
            if found.size and (plain is None or not plain.read(found, places, part)):
                read_by_hdf5(dataset, found, places, part)
        return self._as_numbers(found, group, places)

    def cached_windows(
        self, group: str, places: Sequence[tuple[int, int]], length: int, part: Sequence[slice]
    ) -> NDArray[Any] | None:
        """Read a part of several windows of states if they are in the system's cache of files.

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
            What `read_windows` returns; None if this could mean to wait for the disk.

        Raises
        ------
        DataError
            If a number is not finite.
        """
        # Another thread that has the lock may be waiting for the disk.
        if NOT_WAITING is None or not self._lock.acquire(blocking=False):
            return None
        try:
            _, found = self._array_for(group, places, length, part)
            plain = self._plain[group]
            if not found.size or plain is None or not plain.read(found, places, part, NOT_WAITING):
                return None
        except (OSError, DataError):  # `read_windows` waits, or finds the reason
            return None
        finally:
            self._lock.release()
        return self._as_numbers(found, group, places)

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with self._lock:
            if self._kept is not None:
                self._kept.close()
            self._kept = None
            self._datasets.clear()
            self._plain.clear()

    def _kept_dataset(self, group: str) -> Any:
        with self._lock:
            if group not in self._datasets:
                self._kept = self._kept or self._open()
                dataset = self._checked(self._kept, group)
                self._datasets[group], self._plain[group] = dataset, PlainStates.of(dataset)
            return self._datasets[group]

    def _array_for(
        self, group: str, places: Sequence[tuple[int, int]], length: int, part: Sequence[slice]
    ) -> tuple[Any, NDArray[Any]]:
        """The data set, and an array for windows of its states."""
        dataset = self._kept_dataset(group)
        points = [axis.stop - axis.start for axis in part]
        shape = dataset.shape
        inner = (*shape[2 : len(shape) - len(part)], *points)
        return dataset, np.empty((len(places), length, *inner), dataset.dtype)

    def _as_numbers(
        self, found: NDArray[Any], group: str, places: Sequence[tuple[int, int]]
    ) -> NDArray[Any]:
        """Windows of stored states as finite numbers with an axis of channels."""
        if found.ndim == len(self.shape) + 2:
            found = found[:, :, None]
        found = as_floating(found, self._name(group))
        if not is_finite(found):
            for row, (trajectory, start) in zip(found, places, strict=True):
                self._check_finite(row[None], group, [trajectory], start)
        return found

    def _name(self, group: str) -> str:
        return f"{self.path}: data set {group}/{DATASET}"

    @contextmanager
    def _explained(self, group: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._name(group)} cannot be read, the file is damaged: {reason_of(error)}"
            ) from error

    def _check_finite(
        self, array: NDArray[Any], group: str, samples: Sequence[int], start: int, step: int = 1
    ) -> None:
        """Raise `DataError` if states `(samples, states, …)` contain NaN or infinity."""
        finite = np.isfinite(array)
        if not finite.all():
            row, state = (int(i) for i in np.argwhere(~finite)[0][:2])
            raise DataError(
                f"{self.path}: {group}/{DATASET} contains NaN or infinity, first in sample "
                f"{samples[row]}, step {start + state * step}"
            )

    def _open(self) -> h5py.File:
        try:
            if not self.path.exists():
                raise DataError(
                    f"{self.path}: no such data file; give another data.file, or leave it out to "
                    "generate the data"
                )
            if self.path.is_dir():
                raise DataError(f"{self.path}: is a folder; data.file must name an HDF5 file")
            return h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read as HDF5: {reason_of(error)}; give another data file"
            ) from error

    def _checked(self, file: h5py.File, group: str) -> h5py.Dataset:
        return checked_dataset(
            file, self.path, f"{group}/{DATASET}", self.shape, self._least_states
        )


def _as_index(samples: Sequence[int]) -> Any:
    """A slice for consecutive samples, which HDF5 reads in one operation; otherwise a list."""
    if isinstance(samples, range) and samples.step == 1:
        return slice(samples.start, samples.stop)
    return list(samples)
