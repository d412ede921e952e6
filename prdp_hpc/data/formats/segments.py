"""Trajectories that are divided in time, e.g. one long simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from prdp_hpc.data.formats.source import Slices, Source


class Segments(Source):
    """A file in which each segment of a trajectory is a trajectory.

    Segments have equal numbers of states; those that are left over at the end are not used.

    Parameters
    ----------
    source : the file.
    count : number of segments of each trajectory.
    """

    def __init__(self, source: Source, count: int) -> None:
        self.path, self._source, self._count = source.path, source, count
        about, self.assumed = source.about, source.assumed
        self.about = replace(
            about, trajectories=about.trajectories * count, states=about.states // count
        )

    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read a part of some states of a segment."""
        owner, number = divmod(trajectory, self._count)
        first = number * self.about.states
        moved = slice(states.start + first, states.stop + first, states.step)
        return self._source.read(owner, moved, channels, part)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self._source.close()

    def name(self, trajectory: int) -> str:
        """The name of a segment in messages."""
        owner, number = divmod(trajectory, self._count)
        return f"{self._source.name(owner)}, segment {number}"


def divided(sources: Mapping[str, Sequence[Source]], count: int) -> dict[str, Sequence[Source]]:
    """The files of each group with `count` segments per trajectory."""
    if count == 1:
        return dict(sources)
    return {group: [Segments(one, count) for one in ones] for group, ones in sources.items()}
