"""Scaling of right-hand sides of extreme size on any device, see `linalg.scaling`."""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.scaling import DISPROPORTIONATE, ORDINARY


def exponents_of(comm: MPI.Comm, rows: Tensor, ordinary: int = ORDINARY) -> Tensor | None:
    """The power of two of the largest number of each of the extreme rows of `(B, n_local)`, 0 for
    the others, `(B, 1)`; None without extreme rows; collective.

    `ordinary`: rows whose largest number is between 2^−ordinary and 2^ordinary are not scaled.
    """
    exponents = largest_exponents(comm, rows)
    exponents[exponents.abs() <= ordinary] = 0
    return exponents if bool(exponents.any()) else None


def largest_exponents(comm: MPI.Comm, rows: Tensor) -> Tensor:
    """The power of two of each row's largest number, `(B, 1)`, without NaN and infinity;
    collective.
    """
    if rows.shape[1]:
        sizes = torch.linalg.vector_norm(rows, torch.inf, dim=1)
        sizes = torch.where(torch.isfinite(sizes), sizes, 0.0)
    else:
        sizes = rows.new_zeros(len(rows))
    if comm.size > 1:
        host = sizes.cpu().numpy()
        private(comm).sums.Allreduce(MPI.IN_PLACE, host, op=MPI.MAX)
        sizes = torch.from_numpy(np.asarray(host)).to(rows.device)
    return torch.frexp(sizes)[1].to(torch.int32)[:, None]


def scaled_guess(comm: MPI.Comm, guess: Tensor, exponents: Tensor) -> Tensor:
    """The guesses `(B, n_local)` for scaled right-hand sides, 0 where a guess is far larger than
    its right-hand side; collective.
    """
    sizes = largest_exponents(comm, guess) - exponents
    scaled = times_power_of_two(guess, exponents, -1)
    return torch.where(sizes > DISPROPORTIONATE, 0.0, scaled)


def times_power_of_two(rows: Tensor, exponents: Tensor, sign: int = 1) -> Tensor:
    """`rows · 2^(sign · exponents)`, a new tensor."""
    whole = sign * exponents
    half = torch.div(whole, 2, rounding_mode="trunc")
    # In two steps, because one power of two may overflow.
    return torch.ldexp(torch.ldexp(rows, half), whole - half)
