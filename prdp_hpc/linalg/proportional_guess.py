"""Adjoint solutions that are multiples of the solution.

Where the loss is a compliance or an energy, such as `½ bᵀ x`, the right-hand side of the adjoint
system is a multiple of b. With a symmetric matrix its solution is then the same multiple of x,
which is given to the adjoint solve as its initial guess. The solve ends after it has computed one
residual, if the solution is as accurate as the adjoint level requires, and iterates otherwise, so
that the guess has no influence on the accuracy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import squares_of
from prdp_hpc.linalg.torch_petsc import to_host

PARALLEL = 1e-12
"""Largest `sin²` of the angle between two right-hand sides that are multiples of each other."""
SMALLEST, LARGEST = 1e-250, 1e250
"""Sums of squares between which products of them are accurate."""


def proportional_guess(comm: MPI.Comm, right: Tensor, other: Tensor, x: Tensor) -> Tensor | None:
    """The multiples of the solutions x for `other` that are the solutions for `right`, all of shape
    `(..., n_local)`; None unless every right-hand side is a multiple; one reduction, collective.
    """
    sums = _inner_products(right, other)
    if comm.size > 1:
        private(comm).sums.Allreduce(MPI.IN_PLACE, sums)
    both, of_right, of_other = sums
    # NaN is in no range.
    if not ((sums[1:] > SMALLEST) & (sums[1:] < LARGEST)).all():
        return None
    factors = both / of_other
    if not (factors * both >= (1.0 - PARALLEL) * of_right).all():
        return None
    own = torch.from_numpy(np.asarray(factors)).to(x.device)
    guess: Tensor = own.unsqueeze(-1) * x
    return guess


def _inner_products(right: Tensor, other: Tensor) -> NDArray[np.float64]:
    """`rᵀ o`, `rᵀ r` and `oᵀ o` of this rank's rows, `(3, ...)`; by NumPy on the host, where
    operations of torch take as long as several iterations with a small matrix.
    """
    if right.device.type != "cpu":
        pairs = (right, other), (right, right), (other, other)
        return torch.stack([torch.linalg.vecdot(*pair) for pair in pairs]).cpu().numpy()
    if right.dim() == 1:
        one, two = to_host(right), to_host(other)
        return np.array([np.vdot(one, two), np.vdot(one, one), np.vdot(two, two)])
    shape = right.shape[:-1]
    rows = (math.prod(shape), right.shape[-1])
    one, two = (to_host(tensor).reshape(rows) for tensor in (right, other))
    both = [one[r].dot(two[r]) for r in range(rows[0])]
    return np.array([both, squares_of(one), squares_of(two)], dtype=np.float64).reshape(3, *shape)
