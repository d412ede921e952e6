"""The order of the axes of space in a file, and ours: the last one is x, the one before it y."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from prdp_hpc.data.layout import DataError

T = TypeVar("T")


class AxisOrder:
    """Converts shapes, parts and arrays between the order of a file and ours.

    Parameters
    ----------
    stored : names of the axes in the order of the file, e.g. `("x", "y")`; None: x first.
    dim : number of axes.
    name : name of the data in messages.
    """

    def __init__(self, stored: Sequence[str] | None, dim: int, name: str) -> None:
        wanted = tuple("xyz"[:dim])
        self.stored = wanted if stored is None else tuple(stored)
        if sorted(self.stored) != sorted(wanted):
            raise DataError(
                f"{name}: has {dim} axes of space: data.format.axes must contain "
                f"{', '.join(wanted)}, each once, not {', '.join(self.stored) or 'nothing'}"
            )
        self._from = [self.stored.index(axis) for axis in reversed(wanted)]

    def ours(self, values: Sequence[T]) -> tuple[T, ...]:
        """Values per axis, from the order of the file."""
        return tuple(values[axis] for axis in self._from)

    def theirs(self, values: Sequence[T]) -> tuple[T, ...]:
        """Values per axis in the order of the file."""
        found: list[Any] = [None] * len(values)
        for value, axis in zip(values, self._from, strict=True):
            found[axis] = value
        return tuple(found)

    def array(self, stored: Any) -> Any:
        """A view with our order of the axes, which are those after the first two."""
        return stored.transpose(0, 1, *(2 + axis for axis in self._from))
