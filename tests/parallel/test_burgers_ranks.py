"""Property: Burgers steps and their gradients do not depend on the number of ranks."""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, Solver

WORLD = MPI.COMM_WORLD
SHAPES = [((13,), 1.5), ((12, 9), (1.0, 2.0)), ((6, 5, 4), (1.0, 0.5, 2.0))]
CASES = [
    (("gmres", "jacobi", 1e-13), 3, "full"),
    (("gmres", "jacobi", 1e-13), 3, "reduced"),
    (("bcgs", "jacobi", 3), 1, "full"),
]


def draw(*shape):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64
    )


def run(grid, method, picard_iterations, gradient):
    """Two steps and the gradient of a loss on them, of whole fields."""
    state = grid.scatter(draw(3, grid.dim, *grid.shape)).clone().requires_grad_()
    weights = grid.scatter(draw(3, grid.dim, *grid.shape).flip(0))
    physics = Burgers(grid, 1e-2, 0.05, Solver(*method), picard_iterations, gradient)
    after = physics(physics(state))
    (after * weights).sum().backward()
    return [grid.gather(field) for field in (after.detach(), state.grad)]


def check_wrong_on_one_rank_raises_on_all():
    grid, last = Grid((8, 8), "periodic"), WORLD.rank == WORLD.size - 1
    walls = Grid((8, 8), "dirichlet")
    physics = Burgers(grid, 0.01, 0.1, Solver())
    state = torch.ones(1, 2, *grid.local_shape, dtype=torch.float64)
    for call in (
        lambda: physics(state[:, :1] if last else state),
        lambda: physics(torch.cat([state, state]) if last else state),
        lambda: Burgers(walls if last else grid, 0.01, 0.1, Solver()),
        lambda: Burgers(grid, -1.0 if last else 0.01, 0.1, Solver()),
        lambda: Burgers(grid, 0.01, 0.0 if last else 0.1, Solver()),
        lambda: Burgers(grid, 0.01, 0.1, Solver(), gradient="none" if last else "full"),
    ):
        try:
            call()
            raised = 0
        except ValueError:
            raised = 1
        assert WORLD.allreduce(raised) == WORLD.size
    torch.testing.assert_close(physics(state), state)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_equal_results_on_any_number_of_ranks():
    for shape, length in SHAPES:
        divided, whole = (Grid(shape, "periodic", comm, length) for comm in (WORLD, MPI.COMM_SELF))
        for case in CASES:
            wanted = WORLD.bcast(run(whole, *case) if WORLD.rank == 0 else None)
            for name, mine, alone in zip(
                ("steps", "gradient"), run(divided, *case), wanted, strict=True
            ):
                torch.testing.assert_close(
                    mine,
                    alone,
                    rtol=1e-9,
                    atol=1e-9,
                    msg=lambda m, n=name, c=case: f"{n} of {c}: {m}",
                )
    check_wrong_on_one_rank_raises_on_all()
