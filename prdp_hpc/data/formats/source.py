"""The interface of one file of a format: `Source`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import DTypeLike, NDArray

from prdp_hpc.data.formats.hdf5_files import close
from prdp_hpc.data.layout import DataError
from prdp_hpc.data.number_types import is_number_type

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class About:
    """What a file contains.

    Attributes
    ----------
    trajectories, states : numbers of trajectories and of the states of each.
    points : points per axis, in the order of the file.
    channels : names of the channels that a state has by default.
    others : names of further channels that can be selected, e.g. constant fields.
    spacing : distance of two points per axis, in the order of the file; None if unknown.
    numbers : `dt` and coefficients, which must agree with the PDE's and between the files.
    details : further attributes.
    boundary : words for the boundary per axis, in the order of the file; None if unknown.
    """

    trajectories: int
    states: int
    points: tuple[int, ...]
    channels: tuple[str, ...]
    others: tuple[str, ...] = ()
    spacing: tuple[float, ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    boundary: tuple[str, ...] | None = None


class Source(ABC):
    """One file of trajectories; its axes are in the order of the file.

    Attributes
    ----------
    path : the file.
    about : what it contains, read when the source is made.
    assumed : what the file does not contain and was assumed, with the key to change it; "" if
        nothing was.
    advice : what to do if two files have different numbers.
    """

    path: Path
    about: About
    assumed: str = ""
    advice: ClassVar[str] = "data.file must name files of one PDE"

    @abstractmethod
    def read(
        self, trajectory: int, states: slice, channels: Sequence[str], part: Slices
    ) -> NDArray[Any]:
        """Read `(states, channels, *part)` of one trajectory, as stored.

        `states` has a step, `part` one contiguous slice per axis; nothing else is read.
        """

    def close(self) -> None:
        """Close the file; reading opens it again."""
        close(self.path)

    def name(self, trajectory: int) -> str:
        """The name of a trajectory in messages."""
        return f"trajectory {trajectory}"


def check_type(dtype: DTypeLike, name: str) -> None:
    """Raise `DataError` for numbers that cannot be read; `name` is that of the array."""
    if not is_number_type(dtype):
        raise DataError(
            f"{name} must contain floating-point numbers of at most 64 bits or integers, not "
            f"{dtype}"
        )


def check_alike(source: Source, first: Source) -> None:
    """Raise a DataError unless two files of one data set have equal grids, channels and numbers."""
    one, other = source.about, first.about
    for what in ("points", "channels"):
        if getattr(one, what) != getattr(other, what):
            raise DataError(
                f"{source.path}: has the {what} {getattr(one, what)}, but {first.path} has "
                f"{getattr(other, what)}: they must agree"
            )
    for name, value in one.numbers.items():
        expected = other.numbers.get(name, value)
        if abs(value - expected) > 1e-6 * abs(expected):
            raise DataError(
                f"{source.path}: has {name} = {value:.8g}, but {first.path} has "
                f"{expected:.8g}: {source.advice}"
            )
