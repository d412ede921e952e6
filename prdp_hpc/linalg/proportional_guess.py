"""Adjoint solutions that are multiples of the solution.

Where the loss is a compliance or an energy, such as `½ bᵀ x`, the right-hand side of the adjoint
system is a multiple of b. With a symmetric matrix its solution is then the same multiple of x,
which is given to the adjoint solve as its initial guess. The solve ends after it has computed one
residual, if the solution is as accurate as the adjoint level requires, and iterates otherwise, so
that the guess has no influence on the accuracy.
"""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.communicators import private

PARALLEL = 1e-12
"""Largest `sin²` of the angle between two right-hand sides that are multiples of each other."""
SMALLEST, LARGEST = 1e-250, 1e250
"""Sums of squares between which products of them are accurate."""


def proportional_guess(comm: MPI.Comm, right: Tensor, other: Tensor, x: Tensor) -> Tensor | None:
    """The multiples of the solutions x for `other` that are the solutions for `right`, all of shape
    `(..., n_local)`; None unless every right-hand side is a multiple; one reduction, collective.
    """
    products = torch.stack([torch.linalg.vecdot(*pair) for pair in _pairs(right, other)])
    if comm.size > 1:
        sums = products.cpu().numpy()
        private(comm).sums.Allreduce(MPI.IN_PLACE, sums)
        products = torch.from_numpy(sums).to(right.device)
    both, of_right, of_other = products
    factors = both / of_other
    squares = products[1:]
    # NaN is in no range.
    in_range = ((squares > SMALLEST) & (squares < LARGEST)).all(dim=0)
    if not bool((in_range & (factors * both >= (1.0 - PARALLEL) * of_right)).all()):
        return None
    guess: Tensor = factors.unsqueeze(-1) * x
    return guess


def _pairs(one: Tensor, other: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (one, other), (one, one), (other, other)
