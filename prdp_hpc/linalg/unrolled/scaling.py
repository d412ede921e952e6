"""Scaling of extreme right-hand sides in unrolled solves, see `prdp_hpc.linalg.scaling`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.arrays import times_power_of_two
from prdp_hpc.linalg.scaling import ORDINARY, exponents_of, largest

Backward = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor | None, Tensor]]


FAR_BELOW = 400
"""Rows whose cotangents are below 2^−400 of the dominant one of their matrix are computed apart."""


_NONE = np.iinfo(np.int32).min // 2


class Scaling:
    """The powers of two that the rows of a batch `(B, n_local)` are divided by; collective.

    Without rows, nothing is scaled. The rows of each of the `matrices` follow each other.
    """

    def __init__(
        self, comm: MPI.Comm | None = None, rows: Tensor | None = None, matrices: int = 1
    ) -> None:
        self._comm, self._matrices = comm, matrices
        self._exponents = None if comm is None or rows is None else exponents_of(comm, rows)

    def scaled(self, rows: Tensor) -> Tensor:
        """Right-hand sides divided by their powers of two."""
        return self._times(rows, -1)

    def unscaled(self, rows: Tensor) -> Tensor:
        """Solutions of the original right-hand sides."""
        return self._times(rows, 1)

    def backward(
        self, function: Backward, grad: Tensor, values: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients of values and b, from `function` for scaled right-hand sides b.

        The gradient of b does not depend on the size of b, because x is homogeneous in b; the
        gradient of the values is proportional to it, and summed over the rows. Therefore the
        cotangents are scaled relative to the dominant row of their matrix, and both gradients are
        scaled back. Rows far below it, whose gradient of b would lose its digits, and which count
        if the others cancel, are scaled among themselves.
        """
        if self._comm is None or len(grad) == 0:
            return function(grad, values, b)
        lengths = largest(self._comm, grad)[:, None]
        sizes, has_any = np.frexp(lengths)[1].astype(np.int32), lengths > 0.0
        own = np.zeros_like(sizes) if self._exponents is None else self._exponents
        if self._exponents is None and (np.abs(sizes) <= ORDINARY).all():
            return function(grad, values, b)
        sums = np.where(has_any, sizes + own, _NONE)
        most = sums.reshape(self._matrices, -1).max(axis=1, keepdims=True)
        most[most == _NONE] = 0
        dominant = np.repeat(most, len(grad) // self._matrices, axis=0)
        below = torch.from_numpy(has_any & (sums < dominant - FAR_BELOW)).to(grad.device)
        if below.any():
            parts = (torch.where(below, 0.0, grad), torch.where(below, grad, 0.0))
            (of_values, of_b), (more_of_values, more_of_b) = (
                self.backward(function, part, values, b) for part in parts
            )
            if of_values is not None and more_of_values is not None:
                of_values = of_values + more_of_values
            return of_values, of_b + more_of_b
        shift = np.where(has_any, own - dominant, 0)
        scaled = times_power_of_two(grad, shift)
        values_grad, b_grad = function(scaled, values, b)
        if values_grad is not None:
            is_one = self._matrices == 1
            values_grad = times_power_of_two(values_grad, most[0] if is_one else most)
        return values_grad, times_power_of_two(b_grad, shift, -1)

    def _times(self, rows: Tensor, sign: int) -> Tensor:
        if self._exponents is None:
            return rows
        scaled: Tensor = times_power_of_two(rows, self._exponents, sign)
        return scaled
