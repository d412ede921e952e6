"""The vector operations of a step of conjugate gradients, which a system may fuse."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.unrolled.reductions import dots


class PlainOperations(ABC):
    """The operations by torch, differentiable; vectors are `(B, n_local)`, scalars `(B, 1)`."""

    comm: MPI.Comm

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """`A x`."""

    @abstractmethod
    def precondition(self, r: Tensor) -> Tensor:
        """`M⁻¹ r`."""

    def curvature(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """`A p` and `⟨p, A p⟩`; one reduction."""
        ap = self.product(p)
        return ap, dots(self.comm, (p, ap))[0]

    def descend(
        self, x: Tensor, r: Tensor, alpha: Tensor, p: Tensor, ap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`x + α p`, `r − α A p`, the input of `turn` for `z = M⁻¹ r`, `⟨z, r⟩` and `⟨z, z⟩`; one
        reduction.
        """
        x, r = torch.addcmul(x, alpha, p), torch.addcmul(r, alpha, ap, value=-1.0)
        z = self.precondition(r)
        zr, zz = dots(self.comm, (z, r), (z, z))
        return x, r, z, zr, zz

    def turn(self, z: Tensor, beta: Tensor, p: Tensor) -> Tensor:
        """The next direction `z + β p`."""
        return torch.addcmul(z, beta, p)
