"""The entries of a pattern on the ranks that own their rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.batched.exchange import entries_to_owners
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import Constant

Indices = NDArray[np.int64]


class DeviceTensors:
    """Index tensors, with a copy on each device where they are used."""

    def __init__(self, **tensors: Tensor) -> None:
        self._constants = {name: Constant(tensor) for name, tensor in tensors.items()}

    def on(self, device: torch.device) -> SimpleNamespace:
        """All of them on a device."""
        return SimpleNamespace(**{name: one.on(device) for name, one in self._constants.items()})


class OwnedEntries:
    """`values (M, nnz_local) ↦` the entries `(M, count)` of this rank's rows, and the adjoint;
    collective if a rank has entries of another rank's rows.

    Attributes
    ----------
    rows, cols : global numbers of the entries, `(count,)`.
    starts : the first row of each rank, and the end.
    """

    def __init__(self, operator: SparseOperator) -> None:
        comm = operator.comm
        rows, cols, self._kept, self._constants = operator.coo_pattern()
        rows, cols = rows.astype(np.int64), cols.astype(np.int64)
        ends = private(comm).agreement.allgather(operator.row_range[1])
        self.starts: Indices = np.array([0, *ends], dtype=np.int64)
        start, end = operator.row_range
        self._values = operator.nnz_local
        self._exchange, rows_came, cols_came = entries_to_owners(comm, self.starts, rows, cols)
        own = np.flatnonzero((rows >= start) & (rows < end))
        self.rows: Indices = np.concatenate([rows[own], rows_came])
        self.cols: Indices = np.concatenate([cols[own], cols_came])
        self._given, self._own_count = len(rows), len(own)
        self._are_all_own = len(own) == len(rows) and not self._exchange.is_needed
        kept = np.arange(0) if self._kept is None else self._kept
        self._index = DeviceTensors(own=torch.from_numpy(own), kept=torch.from_numpy(kept))

    def of(self, values: Tensor, constant: float = 1.0) -> Tensor:
        """The entries of values `(M, nnz_local)`; `constant`: the value of the constant entries, 1,
        or 0 for a change of the values.
        """
        index = self._index.on(values.device)
        given = values if self._kept is None else values.index_select(-1, index.kept)
        if self._constants:
            ones = values.new_full((*values.shape[:-1], self._constants), constant)
            given = torch.cat([given, ones], dim=-1)
        if self._are_all_own:
            return given
        own = given.index_select(-1, index.own)
        return torch.cat([own, self._exchange.fetch(given)], dim=-1)

    def adjoint(self, entries: Tensor) -> Tensor:
        """The adjoint, from `(M, count)` to `(M, nnz_local)`."""
        index, lead = self._index.on(entries.device), entries.shape[:-1]
        given = entries
        if not self._are_all_own:
            given = entries.new_zeros(*lead, self._given)
            given[..., index.own] = entries[..., : self._own_count]
            self._exchange.add(entries[..., self._own_count :], given)
        if self._constants:
            given = given[..., : -self._constants]
        if self._kept is None:
            return given
        values = entries.new_zeros(*lead, self._values)
        values[..., index.kept] = given
        return values
