"""Matrices of any pattern in compressed sparse rows, multiplied by torch (MKL, cuSPARSE)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.batched.entries import DeviceTensors, OwnedEntries
from prdp_hpc.linalg.batched.exchange import Exchange, ghosts_of
from prdp_hpc.linalg.batched.matrix import BatchedMatrix, BatchedPattern
from prdp_hpc.linalg.sparse_operator import SparseOperator

Indices = NDArray[np.int64]
LARGEST = np.iinfo(np.int32).max


class CsrPattern(BatchedPattern):
    """The rows of this rank; columns of other ranks follow those of this rank.

    Entries that occur twice have one slot.
    """

    def __init__(self, operator: SparseOperator, entries: OwnedEntries) -> None:
        super().__init__(operator, entries)
        start, end = operator.row_range
        cols = entries.cols
        mine = (cols >= start) & (cols < end)
        foreign = np.unique(cols[~mine])
        position = np.where(mine, cols - start, 0)
        position[~mine] = (end - start) + np.searchsorted(foreign, cols[~mine])
        self.n_local, self.n_ghosts = int(end - start), len(foreign)
        self.ghosts: Exchange = ghosts_of(operator.comm, entries.starts, foreign)
        width = max(1, self.n_local + self.n_ghosts)
        keys, slot = np.unique((entries.rows - start) * width + position, return_inverse=True)
        self.slots = len(keys)
        self._is_a_permutation = self.slots == len(slot)
        rows, columns = np.divmod(keys, width)
        # Row and column of each slot, and the order of the slots by columns.
        order = np.argsort(columns, kind="stable")
        diagonal = np.flatnonzero(rows == columns)
        self._index = DeviceTensors(
            slot=torch.from_numpy(slot.astype(np.int64)),
            gather=torch.from_numpy(np.argsort(slot, kind="stable")),
            rows=torch.from_numpy(rows),
            columns=torch.from_numpy(columns),
            order=torch.from_numpy(order),
            back=torch.from_numpy(np.argsort(order, kind="stable")),
            diagonal=torch.from_numpy(diagonal),
        )
        self.straight = CsrStructure(rows, columns, self.n_local, self.n_local + self.n_ghosts)
        self._turned: CsrStructure | None = None
        self._host = rows, columns, order

    @property
    def turned(self) -> CsrStructure:
        """The structure of the transposes."""
        if self._turned is None:
            rows, columns, order = self._host
            width = self.n_local + self.n_ghosts
            self._turned = CsrStructure(columns[order], rows[order], width, self.n_local)
        return self._turned

    def matrix(self, values: Tensor, constant: float = 1.0) -> CsrMatrix:
        """See `BatchedPattern`."""
        given, index = self.entries.of(values, constant), self._index.on(values.device)
        if self._is_a_permutation:
            return CsrMatrix(self, given.index_select(-1, index.gather))
        slots = given.new_zeros(len(given), self.slots)
        for row, own in zip(slots, given, strict=True):
            row.index_add_(0, index.slot, own)
        return CsrMatrix(self, slots)

    def pair_entries(self, left: Tensor, right: Tensor) -> Tensor:
        """See `BatchedPattern`; it needs one array of the slots' size per argument at a time."""
        index = self._index.on(left.device)
        everywhere = self.with_ghosts(right)
        total = left.new_zeros(len(left), self.slots)
        for r in range(left.shape[1]):
            total.addcmul_(
                left[:, r].index_select(-1, index.rows),
                everywhere[:, r].index_select(-1, index.columns),
            )
        return total.index_select(-1, index.slot)

    def with_ghosts(self, x: Tensor) -> Tensor:
        """`(..., n_local)` followed by the entries of other ranks."""
        return torch.cat([x, self.ghosts.fetch(x)], dim=-1) if self.ghosts.is_needed else x

    def index_on(self, device: torch.device) -> SimpleNamespace:
        """The index tensors on a device."""
        return self._index.on(device)


class CsrStructure:
    """Row pointers and columns of one matrix, and of a block diagonal of M matrices."""

    def __init__(self, rows: Indices, columns: Indices, n_rows: int, n_cols: int) -> None:
        self.n_rows, self.n_cols = n_rows, n_cols
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
        self._index = DeviceTensors(
            starts=torch.from_numpy(starts.astype(np.int64)),
            columns=torch.from_numpy(columns.astype(np.int64)),
        )
        self._made: dict[tuple[torch.device, int], tuple[Tensor, Tensor]] = {}

    def tensor(self, values: Tensor) -> Tensor:
        """The sparse tensor of `(M, slots)`: M blocks on its diagonal."""
        starts, columns = self._blocks(values.device, len(values))
        size = (len(values) * self.n_rows, len(values) * self.n_cols)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            return torch.sparse_csr_tensor(
                starts, columns, values.reshape(-1), size=size, check_invariants=False
            )

    def _blocks(self, device: torch.device, count: int) -> tuple[Tensor, Tensor]:
        found = self._made.get((device, count))
        if found is None:
            index, number = self._index.on(device), torch.arange(count, device=device)
            ends = index.starts[1:] + index.starts[-1] * number[:, None]
            columns = index.columns + self.n_cols * number[:, None]
            starts = torch.cat([index.starts[:1], ends.reshape(-1)])
            # 32 bits are half as much to read, and torch would convert for MKL at each product.
            most = max(int(starts[-1]), count * self.n_cols)
            dtype = torch.int32 if most <= LARGEST else torch.int64
            found = starts.to(dtype), columns.reshape(-1).to(dtype)
            self._made = {**self._made, (device, count): found}
        return found


class CsrMatrix(BatchedMatrix):
    """See `BatchedMatrix`.

    Parameters
    ----------
    pattern : the positions of the entries.
    values : `(M, slots)`, sorted by the rows of these matrices; products read them without a copy.
    is_turned : whether these are the transposes.
    """

    def __init__(self, pattern: CsrPattern, values: Tensor, is_turned: bool = False) -> None:
        self.pattern, self.values, self._is_turned = pattern, values, is_turned
        self.count = len(values)
        self._sparse: Tensor | None = None

    def product(self, x: Tensor) -> Tensor:
        """See `BatchedMatrix`."""
        pattern = self.pattern
        if not self._is_turned:
            return self._multiply(pattern.with_ghosts(x))
        everywhere = self._multiply(x)
        if not pattern.ghosts.is_needed:
            return everywhere
        own = everywhere[:, : pattern.n_local].contiguous()
        pattern.ghosts.add(everywhere[:, pattern.n_local :], own)
        return own

    def transposed(self) -> CsrMatrix:
        """See `BatchedMatrix`."""
        order = self._index.back if self._is_turned else self._index.order
        values = self.values.index_select(-1, order)
        return CsrMatrix(self.pattern, values, not self._is_turned)

    def diagonal(self) -> Tensor:
        """See `BatchedMatrix`; of the matrices, not their transposes."""
        index = self._index
        found = self.values.new_zeros(self.count, self.pattern.n_local)
        found[:, index.rows[index.diagonal]] = self.values[:, index.diagonal]
        return found

    def row_sizes(self) -> Tensor:
        """See `BatchedMatrix`; of the matrices, not their transposes."""
        found = self.values.new_zeros(self.count, self.pattern.n_local)
        rows = self._index.rows.expand_as(self.values)
        return found.scatter_reduce_(1, rows, self.values.abs(), "amax")

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedMatrix`."""
        return [self.values]

    def map(self, function: Callable[[Tensor], Tensor]) -> CsrMatrix:
        """See `BatchedMatrix`."""
        return CsrMatrix(self.pattern, function(self.values), self._is_turned)

    @property
    def _index(self) -> SimpleNamespace:
        return self.pattern.index_on(self.values.device)

    def _multiply(self, x: Tensor) -> Tensor:
        if self._sparse is None:
            structure = self.pattern.turned if self._is_turned else self.pattern.straight
            self._sparse = structure.tensor(self.values)
        each = len(x) // self.count
        if len(x) == 1:
            return (self._sparse @ x[0])[None]
        if self.count == 1:
            return (self._sparse @ x.mT).mT.contiguous()
        if each == 1:
            return (self._sparse @ x.reshape(-1, 1)).view(self.count, -1)
        columns = x.view(self.count, each, x.shape[-1]).transpose(1, 2).flatten(0, 1)
        result = (self._sparse @ columns).unflatten(0, (self.count, -1))
        product: Tensor = result.transpose(1, 2).flatten(0, 1)
        return product
