"""Numbers of a distributed vector at any global indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from petsc4py import PETSc
from torch import Tensor


class GhostedIndex:
    """Looks up `vector[indices]` where some indices belong to other ranks.

    Parameters
    ----------
    indices : global indices of this rank's entries, shape `(nnz,)`.
    template : a PETSc vector with the layout to look up in.

    The scatter fetches each foreign index once (PETSc manual page: VecScatterCreate).
    """

    def __init__(self, indices: NDArray[np.integer], template: PETSc.Vec) -> None:
        start, end = template.getOwnershipRange()
        mine = (indices >= start) & (indices < end)
        foreign = np.unique(indices[~mine])
        position = np.where(mine, indices - start, 0)
        position[~mine] = (end - start) + np.searchsorted(foreign, indices[~mine])
        self.position = torch.from_numpy(position.astype(np.int64))
        self._scatter: Any = None
        if template.comm.tompi4py().allreduce(len(foreign)):
            self._source = template.duplicate()
            self._ghosts = PETSc.Vec().createSeq(len(foreign), comm=PETSc.COMM_SELF)
            self._scatter = PETSc.Scatter().create(
                self._source,
                PETSc.IS().createGeneral(foreign.astype(PETSc.IntType), comm=PETSc.COMM_SELF),
                self._ghosts,
                None,
            )

    def __call__(self, local: Tensor) -> Tensor:
        """`(..., n_local)` float64 to `(..., nnz)`; collective."""
        if self._scatter is not None:
            lead = local.shape[:-1]
            fetched = self._fetch(local.reshape(math.prod(lead), local.shape[-1]))
            local = torch.cat([local, fetched.view(*lead, fetched.shape[-1])], dim=-1)
        return local.index_select(-1, self.position)

    def _fetch(self, rows: Tensor) -> Tensor:
        """The foreign entries of each row, `(rows, foreign)`."""
        fetched = np.empty((len(rows), self._ghosts.getLocalSize()))
        for row, ghosts in zip(rows.contiguous().numpy(), fetched, strict=True):
            self._source.placeArray(row)
            self._scatter.scatter(self._source, self._ghosts)
            self._source.resetArray()
            ghosts[:] = self._ghosts.getArray(readonly=True)
        return torch.from_numpy(fetched)
