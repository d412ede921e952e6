"""Ranks that solve with different operators or solvers at the same time raise one error."""

from functools import partial

import pytest
import torch
from mpi4py import MPI
from raised_ranks import raised_everywhere

from prdp_hpc import Grid, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD


def check_ranks_that_solve_with_different_operators():
    """Also where one of them has matrices in use, and the other does not."""
    grid, last = Grid((8,)), WORLD.rank == WORLD.size - 1
    numbers = grid.numbering[1:-1]
    one, two = (SparseOperator(numbers, numbers, (8, 8), grid=grid) for _ in range(2))
    small = SparseOperator(numbers[:2], numbers[:2], (8, 8), grid=grid)
    values = torch.full((2, grid.n_local), 2.0, dtype=torch.float64, requires_grad=True)
    b = torch.ones(2, grid.n_local, dtype=torch.float64)
    for solver in (
        Solver("gmres", "jacobi"),
        Solver("batched_gmres", "jacobi"),
        Solver("gmres", "jacobi", 3, differentiation="unrolled"),
    ):
        kept = solve(one, values, b, solver)
        for other, given in ((two, values), (small, values[:, :2])):
            raised_everywhere(
                ValueError,
                "different operators: rank 0 calls solve with operator",
                partial(solve, other if last else one, given if last else values, b, solver),
            )
        torch.testing.assert_close(solve(two, values, b, solver), b / 2)
        torch.testing.assert_close(kept, b / 2)


def check_ranks_that_solve_with_different_solvers():
    grid, last = Grid((8,)), WORLD.rank == WORLD.size - 1
    numbers = grid.numbering[1:-1]
    operator = SparseOperator(numbers, numbers, (8, 8), grid=grid)
    values = torch.full((grid.n_local,), 2.0, dtype=torch.float64)
    b = torch.ones(2, grid.n_local, dtype=torch.float64)
    usual = Solver("gmres", "jacobi", 1e-8)
    for other in (
        Solver("cg", "jacobi", 1e-8),
        Solver("gmres", "none", 1e-8),
        Solver("gmres", "jacobi", 5),
        Solver("gmres", "jacobi", 1e-8, adjoint=3),
        Solver("gmres", "jacobi", 1e-8, petsc_options={"ksp_gmres_restart": 3}),
        Solver("batched_gmres", "jacobi", 1e-8),
    ):
        raised_everywhere(
            ValueError,
            "different solvers: rank 0 calls solve with operator",
            partial(solve, operator, values, b, other if last else usual),
        )
        torch.testing.assert_close(solve(operator, values, b, usual), b / 2)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_mismatched_solves():
    check_ranks_that_solve_with_different_operators()
    check_ranks_that_solve_with_different_solvers()
