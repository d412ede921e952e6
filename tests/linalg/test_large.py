"""Property: what holds for small systems holds for 10⁶ rows and for 10⁴ solves."""

import gc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
ROWS = 1_000_000


def wide_matrix(symmetric):
    """Diagonally dominant, five entries a row at random places, rows scaled over six orders of
    magnitude.
    """
    draw = np.random.default_rng(0)
    rows = np.repeat(np.arange(ROWS), 2)
    cols = (rows + draw.integers(1, 2000, rows.size)) % ROWS
    off = scipy.sparse.coo_array(
        (draw.standard_normal(rows.size), (rows, cols)), (ROWS, ROWS)
    ).tocsr()
    off = off + off.T if symmetric else off + scipy.sparse.eye_array(ROWS, k=1, format="csr")
    matrix = off + scipy.sparse.diags_array(np.asarray(abs(off).sum(axis=1)).ravel() + 1.0)
    scale = scipy.sparse.diags_array(10.0 ** draw.uniform(-3, 3, ROWS))
    return (scale @ matrix @ scale if symmetric else scale @ matrix).tocsr()


@pytest.mark.long
@pytest.mark.parallel(nprocs=[1, 2])
def test_derivatives_along_a_direction_with_a_million_rows():
    for symmetric, method in ((False, ("gmres", "bjacobi")), (True, ("cg", "jacobi"))):
        operator, values = SparseOperator.from_scipy(wide_matrix(symmetric), symmetric=symmetric)
        solver = Solver(*method, 1e-13)
        torch.manual_seed(WORLD.rank)
        scale = values.abs()
        b = torch.randn(operator.n_local, dtype=torch.float64)
        weights = torch.randn(operator.n_local, dtype=torch.float64) / ROWS
        # The same relative change everywhere keeps the symmetry, and the scaling.
        along_values, along_b = (
            0.3 * scale * values.sign(),
            torch.randn(operator.n_local, dtype=torch.float64),
        )

        def loss(
            step,
            values=values,
            b=b,
            operator=operator,
            solver=solver,
            weights=weights,
            d=(along_values, along_b),
        ):
            return WORLD.allreduce(
                float(weights @ solve(operator, values + step * d[0], b + step * d[1], solver))
            )

        v, right = values.clone().requires_grad_(), b.clone().requires_grad_()
        solve(operator, v, right, solver).backward(weights)
        slope = WORLD.allreduce(float(v.grad @ along_values + right.grad @ along_b))
        step = 1e-4
        assert slope == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-6)


@pytest.mark.long
def test_ten_thousand_solves_do_not_grow():
    operator, values = sparse(dominant(300, density=0.05))
    values.requires_grad_()
    b = torch.ones(4, 300, dtype=torch.float64, requires_grad=True)
    solver = Solver("gmres", "ilu", 3)

    def some(count):
        for _ in range(count):
            with torch.no_grad():
                values.mul_(1.0000001)
            solve(operator, values, b, solver).sum().backward()
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    before = some(500)
    assert some(10_000) - before < 2.0
