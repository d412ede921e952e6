"""Property: a rollout computes the same steps again on all ranks; its gradients do not depend on
their number.
"""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, NavierStokes, Solver
from prdp_hpc.physics import Robin
from prdp_hpc.physics.rollout import rollout


def draw(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5


def heat(comm):
    """A diffusivity and a coefficient on one side are sought as well."""
    grid = Grid((9, 8), ("neumann", "periodic"), comm)
    whole = (0.6 + draw(9, 8)).requires_grad_()
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    u = draw(2, 1, 9, 8).requires_grad_()
    kappa = grid.scatter(whole)
    sides = [(Robin(rate, 1.0), None), None]
    stepper = Heat(grid, kappa, 0.05, Solver("cg", "jacobi", 1e-13), sides)
    states = rollout(stepper, grid.scatter(u), 12, 3, at=[5, 12], parameters=[kappa])
    weights = grid.scatter(draw(2, 1, 9, 8))
    sum((state.square() * weights).sum() for state in states).backward()
    return [grid.gather(states[-1].detach()), u.grad, whole.grad, rate.grad]


def flow(comm):
    grid = Grid((8, 8), "periodic", comm)
    u = draw(1, 3, 8, 8).requires_grad_()
    stepper = NavierStokes(grid, 0.01, 0.05, Solver("gmres", "constraint", 1e-12))
    end = rollout(stepper, grid.scatter(u), 6, 2)
    (end * grid.scatter(draw(1, 3, 8, 8))).sum().backward()
    return [grid.gather(end.detach()), u.grad]


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_equal_gradients_on_any_number_of_ranks():
    for run in (heat, flow):
        for mine, alone in zip(run(MPI.COMM_WORLD), run(MPI.COMM_SELF), strict=True):
            torch.testing.assert_close(mine, alone, rtol=1e-8, atol=1e-9)
