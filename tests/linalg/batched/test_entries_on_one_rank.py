"""Property: a rank may have no entries, or no rows, of the matrix."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
METHODS = [(f"batched_{ksp}", pc) for ksp in ("gmres", "bcgs") for pc in ("none", "jacobi")]
METHODS += [("gmres", "jacobi"), ("batched_richardson", "jacobi"), ("batched_gmres", "pbjacobi")]


def check_solves(ksp, pc, n, holder, matrices, rights):
    draw = np.random.default_rng(0)
    dense = 0.2 * draw.standard_normal((matrices, n, n)) / n + np.eye(n)
    b = draw.standard_normal((matrices * rights, n))
    rows, cols = np.indices((n, n)).reshape(2, -1)
    is_mine = WORLD.rank == min(holder, WORLD.size - 1)
    rows, cols = (index if is_mine else index[:0] for index in (rows, cols))
    operator = SparseOperator(rows, cols, (n, n))
    values = torch.from_numpy(dense.reshape(matrices, -1)[:, : len(rows)]).requires_grad_()
    own = slice(*operator.row_range)
    right = torch.from_numpy(b[:, own]).requires_grad_()
    given = values if matrices > 1 else values[0]
    x = solve(operator, given, right, Solver(ksp, pc, 1e-12))
    wanted = np.linalg.solve(np.repeat(dense, rights, axis=0), b[..., None])[..., 0]
    np.testing.assert_allclose(x.detach().numpy(), wanted[:, own], rtol=1e-9, atol=1e-10)
    x.square().sum().backward()
    adjoint = np.linalg.solve(np.repeat(dense, rights, axis=0).mT, 2.0 * wanted[..., None])[..., 0]
    np.testing.assert_allclose(right.grad.numpy(), adjoint[:, own], rtol=1e-8, atol=1e-9)
    pairs = -np.einsum("mri,mrj->mij", *(y.reshape(matrices, rights, n) for y in (adjoint, wanted)))
    expected = pairs.reshape(matrices, -1)[:, : len(rows)]
    np.testing.assert_allclose(values.grad.numpy(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parallel(nprocs=[2, 4])
def test_a_rank_may_have_nothing():
    for ksp, pc in METHODS:
        for n, holder, matrices, rights in (
            (12, 3, 1, 1),
            (12, 0, 1, 3),
            (2, 1, 2, 2),
            (3, 0, 3, 1),
        ):
            check_solves(ksp, pc, n, holder, matrices, rights)
