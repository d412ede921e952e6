"""Property: on 1 to 4 ranks batched solves give the same numbers, with one all-reduce for the whole
batch where PETSc's KSPs need one for each right-hand side.
"""

import copy

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant

from prdp_hpc import ElementOperator, Grid, Heat, NavierStokes, Solver, SparseOperator, solve
from prdp_hpc.distributed.transport import TRAFFIC
from prdp_hpc.linalg.batched.dia import DiaPattern
from prdp_hpc.linalg.batched.engine import engine_of

WORLD = MPI.COMM_WORLD
DOUBLE = {"dtype": torch.float64}
RANKS = pytest.mark.parallel(nprocs=[2, 3, 4])


@pytest.mark.long_on(2, 4)
@RANKS
def test_any_pattern_is_solved_as_on_one_rank():
    """Entries of a row may be given by any rank, some twice."""
    matrix = dominant(23, density=0.3, seed=2)
    rows, cols = matrix.nonzero(as_tuple=True)
    mine = slice(WORLD.rank, None, WORLD.size)
    rows, cols = (torch.cat([index[mine], index[mine]]) for index in (rows, cols))
    operator = SparseOperator(rows.numpy(), cols.numpy(), (23, 23))
    values = (matrix[rows, cols] / 2.0).requires_grad_()
    start, end = operator.row_range
    draw = torch.Generator().manual_seed(5)
    b, weights = torch.randn(2, 3, 23, generator=draw, **DOUBLE)
    x, adjoint = torch.linalg.solve(matrix, b.mT).mT, torch.linalg.solve(matrix.mT, weights.mT).mT
    for ksp in ("gmres", "bcgs", "richardson"):
        right = b[:, start:end].clone().requires_grad_()
        found = solve(operator, values, right, Solver(f"batched_{ksp}", "jacobi", 1e-12))
        gradients = torch.autograd.grad((found * weights[:, start:end]).sum(), (values, right))
        torch.testing.assert_close(found, x[:, start:end])
        torch.testing.assert_close(gradients[1], adjoint[:, start:end])
        wanted = -(adjoint[:, rows] * x[:, cols]).sum(0)
        torch.testing.assert_close(gradients[0], wanted)


@pytest.mark.long_on(2, 4)
@RANKS
@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_stencils_are_petscs_iterates_and_save_reductions_and_messages(boundary):
    grid, count, level = Grid((9, 8), boundary), 4, 5
    draw = torch.Generator().manual_seed(WORLD.rank)
    field = torch.randn(count, 1, *grid.local_shape, generator=draw, **DOUBLE)
    results, traffic = [], []
    for ksp in ("cg", "batched_cg"):
        heat = Heat(grid, 1e-2, 0.5, Solver(ksp, "jacobi", level))
        heat(field)
        before = copy.copy(TRAFFIC)
        u = field.clone().requires_grad_()
        after = heat(u)
        traffic.append(
            [getattr(TRAFFIC, n) - getattr(before, n) for n in ("reductions", "messages")]
        )
        results.append([after, *torch.autograd.grad(after.square().sum(), u)])
    for found, wanted in zip(*results[::-1], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)
    engine = engine_of(heat.solver)
    assert all(isinstance(found, DiaPattern) for found in engine._patterns.values())
    # PETSc's CG has 2 K for each right-hand side.
    assert traffic[1][0] <= 2 * level + 1
    # A product is one exchange of halos for the batch: two messages along a divided axis.
    axes = sum(parts > 1 for parts in grid.partition.process_grid)
    assert traffic[1][1] - traffic[0][1] <= 2 * axes * level


@pytest.mark.parallel(nprocs=3)
def test_the_constraint_preconditioner_and_single_precision():
    grid = Grid((8, 9), "periodic")
    draw = torch.Generator().manual_seed(WORLD.rank)
    state = torch.randn(2, 3, *grid.local_shape, generator=draw, **DOUBLE)
    results = []
    for ksp, precision in (
        ("bcgs", "float64"),
        ("batched_bcgs", "float64"),
        ("batched_bcgs", "float32"),
    ):
        solver = Solver(ksp, "constraint", 3, precision=precision)
        u = state.clone().requires_grad_()
        after = NavierStokes(grid, 1e-2, 0.1, solver)(u)
        results.append([after, *torch.autograd.grad(after.square().sum(), u)])
    for wanted, double, single in zip(*results, strict=True):
        torch.testing.assert_close(double, wanted, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(single, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parallel(nprocs=3)
def test_elements_that_ranks_share():
    cells = np.array([[i, i + 1] for i in range(12)])[WORLD.rank :: WORLD.size]
    operator = ElementOperator(cells, 13, dirichlet=[0, 12], symmetric=True)
    stiffness = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], **DOUBLE)
    values = stiffness * torch.arange(1, len(cells) + 1, **DOUBLE)[:, None, None]
    b = torch.ones(2, operator.n_local, **DOUBLE)
    results = []
    for ksp in ("cg", "batched_cg"):
        own = values.clone().requires_grad_()
        x = solve(operator, own, b, Solver(ksp, "jacobi", 1e-12))
        results.append([x, *torch.autograd.grad(x.square().sum(), own)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parallel(nprocs=2)
def test_an_error_of_one_rank_is_raised_on_all():
    n = 4 * WORLD.size
    operator = SparseOperator(np.arange(n), np.arange(n), (n, n))
    values = torch.ones(n, **DOUBLE)
    if WORLD.rank == 1:
        values[2] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        solve(operator, values, torch.ones(4, **DOUBLE), Solver("batched_cg"))
    b = torch.ones(4, **DOUBLE)
    if WORLD.rank == 1:
        b[0] = torch.nan
    with pytest.raises(RuntimeError, match="right-hand side holds NaN"):
        solve(operator, torch.ones(n, **DOUBLE), b, Solver("batched_cg"))
