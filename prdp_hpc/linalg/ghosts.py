"""Numbers of a distributed vector at any global indices."""

from __future__ import annotations

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
        self._scatter = None
        if template.comm.tompi4py().allreduce(len(foreign)):
            self._source = template.duplicate()
            self._ghosts = PETSc.Vec().createSeq(len(foreign), comm=PETSc.COMM_SELF)
            self._scatter = PETSc.Scatter().create(
                self._source, PETSc.IS().createGeneral(foreign.astype(PETSc.IntType), comm=PETSc.COMM_SELF), self._ghosts, None
            )

    def __call__(self, local: Tensor) -> Tensor:
        """`(n_local,)` float64 to `(nnz,)`; collective."""
        if self._scatter is None:
            return local.index_select(0, self.position)
        self._source.placeArray(local.numpy())
        self._scatter.scatter(self._source, self._ghosts)
        self._source.resetArray()
        return torch.cat([local, torch.from_numpy(self._ghosts.getArray())]).index_select(0, self.position)
