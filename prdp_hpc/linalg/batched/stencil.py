"""Stencils: patterns of operators on grids with the same neighbours at each point."""

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
"""Largest width of a stencil along an axis, in points."""
CHUNK = 10_000_000
"""Number of entries that are processed together."""
FILLING = 2.0
"""Largest number of a stencil's coefficients per entry of the pattern."""


@dataclass(frozen=True)
class Term:
    """One coefficient per point: its row is the field `target` at the point, its column the field
    `source` at the point shifted by `offset`.
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
    grid : the grid of the fields.
    fields : unknowns per point; a rank's rows are its points, field by field.
    terms : equal on all ranks.
    slot : position of each entry of this rank's rows in the coefficients `(terms, n_points)`.
    """

    grid: Grid
    fields: int
    terms: tuple[Term, ...]
    slot: Indices

    @property
    def width(self) -> int:
        """Width along an axis, at least 1 point."""
        return max(1, *(abs(step) for term in self.terms for step in term.offset))


def stencil_of(operator: SparseOperator, entries: OwnedEntries) -> Stencil | None:
    """The stencil of an operator's pattern, or None; also None without a grid; collective."""
    grid = operator.stencil_grid
    if grid is None:
        return None
    fields = operator.shape[0] // grid.size
    agreement = private(grid.comm).agreement
    fit = agreement.allreduce(int(operator.n_local == fields * grid.n_local))
    if fields * grid.size != operator.shape[0] or fit != grid.comm.size:
        return None
    places = _Places(grid, fields, entries.starts)
    parts = range(0, len(entries.rows), CHUNK)
    codes = [
        places.codes(*(one[i : i + CHUNK] for one in (entries.rows, entries.cols))) for i in parts
    ]
    code = np.concatenate([np.empty(0, dtype=np.int32), *codes])
    is_narrow = agreement.allreduce(int(code.min(initial=0) >= 0)) == grid.comm.size
    if not is_narrow:
        return None
    occurs = agreement.allreduce(np.bincount(code, minlength=places.most))
    used = np.flatnonzero(occurs)
    terms = tuple(places.term(int(number)) for number in used)
    reach = max((abs(step) for term in terms for step in term.offset), default=0)
    narrowest = min(grid.partition.narrowest(axis) for axis in range(grid.dim))
    if len(terms) * grid.size > FILLING * occurs.sum() or reach > narrowest:
        return None
    number = np.zeros(places.most, dtype=np.int64)
    number[used] = np.arange(len(used))
    points = (entries.rows - operator.row_range[0]) % max(1, grid.n_local)
    return Stencil(grid, fields, terms, number[code] * grid.n_local + points)


class _Places:
    """Fields and coordinates of rows with global numbers.

    Attributes
    ----------
    most : an upper bound of the codes.
    """

    def __init__(self, grid: Grid, fields: int, starts: Indices) -> None:
        self._grid, self._fields, self._starts = grid, fields, starts
        self._span = 2 * WIDEST + 1
        self.most = fields**2 * self._span**grid.dim

    def codes(self, rows: Indices, cols: Indices) -> NDArray[np.int32]:
        """The code of the term of each entry; −1 if the stencil would be too wide."""
        (target, *here), (source, *there) = self._of(rows), self._of(cols)
        code = target * self._fields + source
        is_far = np.zeros(len(code), dtype=bool)
        for a, b, n, boundary in zip(
            here, there, self._grid.shape, self._grid.boundary, strict=True
        ):
            step = b - a
            if boundary == "periodic":
                step = (step + n // 2) % n - n // 2
            is_far |= np.abs(step) > WIDEST
            code = code * self._span + step + WIDEST
        return np.where(is_far, -1, code).astype(np.int32)

    def term(self, code: int) -> Term:
        """The term of a code."""
        steps = []
        for _ in self._grid.shape:
            code, step = divmod(code, self._span)
            steps.append(step - WIDEST)
        return Term(*divmod(code, self._fields), tuple(reversed(steps)))

    def _of(self, numbers: Indices) -> NDArray[np.int32]:
        """The field and the grid's coordinates, `(1 + dim, count)`."""
        places = np.empty((1 + self._grid.dim, len(numbers)), dtype=np.int32)
        blocks = self._grid.blocks
        if len(blocks) == 1:
            self._place(numbers, blocks[0], places)
            return places
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for rank, block in enumerate(blocks):
            mine = np.flatnonzero(owners == rank)
            own = np.empty((len(places), len(mine)), dtype=np.int32)
            self._place(numbers[mine] - self._starts[rank], block, own)
            places[:, mine] = own
        return places

    def _place(self, numbers: Indices, block: tuple[slice, ...], places: NDArray[np.int32]) -> None:
        """Those of one rank's numbers, which count from 0."""
        # Half the size of the division's operands is half of its time.
        rest = numbers.astype(np.int32)
        for axis in reversed(range(self._grid.dim)):
            rest, places[1 + axis] = np.divmod(rest, block[axis].stop - block[axis].start)
            places[1 + axis] += block[axis].start
        places[0] = rest
