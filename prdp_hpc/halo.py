"""Fields with their neighbour points, on one rank or exchanged among several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from petsc4py import PETSc
from torch import Tensor


class Halo:
    """From `(..., *local_shape)` to `(..., *(n + 2 width))`, and back by the adjoint; 0 beyond a boundary that is not periodic.

    Parameters
    ----------
    dm : a DMDA with box stencil and `width` ghost points; collective calls are over its ranks.
    local_shape : this rank's points per axis, in torch's order.
    periodic : per axis.
    width : neighbour points on each side of each axis; on a periodic axis at most the narrowest rank's points.

    Notes
    -----
    PETSc manual pages: DMGlobalToLocal, DMLocalToGlobal, DMGetGlobalVector.
    """

    def __init__(self, dm: Any, local_shape: tuple[int, ...], periodic: tuple[bool, ...], width: int) -> None:
        self.dm, self.local_shape, self.width = dm, local_shape, width
        dim = len(local_shape)
        self._alone = dm.comm.size == 1
        # Counted from the end, as axes of a batch of fields.
        self._periodic = [axis - dim for axis in range(dim) if periodic[axis]]
        self._inside: Any = (Ellipsis, *(slice(width, -width),) * dim)
        self._padded_shape = tuple(n + 2 * width for n in local_shape)

    def __call__(self, local: Tensor) -> Tensor:
        """The padded fields; differentiable, collective."""
        padded: Tensor = _Halo.apply(local, self)  # type: ignore[no-untyped-call]
        return padded

    def pad(self, local: Tensor) -> Tensor:
        """The padded fields, for any type and device."""
        return self._wrap(local) if self._alone else self._exchange(local)

    def fold(self, padded: Tensor) -> Tensor:
        """The adjoint of `pad`: what stands in ghost points is added to their owners."""
        return self._unwrap(padded) if self._alone else self._exchange_back(padded)

    def _wrap(self, local: Tensor) -> Tensor:
        padded, width = local.new_zeros(*self._lead(local), *self._padded_shape), self.width
        padded[self._inside] = local
        # Axis after axis, each over the whole length of the others: so the corners come out right.
        for axis in self._periodic:
            n = self.local_shape[axis]
            padded.narrow(axis, 0, width).copy_(padded.narrow(axis, n, width))
            padded.narrow(axis, n + width, width).copy_(padded.narrow(axis, width, width))
        return padded

    def _unwrap(self, padded: Tensor) -> Tensor:
        total, width = padded.clone(), self.width
        for axis in reversed(self._periodic):
            n = self.local_shape[axis]
            total.narrow(axis, n, width).add_(total.narrow(axis, 0, width))
            total.narrow(axis, width, width).add_(total.narrow(axis, n + width, width))
        return total[self._inside].contiguous()

    def _exchange(self, local: Tensor) -> Tensor:
        fields = _host(local, math.prod(self.local_shape))
        out = np.empty((len(fields), math.prod(self._padded_shape)))
        # The DM keeps the vectors that it lends, and they keep what they held.
        source, target = self.dm.getGlobalVec(), self.dm.getLocalVec()
        target.set(0.0)
        for field, padded in zip(fields, out, strict=True):
            source.setArray(field)
            self.dm.globalToLocal(source, target)
            padded[:] = target.getArray(readonly=True)
        self.dm.restoreGlobalVec(source)
        self.dm.restoreLocalVec(target)
        return torch.from_numpy(out).reshape(*self._lead(local), *self._padded_shape).to(local)

    def _exchange_back(self, padded: Tensor) -> Tensor:
        fields = _host(padded, math.prod(self._padded_shape))
        out = np.empty((len(fields), math.prod(self.local_shape)))
        source, target = self.dm.getLocalVec(), self.dm.getGlobalVec()
        for ghosted, field in zip(fields, out, strict=True):
            source.setArray(ghosted)
            target.set(0.0)
            self.dm.localToGlobal(source, target, addv=PETSc.InsertMode.ADD_VALUES)
            field[:] = target.getArray(readonly=True)
        self.dm.restoreLocalVec(source)
        self.dm.restoreGlobalVec(target)
        return torch.from_numpy(out).reshape(*self._lead(padded), *self.local_shape).to(padded)

    def _lead(self, fields: Tensor) -> torch.Size:
        return fields.shape[: -len(self.local_shape)]


def _host(fields: Tensor, points: int) -> Any:
    return fields.detach().to(device="cpu", dtype=torch.float64).reshape(-1, points).contiguous().numpy()


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return halo.pad(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.halo.fold(grads[0]), None
