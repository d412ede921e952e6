"""The set-up of the preconditioners of batched methods."""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI
from numpy.linalg import LinAlgError
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.batched.matrix import BatchedMatrix, BatchedPattern
from prdp_hpc.linalg.batched.preconditioners import (
    BatchedPreconditioner,
    Chebyshev,
    DenseBlocks,
    Identity,
    Jacobi,
)
from prdp_hpc.linalg.batched.settings import Settings
from prdp_hpc.linalg.reductions import anywhere

LARGEST_BLOCK = 256
"""Rows of a dense block."""
SPAN = 0.1
"""The lower end of Chebyshev's interval, relative to its upper one; PETSc's default."""


def preconditioner_of(
    name: str, pattern: BatchedPattern, values: Tensor, matrix: BatchedMatrix, own: Settings
) -> BatchedPreconditioner:
    """The preconditioner with a name for M matrices; collective.

    Raises
    ------
    ValueError
        On all ranks, for blocks that a rank's rows cannot be divided into.
    numpy.linalg.LinAlgError
        On all ranks, for a block that is singular.
    """
    if name == "none":
        return Identity()
    if name == "jacobi":
        return Jacobi.of(matrix.diagonal())
    if name in ("pbjacobi", "bjacobi"):
        return _blocks(name, pattern, values, own)
    if name == "chebyshev":
        return _chebyshev(pattern, matrix, own)
    made: BatchedPreconditioner = pattern.operator.batched_preconditioner(name, matrix)
    return made


def _blocks(name: str, pattern: BatchedPattern, values: Tensor, own: Settings) -> DenseBlocks:
    operator, entries = pattern.operator, pattern.entries
    size = operator.matrix.getBlockSize()
    error = None
    if name == "bjacobi":
        size, rest = divmod(operator.n_local, max(1, own.blocks))
        if own.blocks == 0 or rest or size > LARGEST_BLOCK:
            error = InputError(
                "pc='bjacobi' of a batched method inverts dense blocks of at most "
                f"{LARGEST_BLOCK} rows: give their number on a rank, of which its "
                f"{operator.n_local} rows are a multiple, as petsc_options="
                "{'pc_bjacobi_local_blocks': ...}"
            )
    raise_together(operator.comm, error)
    rows, cols = (one - operator.row_range[0] for one in (entries.rows, entries.cols))
    inside = np.flatnonzero((rows // size == cols // size) & (cols >= 0))
    place = torch.from_numpy(rows[inside] * size + cols[inside] % size).to(values.device)
    given = entries.of(values)[:, torch.from_numpy(inside).to(values.device)]
    flat = values.new_zeros(len(values), operator.n_local * size)
    for row, numbers in zip(flat, given, strict=True):
        row.index_add_(0, place, numbers)
    inverses, wrong = torch.linalg.inv_ex(
        flat.view(len(values), operator.n_local // size, size, size)
    )
    if anywhere(operator.comm, bool(wrong.any())):
        raise LinAlgError("a block of the preconditioner is singular")
    return DenseBlocks(inverses)


def _chebyshev(pattern: BatchedPattern, matrix: BatchedMatrix, own: Settings) -> Chebyshev:
    """The interval reaches to Gershgorin's bound of the eigenvalues, if none is given."""
    jacobi = Jacobi.of(matrix.diagonal())
    if own.eigenvalues is not None:
        bounds = jacobi.inverse.new_tensor(own.eigenvalues)[:, None].repeat(1, matrix.count)
        return Chebyshev(matrix, jacobi, own.degree, bounds)
    sums = matrix.row_sums() * jacobi.inverse.abs()
    largest = sums.amax(dim=1) if sums.shape[1] else sums.new_zeros(matrix.count)
    if pattern.operator.comm.size > 1:
        host = largest.cpu().numpy()
        private(pattern.operator.comm).sums.Allreduce(MPI.IN_PLACE, host, op=MPI.MAX)
        largest = torch.from_numpy(host).to(sums.device)
    return Chebyshev(matrix, jacobi, own.degree, torch.stack([SPAN * largest, largest]))
