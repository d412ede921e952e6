"""A data set with the settings that determine which of its states are samples."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.dataset import TrajectoryDataset
from prdp_hpc.data.layout import DataError
from prdp_hpc.data.windows import Windows
from prdp_hpc.errors import returned
from prdp_hpc.number_checks import check_count


class WindowedDataset:
    """A data set whose samples are windows of its trajectories.

    Tasks use it like the data set itself; the other attributes are those of the data set.

    Parameters
    ----------
    data : TrajectoryDataset
        The trajectories.
    window : int, optional
        Number of states of a training sample. Default: what the task needs.
    stride : int, default 1
        Number of states between the starts of two windows of a trajectory.
    steps : int, optional
        Number of time steps of each trajectory that are used. Default: all.
    in_memory : bool or "auto", default "auto"
        Whether a task holds its part of the data in memory, or reads each batch when it is needed.
        "auto": a group is held in memory if the parts of all ranks of a node need at most half of
        its free memory (of the GPU's too, where the states are stored).
    normalise : {"none", "standard"}, default "none"
        "standard": the network of a task receives states whose channels have mean 0 and standard
        deviation 1 over the training group, and its output is scaled back.

    Attributes
    ----------
    data : TrajectoryDataset
        The trajectories.
    steps : int
        Number of time steps of each trajectory that are used.

    Raises
    ------
    DataError
        If the trajectories have fewer steps than `steps`.
    InputError
        If a number is out of range.

    See Also
    --------
    TrajectoryFile : A data set in an HDF5 file.

    Examples
    --------
    Trajectories with 6 states, of which an emulator uses states 0–2, 1–3, 2–4 and 3–5, or with a
    stride of 3 states 0–2 and 3–5:

    >>> import numpy
    >>> from prdp_hpc import TrajectoryFile, WindowedDataset
    >>> from prdp_hpc.data import TrajectoryAttributes, write_trajectories
    >>> groups = {"train": numpy.ones((4, 6, 1, 16)), "validation": numpy.ones((2, 6, 1, 16))}
    >>> about = TrajectoryAttributes("mine", (16,), "dirichlet", 1.0, {}, ("u",), "Euler")
    >>> write_trajectories("six.h5", groups, about)
    >>> data = WindowedDataset(TrajectoryFile("six.h5"), stride=3)
    >>> len(WindowedDataset(data.data).windows("train", 3)), len(data.windows("train", 3))
    (16, 8)
    """

    def __init__(
        self,
        data: TrajectoryDataset,
        *,
        window: int | None = None,
        stride: int = 1,
        steps: int | None = None,
        in_memory: bool | Literal["auto"] = "auto",
        normalise: Literal["none", "standard"] = "none",
    ) -> None:
        for key, number in (("window", window), ("stride", stride), ("steps", steps)):
            if number is not None or key == "stride":
                check_count(f"data.{key}", number)
        self._name = dataset_name(data)
        whole = _number(f"{self._name}: steps", data.steps)
        if steps is not None and steps > whole:
            raise DataError(
                f"{self._name}: its trajectories have {whole} step(s), but "
                f"data.steps={steps}: give a smaller number, or another data file"
            )
        self.data, self.window, self._stride = data, window, stride
        self.in_memory, self.normalise = in_memory, normalise
        self.steps = whole if steps is None else steps

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # before it is set, e.g. in a copy
            raise AttributeError(name)
        return getattr(self.data, name)

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
        return _number(f"{self._name}: count({group!r})", self.data.count(group))

    def windows(self, group: str, length: int) -> Windows:
        """Return the windows of a group.

        Parameters
        ----------
        group : str
            Name of the group.
        length : int
            Number of states of a window, at most `steps + 1`.

        Returns
        -------
        Windows
            The windows of its trajectories, with the stride of this data set.
        """
        return Windows(self.count(group), self.steps + 1, length, self._stride)

    def read(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """Read a part of the states that are used of some trajectories.

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
        if self.steps < self.data.steps and hasattr(self.data, "read_states"):
            used = slice(0, self.steps + 1, 1)
            return np.stack([self.read_states(group, sample, used, part) for sample in samples])
        return self._whole(group, samples, part)[:, : self.steps + 1]

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
            States of shape `(len(states), C, *part)`. A data set without this method is read with
            `read`, and the states are cut from the whole trajectory.
        """
        own: Any = getattr(self.data, "read_states", None)
        if own is None:
            return self._whole(group, [sample], part)[0, states]
        found: NDArray[Any] = own(group, sample, states, part)
        return found

    def _whole(self, group: str, samples: Sequence[int], part: Sequence[slice]) -> NDArray[Any]:
        """What the data set's `read` returns, as an array."""
        read = self.data.read(group, samples, part)
        found: NDArray[Any] = np.asarray(read)
        if found.ndim < 3:
            name, wanted = f"{self._name}: read({group!r}, …)", "(samples, steps + 1, C, *part)"
            raise DataError(str(returned(name, f"an array of the shape {wanted}", read)))
        return found

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
            States of shape `(len(places), length, C, *part)`. A data set without this method is
            read with `read_states`, window by window.
        """
        if _is_own(type(self.data), "read_windows", ("read_states",)):
            own: Any = self.data
            found: NDArray[Any] = own.read_windows(group, places, length, part)
            return found
        windows = [slice(start, start + length, 1) for _, start in places]
        return np.stack(
            [
                self.read_states(group, sample, states, part)
                for (sample, _), states in zip(places, windows, strict=True)
            ]
        )

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
            What `read_windows` returns; None if it has to be called, also for data sets without
            this method.
        """
        if not _is_own(type(self.data), "cached_windows", ("read_windows", "read_states")):
            return None
        own: Any = self.data
        found: NDArray[Any] | None = own.cached_windows(group, places, length, part)
        return found


def _number(what: str, found: Any) -> int:
    """A number of steps or trajectories of a data set."""
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 0:
        raise DataError(f"{what} must be an integer of at least 0, not {found!r}")
    return int(found)


def _is_own(kind: type, method: str, others: Sequence[str]) -> bool:
    """Whether a class has a method that reads the same as `others`: a subclass has not replaced one
    of them, or a wrapper has its own.
    """
    for one in kind.__mro__:
        if method in vars(one):
            return True
        if any(name in vars(one) for name in others):
            return False
    return False


def windowed(data: TrajectoryDataset) -> WindowedDataset:
    """The data set with the settings of its windows, by default all windows."""
    return data if isinstance(data, WindowedDataset) else WindowedDataset(data)


def dataset_name(data: Any) -> str:
    """The name of a data set in messages: its path, or its class."""
    inner = data.data if isinstance(data, WindowedDataset) else data
    return str(getattr(inner, "path", type(inner).__name__))
