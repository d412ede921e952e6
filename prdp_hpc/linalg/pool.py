"""Operators for batches of matrices, made once and used again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

MOST_SETS = 8
"""With more batches than these at a time, the oldest loses its matrices and loads them anew in its
backward pass.
"""

T = TypeVar("T")


class Pool(Generic[T]):
    """Hands out sets of members, each to one batch from its forward pass until its backward pass is
    done.

    They come back when the caller says so, not when a graph is collected: that moment differs from
    rank to rank, and all ranks must choose the same set.
    """

    def __init__(self) -> None:
        self._free: list[list[T]] = []
        self._taken: list[list[T]] = []

    def take(self, count: int, make: Callable[[], T]) -> list[T]:
        """A set of at least `count` members: a free one, a new one, or the one taken longest ago.

        `make` makes the members that it lacks; collective where that is.
        """
        chosen: list[T] = []
        if self._free:
            chosen = self._free.pop()
        elif len(self._taken) == MOST_SETS:
            chosen = self._taken.pop(0)
        # A list of its own for each batch: by it `give_back` knows who has the set.
        chosen = [*chosen, *(make() for _ in range(count - len(chosen)))]
        self._taken.append(chosen)
        return chosen

    def give_back(self, members: list[T]) -> None:
        """Let the next batch have the set; does nothing for one that was given back, or taken by
        another, before.
        """
        for index, taken in enumerate(self._taken):
            if taken is members:
                self._free.append(self._taken.pop(index))
                return
