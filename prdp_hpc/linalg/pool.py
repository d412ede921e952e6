"""A pool of operators for batches of matrices."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MOST_SETS = 8
"""Default number of sets in a pool; see `SparseOperator.matrix_sets`."""

T = TypeVar("T")


class Lease(list[T]):
    """The members that one batch uses, from its forward pass to the end of its backward pass.

    Code that may use the matrices again keeps a reference to the lease. The set is free when no
    rank refers to the lease any more, e.g. after a graph was freed.
    """


class Pool(Generic[T]):
    """Sets of members, each leased to one batch at a time.

    A batch acquires a free set, else a new one, else the least recently used set, whose earlier
    batch then has to load its matrices again. A set is free after `release`, or when no rank refers
    to its lease. Garbage is collected at different times on different ranks, but all ranks must
    choose the same set, so a set becomes free only when the ranks have agreed in `reclaim`.

    Attributes
    ----------
    most : largest number of sets; equal on all ranks.
    """

    def __init__(self, most: int = MOST_SETS) -> None:
        self.most = most
        self._free: list[list[T]] = []
        # Sorted by their last use.
        self._leased: list[tuple[weakref.ref[Lease[T]], list[T]]] = []

    def in_use(self) -> list[bool]:
        """For each leased set whether this rank still refers to the lease."""
        return [lease() is not None for lease, _ in self._leased] if self._leased else []

    def reclaim(self, in_use: Sequence[bool]) -> None:
        """Free the sets that no rank uses: `in_use` of all ranks, combined by "or"."""
        leased, self._leased = self._leased, []
        for entry, used in zip(leased, in_use, strict=True):
            if used:
                self._leased.append(entry)
            else:
                self._free.append(entry[1])

    def acquire(self, count: int, make: Callable[[], T]) -> Lease[T]:
        """A lease of at least `count` members, made by `make`; collective if `make` is."""
        members: list[T] = []
        if self._free:
            members = self._free.pop()
        elif len(self._leased) >= self.most:
            members = self._leased.pop(0)[1]
        members += [make() for _ in range(count - len(members))]
        lease = Lease(members)
        self._leased.append((weakref.ref(lease), members))
        return lease

    def touch(self, lease: Lease[T]) -> None:
        """Mark a set as used by its batch again, also if it was released or acquired by another
        batch in the meantime.
        """
        members = self._remove(lease)
        if members is not None:
            self._leased.append((weakref.ref(lease), members))

    def release(self, lease: Lease[T]) -> None:
        """Free the set unless it was released before or acquired by another batch."""
        for index, (other, members) in enumerate(self._leased):
            if other() is lease:
                del self._leased[index]
                self._free.append(members)
                return

    def _remove(self, lease: Lease[T]) -> list[T] | None:
        """Remove the set with a lease's members from the lists."""
        for index, (_, members) in enumerate(self._leased):
            if members[0] is lease[0]:
                return self._leased.pop(index)[1]
        for index, members in enumerate(self._free):
            if members[0] is lease[0]:
                return self._free.pop(index)
        return None
