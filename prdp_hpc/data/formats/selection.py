"""What is used of the files of a data set: `Selection`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What is used of the files.

    Attributes
    ----------
    channels : names of the channels, in the order of the PDE's; None: all.
    axes : order of the axes of space in the files; None: x first.
    subsample : distance of two points that are used, in points of the files.
    subsample_time : distance of two states that are used, in states of the files.
    """

    channels: Sequence[str] | None = None
    axes: Sequence[str] | None = None
    subsample: int = 1
    subsample_time: int = 1
