"""Property: conditions on sides give the same solutions and gradients on any number of ranks."""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, Heat, Poisson, Solver
from prdp_hpc.physics import SBDF2, Dirichlet, Neumann, Robin

WORLD = MPI.COMM_WORLD
SHAPES = [((13,), "neumann"), ((9, 8), "neumann"), ((5, 6, 4), ("neumann", "periodic", "neumann"))]


def draw(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5


def on_side(grid, whole, axis, end):
    """This rank's part of numbers of a whole side, which are replicated."""
    part = [slice(None) if d == axis else s for d, s in enumerate(grid.local_slices)]
    width = grid.face_shape(axis, end)[axis]
    return grid.replicated(whole)[(..., *part)].narrow(axis - grid.dim, 0, width)


def run(grid, method):
    """Whole solution and gradients of one heat step after one Poisson solve."""
    dim = grid.dim
    face = (1, *grid.shape[1:])
    kappa = draw(*grid.shape).requires_grad_()
    low, rate, high, flux = (
        t.requires_grad_() for t in (draw(2, 1, *face), draw(*face), draw(), draw(2, 1, *face))
    )
    source = grid.scatter(draw(2, 1, *grid.shape) - 1.0)
    others = [(Dirichlet(0.3), Neumann(flux.sum() / 8))] if dim > 1 else []
    sides = [
        (Dirichlet(on_side(grid, low, 0, "low")), Robin(on_side(grid, rate, 0, "high"), high)),
        *([None] if dim == 3 else []),
        *others,
    ]
    own = grid.scatter(kappa)
    poisson = Poisson(grid, Solver(*method), own, sides, "harmonic")
    sides[0] = (Neumann(on_side(grid, flux, 0, "low")), sides[0][1])
    heat = Heat(grid, own, 0.01, Solver(*method), sides)
    after = heat(poisson(source))
    weights = grid.scatter(draw(2, 1, *grid.shape) - 1.0)
    (after * weights).sum().backward()
    return [grid.gather(after.detach()), *(t.grad for t in (kappa, low, rate, high, flux))]


def in_time(grid):
    """Gradients in the time and the time step, of values, coefficients and terms that depend on the
    time: of each point, or as one number for a side.
    """
    t0, dt = (torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in (0.3, 0.1))
    sides = [(Dirichlet(lambda y, x, t: x + torch.sin(3 * t)), Robin(1.0, of_time)), None]
    rates = [(Dirichlet(of_time), Robin(lambda y, x, t: x + t**2, 0.7)), None]
    u = grid.scatter(draw(2, 1, *grid.shape))
    kinds = (
        lambda h: Heat(grid, 0.3, h, Solver("gmres", "jacobi", 1e-13), sides),
        lambda h: Heat(grid, 0.3, h, Solver("gmres", "jacobi", 1e-13), rates, theta=0.7),
    )
    loss = 0.0
    for kind in kinds:
        scheme = SBDF2(kind, lambda u, time: torch.cos(time) * u.square(), dt)
        pair = scheme(scheme.start(u, time=t0), time=t0 + dt)
        loss = loss + (pair[0] * grid.scatter(draw(2, 1, *grid.shape))).sum()
    loss.backward()
    return [t0.grad, dt.grad]


def of_time(y, x, t):
    return torch.cos(2 * t)


def burgers(grid):
    """A step with an inlet and an outlet, and its gradients."""
    u = (draw(2, 2, *grid.shape) - 0.8).requires_grad_()
    value = (draw(2, 1, grid.shape[1]) - 0.8).requires_grad_()
    inlet = Dirichlet(on_side(grid, value, 0, "low"))
    sides = [(inlet, Neumann(0.3)), (None, Dirichlet(0.5))]
    step = Burgers(grid, 0.1, 0.1, Solver("gmres", "jacobi", 1e-13), 2, boundaries=sides)
    after = step(grid.scatter(u))
    (after * grid.scatter(draw(2, 2, *grid.shape))).sum().backward()
    return [grid.gather(after.detach()), u.grad, value.grad]


def wrong_on_one_rank_raises_on_all():
    grid, last = Grid((8, 8), "neumann"), WORLD.rank == WORLD.size - 1
    field = torch.ones(grid.local_shape, dtype=torch.float64)
    value = torch.zeros(grid.face_shape(0, "high"))

    def failing(x, y):
        if last:
            raise ValueError("the user's own")
        return x

    for call in (
        lambda: Poisson(grid, Solver(), 1.0, [(Dirichlet() if last else Neumann(), None), None]),
        lambda: Poisson(grid, Solver(), 1.0, [1.0 if last else (Dirichlet(), None), None]),
        lambda: solved(grid, Dirichlet(value[..., 1:] if last else value), field),
        lambda: solved(grid, Robin(-1.0 if last else 1.0), field),
        lambda: solved(grid, Dirichlet(failing), field),
        lambda: solved(grid, Robin(torch.zeros(grid.face_shape(0, "high"))), field),
    ):
        try:
            call()
            raised = 0
        except ValueError:
            raised = 1
        assert WORLD.allreduce(raised) == WORLD.size


def solved(grid, condition, field):
    return Poisson(grid, Solver("cg", "jacobi", 1e-8), 1.0, [(None, condition), None])(field)


@pytest.mark.long_on(2, 3)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_equal_results_on_any_number_of_ranks():
    for method in (("cg", "jacobi", 1e-13), ("cg", "mg", 1e-13)):
        for shape, boundary in SHAPES:
            divided = run(Grid(shape, boundary), method)
            whole = run(Grid(shape, boundary, comm=MPI.COMM_SELF), method)
            for mine, alone in zip(divided, whole, strict=True):
                torch.testing.assert_close(mine, alone, rtol=1e-9, atol=1e-9)
    for run_on in (burgers, in_time):
        alone = run_on(Grid((7, 6), "neumann", MPI.COMM_SELF))
        pairs = zip(run_on(Grid((7, 6), "neumann")), alone, strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    wrong_on_one_rank_raises_on_all()
