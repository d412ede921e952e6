"""Colours of a matrix's columns, so that columns of one colour share no row.

All entries of the columns of one colour follow from the sum of these columns, which is one product
with the Jacobian, for any size of the matrix. PETSc's MatColoring cannot be called from Python, and
the colours of a regular stencil on a grid have a closed form.

Sources: Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices (1974); Jones and
Plassmann, A parallel graph coloring heuristic (1993); PETSc manual page: MatColoring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed.communicators import private
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.petsc_matrices import rows_of_petsc

Colours = NDArray[np.int64]
WORD = 63
"""Number of colours that are stored as bits of one integer."""


def lattice_colours(grid: Grid, width: int, box: bool) -> Colours | None:
    """The fewest colours of a stencil's columns, `local_shape`; None if they do not match across
    the ends of a periodic axis, or if there is no closed form. Not collective.

    For a star of width 1 the colour of point (i, j, k) is `i + 2j + 3k mod 2 dim + 1`, for a box of
    width w `i + m j + m² k mod m^dim` with `m = 2w + 1`.
    """
    if not box and width > 1 and grid.dim > 1:
        return None
    side = 2 * width + 1
    weights = [side**axis if box or grid.dim == 1 else axis + 1 for axis in range(grid.dim)]
    count = side**grid.dim if box or grid.dim == 1 else 2 * grid.dim + 1
    for n, boundary, weight in zip(grid.shape, grid.boundary, weights, strict=True):
        if boundary == "periodic" and (n * weight) % count:
            return None
    axes = [
        weight * np.arange(part.start, part.stop)
        for part, weight in zip(grid.local_slices, weights, strict=True)
    ]
    colours: Colours = np.sum(np.meshgrid(*axes, indexing="ij"), axis=0) % count
    return colours


def pattern_colours(matrix: Any, comm: MPI.Comm) -> Colours:
    """Colours of this rank's columns of a PETSc matrix whose entries are the pattern; collective.

    Greedy, by Jones and Plassmann: in each round, every column that comes before all its uncoloured
    neighbours in a random order gets the smallest free colour. The order is the same on any number
    of ranks. Two columns are neighbours if some row has both, i.e. if `AᵀA` has an entry there.
    """
    neighbours = matrix.transposeMatMult(matrix)
    own = rows_of_petsc(neighbours)
    template = neighbours.createVecRight()
    start, end = template.getOwnershipRange()
    graph = _Graph(own.rows - start, GhostedIndex(own.cols, template), end - start)
    order = _scrambled(np.arange(start, end))
    colours: Colours = np.full(end - start, -1, dtype=np.int64)
    sums = private(comm).sums
    while sums.allreduce(int((colours < 0).sum())):
        first = graph.come_first(np.where(colours < 0, order, -1.0))
        graph.colour(first, colours)
    for dropped in (neighbours, template):
        dropped.destroy()
    return colours


def _scrambled(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Different numbers in a pseudo-random order: a permutation of 32 bits."""
    mixed = numbers.astype(np.uint64) & np.uint64(0xFFFFFFFF)
    for factor in (0x9E3779B1, 0x85EBCA6B):
        mixed = (mixed * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
        mixed ^= mixed >> np.uint64(15)
    return mixed.astype(np.float64)


class _Graph:
    """The neighbours of this rank's columns, on this rank and on others."""

    def __init__(self, sources: NDArray[np.int64], targets: GhostedIndex, n_local: int) -> None:
        self._sources, self._targets, self._n_local = sources, targets, n_local

    def _of_neighbours(self, own: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self._targets.gather(torch.from_numpy(own)).numpy()
        return found

    def come_first(self, order: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which columns have a number in `order` that is not −1 and above their neighbours'."""
        most = np.full(self._n_local, -1.0)
        np.maximum.at(most, self._sources, self._of_neighbours(order))
        # A column is its own neighbour.
        first: NDArray[np.bool_] = (order >= 0.0) & (order >= most)
        return first

    def colour(self, chosen: NDArray[np.bool_], colours: Colours) -> None:
        """Set the smallest colours that no neighbour has for the chosen columns; in place."""
        near = self._of_neighbours(colours.astype(np.float64)).astype(np.int64)
        left, word = chosen.copy(), 0
        while left.any():
            taken = np.zeros(self._n_local, dtype=np.uint64)
            within = (near >= word * WORD) & (near < (word + 1) * WORD)
            bits = np.uint64(1) << (near[within] - word * WORD).astype(np.uint64)
            np.bitwise_or.at(taken, self._sources[within], bits)
            free = ~taken & np.uint64(2**WORD - 1)
            fits = left & (free != 0)
            lowest = free & (~free + np.uint64(1))
            colours[fits] = word * WORD + np.log2(lowest[fits].astype(np.float64)).astype(np.int64)
            left &= ~fits
            word += 1
