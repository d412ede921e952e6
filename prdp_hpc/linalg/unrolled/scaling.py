"""Scaling of extreme right-hand sides in unrolled solves, see `prdp_hpc.linalg.scaling`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.arrays import times_power_of_two
from prdp_hpc.linalg.scaling import ORDINARY, exponents_of, largest

Backward = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor | None, Tensor]]


NEGLIGIBLE = 400
"""Rows whose cotangents are 2^−400 of the dominant one do not change the gradient of the values."""


class Scaling:
    """The powers of two that the rows of a batch `(B, n_local)` are divided by; collective.

    Without rows, nothing is scaled.
    """

    def __init__(self, comm: MPI.Comm | None = None, rows: Tensor | None = None) -> None:
        self._comm = comm
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
        cotangents are scaled relative to the dominant row, and both gradients are scaled back.
        """
        if self._comm is None or len(grad) == 0:
            return function(grad, values, b)
        sizes = np.frexp(largest(self._comm, grad))[1].astype(np.int32)[:, None]
        own = np.zeros_like(sizes) if self._exponents is None else self._exponents
        if self._exponents is None and (np.abs(sizes) <= ORDINARY).all():
            return function(grad, values, b)
        most = (sizes + own).max(axis=0)
        # Not below the range, where the gradient of b for a small row would lose its digits.
        shift = np.maximum(own - most, -NEGLIGIBLE - sizes)
        scaled = times_power_of_two(grad, shift)
        values_grad, b_grad = function(scaled, values, b)
        if values_grad is not None:
            values_grad = times_power_of_two(values_grad, most)
        return values_grad, times_power_of_two(b_grad, shift, -1)

    def _times(self, rows: Tensor, sign: int) -> Tensor:
        if self._exponents is None:
            return rows
        scaled: Tensor = times_power_of_two(rows, self._exponents, sign)
        return scaled
