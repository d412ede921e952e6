"""Property: solutions and gradients do not depend on the number of ranks."""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver

WORLD = MPI.COMM_WORLD
CASES = [
    ((17,), "dirichlet", ("cg", "jacobi", 1e-13)),
    ((12, 9), ("periodic", "neumann"), ("cg", "mg", 1e-13)),
    ((6, 7, 8), "neumann", ("cg", "gamg", 1e-13)),
    ((10, 11), "dirichlet", ("richardson", "jacobi", 7)),
]


def draw(*shape):
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)
        + 0.5
    )


def run(grid, method, varying):
    """Whole solution and gradients of one heat step after one Poisson solve."""
    u = grid.scatter(draw(2, 1, *grid.shape)).clone().requires_grad_()
    source = grid.scatter(draw(1, 1, *grid.shape) - 1.0).clone().requires_grad_()
    kappa = (
        grid.scatter(draw(*grid.shape)).clone()
        if varying
        else torch.tensor(0.7, dtype=torch.float64)
    ).requires_grad_()
    weights = grid.scatter(draw(2, 1, *grid.shape) - 1.0)
    heat, poisson = Heat(grid, kappa, 0.01, Solver(*method)), Poisson(grid, Solver(*method), kappa)
    after = heat(u + poisson(u), source)
    (after * weights).sum().backward()
    fields = [grid.gather(t.detach()) for t in (after, u.grad, source.grad)]
    return [*fields, grid.gather(kappa.grad) if varying else kappa.grad]


def wrong_on_one_rank_raises_on_all():
    grid, last = Grid((8, 8)), WORLD.rank == WORLD.size - 1
    heat = Heat(grid, 1.0, 0.1, Solver())
    field = torch.ones(grid.local_shape, dtype=torch.float64)
    for call in (
        lambda: heat(torch.ones(3) if last else field),
        lambda: Heat(grid, -field if last else field, 0.1, Solver()),
        lambda: Poisson(grid, Solver(), field[:1] if last else field),
    ):
        try:
            call()
            raised = 0
        except ValueError:
            raised = 1
        assert WORLD.allreduce(raised) == WORLD.size


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_equal_results_on_any_number_of_ranks():
    for shape, boundary, method in CASES:
        for varying in (False, True):
            divided = run(Grid(shape, boundary), method, varying)
            whole = run(Grid(shape, boundary, comm=MPI.COMM_SELF), method, varying)
            for mine, alone in zip(divided, whole, strict=True):
                torch.testing.assert_close(mine, alone, rtol=1e-10, atol=1e-10)
    wrong_on_one_rank_raises_on_all()
