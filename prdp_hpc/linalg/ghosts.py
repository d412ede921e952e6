"""Entries of a distributed vector at arbitrary global indices, and the adjoint sum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg.arrays import as_tensor
from prdp_hpc.linalg.torch_petsc import HOST, Memory, placed, to_memory
from prdp_hpc.petsc import PETSc


class GhostedIndex:
    """`v ↦ v[indices]` where some indices belong to other ranks, and its adjoint.

    Parameters
    ----------
    indices : global indices of this rank's entries, shape `(nnz,)`.
    template : a PETSc vector with the layout to look up in.
    memory : where the vectors are; default: the host.

    The scatter fetches each foreign index once (PETSc manual page: VecScatterCreate). Neither
    direction is recorded by autograd.
    """

    def __init__(
        self, indices: NDArray[np.integer], template: PETSc.Vec, memory: Memory = HOST
    ) -> None:
        start, end = template.getOwnershipRange()
        mine = (indices >= start) & (indices < end)
        foreign = np.unique(indices[~mine])
        position = np.where(mine, indices - start, 0)
        position[~mine] = (end - start) + np.searchsorted(foreign, indices[~mine])
        self._memory = memory
        # In 4 bytes, because reading the index takes a large part of a gather's time.
        self.position = torch.from_numpy(position.astype(np.int32)).to(memory.device)
        self._n_local, self._n_foreign = int(end - start), len(foreign)
        self._scatter: Any = None
        if template.comm.tompi4py().allreduce(len(foreign)):
            self._source = template.duplicate()
            self._ghosts = PETSc.Vec().create(comm=PETSc.COMM_SELF)
            self._ghosts.setSizes(len(foreign))
            self._ghosts.setType(f"seq{memory.kind.lower()}" if memory.kind else "seq")
            self._scatter = PETSc.Scatter().create(
                self._source,
                PETSc.IS().createGeneral(foreign.astype(PETSc.IntType), comm=PETSc.COMM_SELF),
                self._ghosts,
                None,
            )

    def gather(self, local: Tensor) -> Tensor:
        """`(..., n_local)` float64 to `(..., nnz)`; collective."""
        if self._scatter is not None:
            fetched = self._fetch(_rows(local))
            local = torch.cat([local, fetched.view(*local.shape[:-1], self._n_foreign)], dim=-1)
        return local.index_select(-1, self.position)

    def scatter_add(self, entries: Tensor) -> Tensor:
        """The adjoint: `(..., nnz)` float64 added up to `(..., n_local)`; collective."""
        total = torch.zeros(
            *entries.shape[:-1],
            self._n_local + self._n_foreign,
            dtype=torch.float64,
            device=self._memory.device,
        )
        # Row by row: along the last of several axes, torch adds entry by entry, which is slow.
        for row, own in zip(_rows(total), _rows(entries), strict=True):
            row.index_add_(0, self.position, own)
        if self._scatter is None:
            return total
        local = total[..., : self._n_local].contiguous()
        self._add_to_owners(_rows(local), _rows(total[..., self._n_local :]))
        return local

    def _fetch(self, rows: Tensor) -> Tensor:
        """The foreign entries of each row, `(rows, foreign)`."""
        sources = to_memory(rows, self._memory)
        fetched = to_memory(torch.empty(len(rows), self._n_foreign), self._memory)
        for row, ghosts in zip(sources, fetched, strict=True):
            with placed((self._source, row), (self._ghosts, ghosts)):
                self._scatter.scatter(self._source, self._ghosts)
        return as_tensor(fetched)

    def _add_to_owners(self, rows: Tensor, foreign: Tensor) -> None:
        """Add this rank's sums for foreign entries to the owners' rows, in place."""
        pair = (to_memory(each, self._memory) for each in (rows, foreign))
        for row, ghosts in zip(*pair, strict=True):
            with placed((self._source, row), (self._ghosts, ghosts)):
                self._scatter.scatter(
                    self._ghosts,
                    self._source,
                    addv=PETSc.InsertMode.ADD_VALUES,
                    mode=PETSc.ScatterMode.REVERSE,
                )


def _rows(tensor: Tensor) -> Tensor:
    """Flatten the leading axes; a view where that is possible."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])
