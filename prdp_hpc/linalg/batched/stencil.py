"""Patterns of operators on grids: the same few neighbours for each point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.distributed.communicators import private
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.sparse_operator import SparseOperator

Indices = NDArray[np.int64]

WIDEST = 3
"""Points that a stencil may reach along an axis."""
CHUNK = 10_000_000
"""Entries that are looked at together."""
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
    most : codes are smaller than this.
    """

    def __init__(self, grid: Grid, fields: int, starts: Indices) -> None:
        self._grid, self._fields, self._starts = grid, fields, starts
        self._span = 2 * WIDEST + 1
        self.most = fields**2 * self._span**grid.dim

    def codes(self, rows: Indices, cols: Indices) -> NDArray[np.int32]:
        """A number for the term that each entry is; −1 for one that reaches too far."""
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
        """The term with a code."""
        steps = []
        for _ in self._grid.shape:
            code, step = divmod(code, self._span)
            steps.append(step - WIDEST)
        return Term(*divmod(code, self._fields), tuple(reversed(steps)))

    def _of(self, numbers: Indices) -> Indices:
        """The field and the grid's coordinates, `(1 + dim, count)`."""
        places = np.empty((1 + self._grid.dim, len(numbers)), dtype=np.int64)
        blocks = self._grid.blocks
        owners = (
            np.searchsorted(self._starts, numbers, side="right") - 1 if len(blocks) > 1 else None
        )
        for rank, block in enumerate(blocks):
            mine: Any = slice(None) if owners is None else np.flatnonzero(owners == rank)
            shape = tuple(part.stop - part.start for part in block)
            field, point = np.divmod(numbers[mine] - self._starts[rank], max(1, math.prod(shape)))
            places[0, mine] = field
            along = np.unravel_index(point, shape)
            for axis, (own, part) in enumerate(zip(along, block, strict=True)):
                places[1 + axis, mine] = own + part.start
        return places
