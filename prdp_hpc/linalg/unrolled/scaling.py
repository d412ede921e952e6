"""Extreme right-hand sides of unrolled solves, see `prdp_hpc.linalg.scaling`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.arrays import times_power_of_two
from prdp_hpc.linalg.scaling import ORDINARY, exponents_of, largest

Backward = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor | None, Tensor]]


class Scaling:
    """The powers of two that the rows of a batch `(B, n_local)` are divided by; collective.

    Without rows, nothing is scaled.
    """

    def __init__(self, comm: MPI.Comm | None = None, rows: Tensor | None = None) -> None:
        self._comm = comm
        self._exponents = None if comm is None or rows is None else exponents_of(comm, rows.numpy())

    def scaled(self, rows: Tensor) -> Tensor:
        """Right-hand sides as they are solved for."""
        return self._times(rows, -1)

    def unscaled(self, rows: Tensor) -> Tensor:
        """Solutions as they belong to the right-hand sides that were given."""
        return self._times(rows, 1)

    def backward(
        self, function: Backward, grad: Tensor, values: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients of values and b that `function` gives for scaled right-hand sides b.

        What comes back for b is the same for b of any size, since x is homogeneous in b; the
        gradient of the values grows with it, and adds up over the rows. So the cotangents go in
        relative to the row that counts most, and both come out with what was taken from it.
        """
        if self._comm is None or len(grad) == 0:
            return function(grad, values, b)
        sizes = np.frexp(largest(self._comm, grad.numpy()))[1].astype(np.int32)[:, None]
        own = np.zeros_like(sizes) if self._exponents is None else self._exponents
        if self._exponents is None and (np.abs(sizes) <= ORDINARY).all():
            return function(grad, values, b)
        most = (sizes + own).max(axis=0)
        shift = own - most
        scaled = torch.from_numpy(times_power_of_two(grad.numpy(), shift))
        values_grad, b_grad = function(scaled, values, b)
        if values_grad is not None:
            values_grad = torch.from_numpy(times_power_of_two(values_grad.numpy(), most))
        return values_grad, torch.from_numpy(times_power_of_two(b_grad.numpy(), shift, -1))

    def _times(self, rows: Tensor, sign: int) -> Tensor:
        if self._exponents is None:
            return rows
        return torch.from_numpy(times_power_of_two(rows.numpy(), self._exponents, sign))
