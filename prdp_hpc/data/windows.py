"""The samples of a data set: windows of its trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prdp_hpc.errors import InputError


@dataclass(frozen=True)
class Windows:
    """The windows of the trajectories of a group; a sample is (trajectory, start).

    The starts in each trajectory are 0, `stride`, 2 · `stride`, … as long as the window fits.
    Samples are numbered trajectory by trajectory.

    Parameters
    ----------
    trajectories : int
        Number of trajectories.
    states : int
        Number of states of each trajectory that may be used.
    length : int
        Number of states of a window.
    stride : int, default 1
        Number of states between the starts of two windows.

    Raises
    ------
    InputError
        If a number is out of range.

    Examples
    --------
    >>> from prdp_hpc.data.windows import Windows
    >>> windows = Windows(trajectories=2, states=6, length=3, stride=2)
    >>> len(windows), [windows.place(sample) for sample in range(4)]
    (4, [(0, 0), (0, 2), (1, 0), (1, 2)])
    >>> windows.unused
    1
    """

    trajectories: int
    states: int
    length: int
    stride: int = 1

    def __post_init__(self) -> None:
        if self.trajectories < 0 or self.stride < 1 or not 1 <= self.length <= self.states:
            raise InputError(
                "windows need at least 0 trajectories, a stride of at least 1, and a length from 1 "
                f"to the number of states, not {self}"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.trajectories * self.per_trajectory

    @property
    def per_trajectory(self) -> int:
        """Number of windows of each trajectory."""
        return (self.states - self.length) // self.stride + 1

    @property
    def used(self) -> int:
        """Number of states of each trajectory that are in a window."""
        return self.length + (self.per_trajectory - 1) * min(self.stride, self.length)

    @property
    def unused(self) -> int:
        """Number of states of each trajectory that are in no window."""
        return self.states - self.used

    def place(self, sample: int) -> tuple[int, int]:
        """Return the trajectory of a sample and its first state.

        Parameters
        ----------
        sample : int
            Number of the sample, from 0.

        Returns
        -------
        tuple of int
            Index of the trajectory, and index of the state.
        """
        trajectory, window = divmod(int(sample), self.per_trajectory)
        return trajectory, window * self.stride

    def state_dict(self) -> dict[str, int]:
        """Return what determines the samples besides their number; empty if each trajectory has one
        window, as all trajectories had before there were windows.
        """
        if self.per_trajectory == 1:
            return {}
        return {"states": self.states, "window": self.length, "stride": self.stride}


def runs(places: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """Divide windows `(trajectory, first state)` of `length` states into runs of windows whose
    states lie side by side or overlap, so that the states of a run are read at once: the indices of
    the first window of each run, and of the first one after it.
    """
    begin = 0
    for end in range(1, len(places) + 1):
        if end < len(places):
            (trajectory, start), (before, start_before) = places[end], places[end - 1]
            if trajectory == before and start_before <= start <= start_before + length:
                continue
        yield begin, end
        begin = end
