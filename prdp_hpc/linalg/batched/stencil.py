"""Patterns of operators on grids: the same few neighbours for each point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.distributed.communicators import private
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.sparse_operator import SparseOperator

Indices = NDArray[np.int64]

WIDEST = 3
"""Points that a stencil may reach along an axis."""
FILLING = 2.0
"""Coefficients that a stencil may hold for each entry of the pattern."""


@dataclass(frozen=True)
class Term:
    """One coefficient of each point: of the field `target` there, from the field `source` at the
    point `offset` further.
    """

    target: int
    source: int
    offset: tuple[int, ...]

    @property
    def turned(self) -> Term:
        """The term of the transpose."""
        return Term(self.source, self.target, tuple(-step for step in self.offset))


@dataclass(frozen=True)
class Stencil:
    """The terms of all rows of an operator on a grid.

    Attributes
    ----------
    grid : where the fields live.
    fields : unknowns of a point; a rank's rows are its points of one field after the other.
    terms : equal on all ranks.
    slot : where each entry of this rank's rows lies in coefficients `(terms, n_points)`.
    """

    grid: Grid
    fields: int
    terms: tuple[Term, ...]
    slot: Indices

    @property
    def width(self) -> int:
        """Points that it reaches along an axis, at least 1."""
        return max(1, *(abs(step) for term in self.terms for step in term.offset))


def stencil_of(operator: SparseOperator, entries: OwnedEntries) -> Stencil | None:
    """The stencil of an operator's pattern; None where it has none, or no grid; collective."""
    grid = operator.stencil_grid
    if grid is None:
        return None
    fields = operator.shape[0] // grid.size
    agreement = private(grid.comm).agreement
    fit = agreement.allreduce(int(operator.n_local == fields * grid.n_local))
    if fields * grid.size != operator.shape[0] or fit != grid.comm.size:
        return None
    rows, cols = (
        _places(grid, fields, entries.starts, one) for one in (entries.rows, entries.cols)
    )
    steps = cols[1:] - rows[1:]
    for step, n, boundary in zip(steps, grid.shape, grid.boundary, strict=True):
        if boundary == "periodic":
            step[:] = (step + n // 2) % n - n // 2
    keys = np.stack([rows[0], cols[0], *steps])
    own, index = np.unique(keys, axis=1, return_inverse=True)
    all_keys = sorted({tuple(key) for part in agreement.allgather(own.T.tolist()) for key in part})
    counts = agreement.allreduce(len(entries.rows)), len(all_keys) * grid.size
    reach = max((abs(step) for key in all_keys for step in key[2:]), default=0)
    narrowest = min(grid.partition.narrowest(axis) for axis in range(grid.dim))
    if counts[1] > FILLING * counts[0] or reach > min(WIDEST, narrowest):
        return None
    numbers = {key: number for number, key in enumerate(all_keys)}
    term = np.array([numbers[tuple(key)] for key in own.T.tolist()], dtype=np.int64)
    points = (entries.rows - operator.row_range[0]) % max(1, grid.n_local)
    slot = term[index.reshape(-1)] * grid.n_local + points if len(points) else points
    terms = tuple(Term(key[0], key[1], tuple(key[2:])) for key in all_keys)
    return Stencil(grid, fields, terms, slot)


def _places(grid: Grid, fields: int, starts: Indices, numbers: Indices) -> Indices:
    """The field and the grid's coordinates `(1 + dim, count)` of rows with these global numbers."""
    places = np.empty((1 + grid.dim, len(numbers)), dtype=np.int64)
    owners = np.searchsorted(starts, numbers, side="right") - 1
    for rank, block in enumerate(grid.blocks):
        mine = owners == rank
        if not mine.any():
            continue
        shape = tuple(part.stop - part.start for part in block)
        field, point = np.divmod(numbers[mine] - starts[rank], int(np.prod(shape)))
        places[0, mine] = field
        for axis, (along, part) in enumerate(
            zip(np.unravel_index(point, shape), block, strict=True)
        ):
            places[1 + axis, mine] = along + part.start
    return places
