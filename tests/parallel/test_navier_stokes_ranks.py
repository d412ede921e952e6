"""Property: Navier–Stokes steps, their gradients and their Fourier transforms do not depend on the
number of ranks.
"""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, NavierStokes, Solver
from prdp_hpc.physics.fourier import FourierTransform

WORLD = MPI.COMM_WORLD
SHAPES = [((12, 9), (1.0, 2.0)), ((6, 5, 4), (1.0, 0.5, 2.0))]


def draw(*shape):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64
    )


def run(grid, ksp, pc, level, gradient, differentiation="implicit"):
    """Step, gradient of a loss on it, divergence and projection, all of whole fields;
    iterations.
    """
    state = grid.scatter(draw(2, grid.dim + 1, *grid.shape)).clone().requires_grad_()
    weights = grid.scatter(draw(2, grid.dim + 1, *grid.shape).flip(0))
    solver = Solver(ksp, pc, level, differentiation=differentiation)
    physics = NavierStokes(grid, 1e-2, 0.1, solver, picard_iterations=2, gradient=gradient)
    after = physics(state)
    (after * weights).sum().backward()
    fields = [after.detach(), state.grad, physics.divergence(after.detach())]
    return [grid.gather(field) for field in fields], (
        solver.report.forward.iterations,
        solver.report.adjoint.iterations,
    )


def check_steps(shape, length):
    divided, whole = (Grid(shape, "periodic", comm, length) for comm in (WORLD, MPI.COMM_SELF))
    cases = [
        ("gmres", "constraint", 3, "full"),
        ("gmres", "constraint", 1e-11, "full"),
        ("fgmres", "constraint", 3, "reduced"),
    ]
    cases += [("gmres", "none", 3, "full"), ("gmres", "constraint", 3, "full", "unrolled")]
    for case in cases:
        fields, work = run(divided, *case)
        alone, wanted = WORLD.bcast(run(whole, *case) if WORLD.rank == 0 else None)
        for name, one, other in zip(("step", "gradient", "divergence"), fields, alone, strict=True):
            torch.testing.assert_close(
                one, other, rtol=1e-8, atol=1e-8, msg=lambda m, n=name, c=case: f"{n} of {c}: {m}"
            )
        assert all(abs(a - b) <= 4 for a, b in zip(work, wanted, strict=True)), (case, work, wanted)
    state = draw(2, len(shape) + 1, *shape)
    physics = [NavierStokes(grid, 1e-2, 0.1, Solver()) for grid in (divided, whole)]
    projected = divided.gather(physics[0].divergence_free(divided.scatter(state)))
    torch.testing.assert_close(projected, physics[1].divergence_free(state), rtol=1e-8, atol=1e-8)


def check_transforms(shape):
    grid = Grid(shape, "periodic")
    transform = FourierTransform(grid)
    whole = draw(2, *shape)
    mine = grid.scatter(whole)
    coefficients = transform.forward(mine)
    np.testing.assert_allclose(transform.backward(coefficients), mine, rtol=0, atol=1e-13)
    wanted = np.fft.rfftn(whole.numpy(), axes=tuple(range(1, len(shape) + 1)))
    # Along the last axis the distinct frequencies start at 0; -1 and n - 1 are the same along the
    # others.
    place = [
        np.asarray(k).ravel().astype(int) % n
        for k, n in zip(transform.frequencies, shape, strict=True)
    ]
    np.testing.assert_allclose(coefficients, wanted[np.ix_([0, 1], *place)], rtol=0, atol=1e-11)
    assert WORLD.allreduce(coefficients.numel()) == wanted.size


def check_wrong_on_one_rank_raises_on_all():
    grid, last = Grid((8, 8), "periodic"), WORLD.rank == WORLD.size - 1
    physics = NavierStokes(grid, 0.01, 0.1, Solver("gmres", "constraint", 2))
    state = torch.ones(1, 3, *grid.local_shape, dtype=torch.float64)
    for call in (
        lambda: physics(state[:, :2] if last else state),
        lambda: NavierStokes(grid, -1.0 if last else 0.01, 0.1, Solver()),
        lambda: physics(torch.cat([state, state]) if last else state),
    ):
        try:
            call()
            raised = 0
        except ValueError:
            raised = 1
        assert WORLD.allreduce(raised) == WORLD.size
    torch.testing.assert_close(physics(state)[:, :2], state[:, :2])


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_equal_results_on_any_number_of_ranks():
    for shape, length in SHAPES:
        check_steps(shape, length)
    # fewer points along the first and the last axis than ranks, too
    for shape in ((12, 9), (2, 8), (8, 2), (6, 5, 4), (9,)):
        check_transforms(shape)
    check_wrong_on_one_rank_raises_on_all()
