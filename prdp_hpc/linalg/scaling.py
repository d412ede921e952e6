"""Scaling of right-hand sides of extreme size.

Inner products of numbers below 1e-162 are 0 and those of numbers above 1e154 are infinite. A solve
is homogeneous in its right-hand side, so an extreme right-hand side is multiplied by a power of two
before the solve, and its solution is divided by it afterwards, which changes no bit of the
mantissas.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import (
    HostArray,
    Numbers,
    largest_of_rows,
    set_rows,
    squares_of,
    times_power_of_two,
)

Exponents = NDArray[np.int32]

ORDINARY = 40
"""Right-hand sides whose largest number is between 2^−40 and 2^40 are not scaled."""
ORDINARY_OF = {"minres": 12, "symmlq": 12}
"""The same for methods that compare lengths with absolute numbers."""

DISPROPORTIONATE = 400
"""Largest power of two by which a guess may exceed an extreme right-hand side."""


def exponents_of(
    comm: MPI.Comm,
    rows: Numbers,
    ordinary: int = ORDINARY,
    squares: Sequence[float] | None = None,
) -> Exponents | None:
    """The power of two of the largest number of each of the extreme rows of `(B, n_local)`, 0 for
    the others, `(B, 1)`; None without extreme rows; collective.

    `ordinary`: rows whose largest number is between 2^−ordinary and 2^ordinary are not scaled.
    `squares`: the squared length of each row on this rank, if known.
    """
    if comm.size == 1 and _are_ordinary(rows, ordinary, squares):
        return None
    sizes = largest(comm, rows)
    exponents: Exponents = np.frexp(sizes)[1].astype(np.int32)
    exponents[np.abs(exponents) <= ordinary] = 0
    return exponents[:, None] if exponents.any() else None


def _are_ordinary(rows: Numbers, ordinary: int, squares: Sequence[float] | None) -> bool:
    """Whether the length of each row shows that its largest number is in the ordinary range; one
    pass, where that number itself takes two.
    """
    if squares is None:
        if isinstance(rows, Tensor):
            return False
        squares = squares_of(rows)
    least, most = ordinary_squares(rows.shape[-1], ordinary)
    return all(least <= square <= most for square in squares)


def ordinary_squares(length: int, ordinary: int = ORDINARY) -> tuple[float, float]:
    """The squared lengths of rows of this many numbers between which the largest number is in the
    ordinary range.
    """
    return length * 4.0**-ordinary, 4.0 ** (ordinary - 1)


def largest(comm: MPI.Comm, rows: Numbers) -> HostArray:
    """The largest absolute value in each row, `(B,)`, without NaN and infinity;
    collective.
    """
    sizes = largest_of_rows(rows)
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    if comm.size > 1:
        private(comm).sums.Allreduce(MPI.IN_PLACE, sizes, op=MPI.MAX)
    return sizes


def exponents_with_guess(
    comm: MPI.Comm, b: Tensor, start: Tensor, rest: Tensor
) -> tuple[Exponents | None, Tensor, Tensor]:
    """As `exponents_of`, of the larger one of each right-hand side `(B, n_local)` and what a guess
    leaves of it; and both, for a guess of 0 where another one leaves far more; collective.
    """
    sizes = largest(comm, torch.cat([b, rest]))
    exponents: Exponents = np.frexp(sizes)[1].astype(np.int32)
    of_b, of_rest = exponents[: len(b)], exponents[len(b) :]
    is_far = (sizes[: len(b)] > 0.0) & (of_rest - of_b > DISPROPORTIONATE)
    if is_far.any():
        drops = torch.from_numpy(is_far).to(b.device)[:, None]
        start, rest = torch.where(drops, 0.0, start), torch.where(drops, b, rest)
    found = np.where(is_far, of_b, np.maximum(of_b, of_rest)).astype(np.int32)
    found[np.abs(found) <= ORDINARY] = 0
    return (found[:, None] if found.any() else None), start, rest


def scaled_guess(comm: MPI.Comm, guess: Numbers, exponents: Exponents) -> Numbers:
    """The guesses `(B, n_local)` for scaled right-hand sides, 0 where a guess is far larger than
    its right-hand side; collective.
    """
    scaled = times_power_of_two(guess, exponents, -1)
    sizes = np.frexp(largest(comm, guess))[1] - exponents[:, 0]
    set_rows(scaled, sizes > DISPROPORTIONATE, 0.0)
    return scaled
