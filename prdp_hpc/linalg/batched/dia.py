"""Matrices of stencils on grids, by diagonals: shifted fields times coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.grid.halo import Halo
from prdp_hpc.linalg.batched.device_kernels import kernels_for
from prdp_hpc.linalg.batched.entries import OwnedEntries
from prdp_hpc.linalg.batched.matrix import BatchedMatrix, BatchedPattern
from prdp_hpc.linalg.batched.stencil import Stencil, Term
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import Constant


class DiaPattern(BatchedPattern):
    """A stencil, and the coefficient that corresponds to each entry."""

    def __init__(self, operator: SparseOperator, entries: OwnedEntries, stencil: Stencil) -> None:
        super().__init__(operator, entries)
        self.stencil, self.grid = stencil, stencil.grid
        self.shape, self.width = self.grid.local_shape, stencil.width
        offsets = {one.offset for term in stencil.terms for one in (term, term.turned)}
        self.halo = Halo(self.grid.partition, self.width, self.width)
        self._windows = {offset: self._window(offset) for offset in offsets}
        self._size = len(stencil.terms) * self.grid.n_local
        used = np.zeros(self._size, dtype=bool)
        used[stencil.slot] = True
        self._are_single = int(used.sum()) == len(stencil.slot)
        self._index = Constant(torch.from_numpy(stencil.slot))

    def matrix(self, values: Tensor, constant: float = 1.0) -> DiaMatrix:
        """See `BatchedPattern`."""
        given, slot = self.entries.of(values, constant), self._index.on(values.device)
        flat = given.new_zeros(len(given), self._size)
        if self._are_single:
            flat[:, slot] = given
        else:
            for row, own in zip(flat, given, strict=True):
                row.index_add_(0, slot, own)
        terms = self.stencil.terms
        return DiaMatrix(self, terms, flat.view(len(given), len(terms), *self.shape))

    def pair_entries(self, left: Tensor, right: Tensor) -> Tensor:
        """See `BatchedPattern`."""
        targets, padded = self.fields(left), self.halo.pad(self.fields(right))
        found = torch.stack(
            [
                (targets[:, :, term.target] * self.shifted(padded[:, :, term.source], term)).sum(1)
                for term in self.stencil.terms
            ],
            dim=1,
        )
        return found.flatten(1).index_select(-1, self._index.on(left.device))

    def _window(self, offset: tuple[int, ...]) -> tuple[Any, ...]:
        """This rank's points, moved, as an index of padded fields."""
        starts = (self.width + step for step in offset)
        return (..., *(slice(i, i + n) for i, n in zip(starts, self.shape, strict=True)))

    def fields(self, x: Tensor) -> Tensor:
        """`(M, R, n_local)` as `(M, R, fields, *local_shape)`."""
        return x.reshape(*x.shape[:-1], self.stencil.fields, *self.shape)

    def shifted(self, padded: Tensor, term: Term) -> Tensor:
        """A padded field at the source points of a term; a view."""
        return padded[self._windows[term.offset]]


class DiaMatrix(BatchedMatrix):
    """See `BatchedMatrix`.

    Parameters
    ----------
    pattern : the grid and the entries.
    terms : one per coefficient; for the transposes they are transposed.
    coefficients : `(M, terms, *local_shape)`.
    """

    def __init__(self, pattern: DiaPattern, terms: tuple[Term, ...], coefficients: Tensor) -> None:
        self.pattern, self.terms, self.coefficients = pattern, terms, coefficients
        self.count = len(coefficients)
        self._terms: Any = None

    def product(self, x: Tensor) -> Tensor:
        """See `BatchedMatrix`."""
        kernels = kernels_for(x)
        if kernels is not None:
            return self._by_kernel(kernels, x, with_dot=False)[0]
        pattern = self.pattern
        padded = pattern.halo.pad(
            pattern.fields(x.unflatten(0, (self.count, len(x) // self.count)))
        )
        begun = set[int]()
        result = padded.new_empty(*padded.shape[:3], *pattern.shape)
        for number, term in enumerate(self.terms):
            target = result[:, :, term.target]
            source = pattern.shifted(padded[:, :, term.source], term)
            coefficient = self.coefficients[:, None, number]
            if term.target in begun:
                target.addcmul_(coefficient, source)
            else:
                torch.mul(coefficient, source, out=target)
                begun.add(term.target)
        for field in set(range(pattern.stencil.fields)) - begun:
            result[:, :, field] = 0.0
        return result.view(x.shape)

    def product_and_dot(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `BatchedMatrix`."""
        kernels = kernels_for(x)
        if kernels is None:
            return super().product_and_dot(x)
        return self._by_kernel(kernels, x, with_dot=True)

    def _by_kernel(self, kernels: Any, x: Tensor, with_dot: bool) -> tuple[Tensor, Tensor]:
        """The product in one pass over the coefficients; on one rank without a padded copy."""
        pattern, source, width = self.pattern, x, 0
        if pattern.grid.comm.size > 1:
            width = pattern.width
            source = pattern.halo.pad(pattern.fields(x))
        if self._terms is None:
            self._terms = kernels.Terms.of(self.terms, pattern.stencil.fields, x.device)
        periodic = tuple(kind == "periodic" for kind in pattern.grid.boundary)
        result: tuple[Tensor, Tensor] = kernels.stencil(
            x, source, self.coefficients, self._terms, pattern.shape, width, periodic, with_dot
        )
        return result

    def transposed(self) -> DiaMatrix:
        """See `BatchedMatrix`."""
        pattern = self.pattern
        padded = pattern.halo.pad(self.coefficients)
        turned = tuple(term.turned for term in self.terms)
        moved = [pattern.shifted(padded[:, number], term) for number, term in enumerate(turned)]
        return DiaMatrix(pattern, turned, torch.stack(moved, dim=1))

    def diagonal(self) -> Tensor:
        """See `BatchedMatrix`."""
        shape = (self.count, self.pattern.stencil.fields, *self.pattern.shape)
        found = self.coefficients.new_zeros(shape)
        for number, term in enumerate(self.terms):
            if term.target == term.source and not any(term.offset):
                found[:, term.target] = self.coefficients[:, number]
        return found.view(self.count, -1)

    def row_sizes(self) -> Tensor:
        """See `BatchedMatrix`."""
        shape = (self.count, self.pattern.stencil.fields, *self.pattern.shape)
        found = self.coefficients.new_zeros(shape)
        for number, term in enumerate(self.terms):
            own = self.coefficients[:, number].abs()
            found[:, term.target] = torch.maximum(found[:, term.target], own)
        return found.view(self.count, -1)

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedMatrix`."""
        return [self.coefficients]

    def map(self, function: Callable[[Tensor], Tensor]) -> DiaMatrix:
        """See `BatchedMatrix`."""
        return DiaMatrix(self.pattern, self.terms, function(self.coefficients))
