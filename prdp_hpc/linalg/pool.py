"""Operators for batches of matrices, made once and used again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MOST_SETS = 8
"""Sets that a pool keeps unless told otherwise; see `SparseOperator.matrix_sets`."""

T = TypeVar("T")


class Lease(list[T]):
    """The members that one batch uses, from its forward pass until its backward pass is done.

    Whoever may need the matrices once more keeps the lease: when nothing refers to it any more on
    any rank, as after a graph was dropped, its set is free.
    """


class Pool(Generic[T]):
    """Sets of members, each leased to one batch at a time.

    A batch gets a free set, else a new one, else the set used longest ago, whose earlier batch then
    has to load its matrices anew. A set is free after `release`, or when its lease is gone on all
    ranks: garbage is collected at different moments on different ranks, which must all choose the
    same set, so a set counts as dropped only once the ranks have agreed in `reclaim`.

    Attributes
    ----------
    most : sets kept at most; equal on all ranks.
    """

    def __init__(self, most: int = MOST_SETS) -> None:
        self.most = most
        self._free: list[list[T]] = []
        # In the order of their last use.
        self._leased: list[tuple[weakref.ref[Lease[T]], list[T]]] = []

    def in_use(self) -> list[bool]:
        """For each leased set whether this rank still refers to the lease."""
        return [lease() is not None for lease, _ in self._leased]

    def reclaim(self, in_use: Sequence[bool]) -> None:
        """Free the sets that no rank uses any more: `in_use` of all ranks, combined by "or"."""
        leased, self._leased = self._leased, []
        for entry, used in zip(leased, in_use, strict=True):
            if used:
                self._leased.append(entry)
            else:
                self._free.append(entry[1])

    def acquire(self, count: int, make: Callable[[], T]) -> Lease[T]:
        """A lease of at least `count` members; `make` makes those that the set lacks; collective
        where that is.
        """
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
        """Note that a batch uses its set once more, also one that was given back or taken by
        another in the meantime: it is then this batch's again.
        """
        members = self._remove(lease)
        if members is not None:
            self._leased.append((weakref.ref(lease), members))

    def release(self, lease: Lease[T]) -> None:
        """Let the next batch have the set; does nothing for one that was given back, or taken by
        another, before.
        """
        for index, (other, members) in enumerate(self._leased):
            if other() is lease:
                del self._leased[index]
                self._free.append(members)
                return

    def _remove(self, lease: Lease[T]) -> list[T] | None:
        """Take the set with a lease's members out of the lists, whoever has it."""
        for index, (_, members) in enumerate(self._leased):
            if members[0] is lease[0]:
                return self._leased.pop(index)[1]
        for index, members in enumerate(self._free):
            if members[0] is lease[0]:
                return self._free.pop(index)
        return None
