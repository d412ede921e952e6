"""The matrices that hold the values of a solve until its derivatives are done, and their pool."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.torch_petsc import to_memory

if TYPE_CHECKING:
    from prdp_hpc.linalg.sparse_operator import SparseOperator


class HeldMatrices:
    """The matrices of a solve with their values: the operator's, or M matrices of its pool.

    Derivatives of a solve use the values of the solve. If other values were loaded into a matrix in
    the meantime, the earlier ones are loaded again; it is an error if the tensor of the values was
    changed in place.

    Parameters
    ----------
    operator : the operator of the values.
    host : the values in double precision in the operator's memory; those of one matrix are
        loaded already, and may be None.

    Attributes
    ----------
    operators : one for each matrix.
    """

    def __init__(self, operator: Operator, host: Numbers | None) -> None:
        self._operator = operator
        self._lease: Lease[BatchMatrix] | None = None
        self.operators: list[Any] = [operator]
        self._loads = [operator.loaded.remember()]
        if host is not None and host.ndim == 2 and operator.takes_batches:
            self._lease = self._sparse.acquire_matrices(len(host))
            self.operators = list(self._lease[: len(host)])
            for member, own in zip(self.operators, host, strict=True):
                member.load(own)
            self._loads = [one.loaded.remember() for one in self.operators]

    def restore(self, values: Tensor | None, values_are_read: bool = False) -> None:
        """Load the values again where others have replaced them; collective.

        `values_are_read`: whether derivatives read the tensor too, so that it must be unchanged.

        Raises
        ------
        InputError
            On all ranks, if the tensor's numbers are no longer those of the solve.
        """
        if self._lease is not None:
            self._sparse.touch_matrices(self._lease)
        elif not values_are_read and self._operator.holds(self._loads[0]):
            return
        pairs = list(zip(self.operators, self._loads, strict=True))
        gone = [not one.holds(load) for one, load in pairs]
        if not any(gone) and not values_are_read:
            return
        host = None if values is None else to_memory(values, self._operator.memory)
        rows: Any = [host] if self._lease is None else host
        changed = any(
            one.loaded.changed_since(load, own)
            for (one, load), own in zip(pairs, rows, strict=True)
        )
        raise_together(self._operator.comm, _changed() if changed else None)
        for index, (one, own) in enumerate(zip(self.operators, rows, strict=True)):
            # The same values may have been loaded into one matrix again in the meantime.
            if gone[index] and (self._lease is not None or anywhere(one.comm, one.differs(own))):
                one.load(own)
            self._loads[index] = one.loaded.remember()

    def release(self) -> None:
        """Release the matrices; a later derivative acquires them again."""
        if self._lease is not None:
            self._sparse.release_matrices(self._lease)

    @property
    def _sparse(self) -> SparseOperator:
        """The operator that the matrices are leased from."""
        return cast("SparseOperator", self._operator)


def _changed() -> InputError:
    return InputError(
        "the values were changed between the solve and its derivative, without autograd "
        "(through .data, NumPy or a view without version): change them after the backward pass, or "
        "pass a copy to solve (values.clone())"
    )


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
