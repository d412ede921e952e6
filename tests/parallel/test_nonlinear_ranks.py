"""Property: nonlinear solves do not depend on the number of ranks; failures come to all ranks."""

import numpy as np
import pytest
import torch
from mpi4py import MPI
from nonlinear_systems import flux_divergence
from raised_ranks import raised_everywhere

from prdp_hpc import (
    AllenCahn,
    Burgers,
    ColouredJacobian,
    Grid,
    NonlinearDiffusion,
    NonlinearSolveError,
    NonlinearSolver,
    Solver,
    solve_nonlinear,
)
from prdp_hpc.errors import InputError

WORLD = MPI.COMM_WORLD


def draw(*shape):
    return torch.rand(
        shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64
    )


def solver(kind):
    method = {"none": ("gmres", "none"), "asm": ("gmres", "bjacobi"), "gamg": ("gmres", "gamg")}
    options = {"ksp_gmres_restart": 80}
    return NonlinearSolver(Solver(*method[kind], 1e-10, petsc_options=options), 1e-9)


def by_hand(grid, kind, channels=1):
    """Two coupled fields with a parameter that every rank holds and one of each rank's own."""
    own = None
    if kind != "none":
        own = ColouredJacobian.on_grid(grid, channels)
    beta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    source = grid.scatter(draw(2, channels, *grid.shape)).clone().requires_grad_()

    def residual(u, beta, source):
        flux = flux_divergence(grid, u, lambda v: 1.0 + beta * v**2)
        return u - 0.01 * flux + 0.2 * u.flip(1) ** 2 - source

    u = solve_nonlinear(
        residual,
        torch.zeros(2, channels, *grid.local_shape, dtype=torch.float64),
        (grid.replicated(beta), source),
        solver(kind),
        jacobian=own,
        grid=grid,
        per_sample=(False, True),
    )
    (slope,) = torch.autograd.grad(u.square().sum(), source, create_graph=True)
    second = torch.autograd.grad(slope.square().sum(), [beta, source])
    fields = [grid.gather(field.detach()) for field in (u, slope, second[1])]
    return [*fields, second[0]]


def steppers(grid):
    """Steps of the built-in PDEs and the gradients of their states."""
    results = []
    for physics, channels in (
        (AllenCahn(grid, 0.2, 0.5, solver("asm")), 1),
        (NonlinearDiffusion(grid, 0.05, 0.5, solver("gamg")), 1),
        *(
            [(Burgers(grid, 0.05, 0.02, solver("asm")), grid.dim)]
            if set(grid.boundary) == {"periodic"}
            else []
        ),
    ):
        state = grid.scatter(draw(2, channels, *grid.shape)).clone().requires_grad_()
        after = physics(state)
        (after * grid.scatter(draw(2, channels, *grid.shape).flip(0))).sum().backward()
        results += [grid.gather(after.detach()), grid.gather(state.grad)]
    front = AllenCahn(grid, 0.2, 0.5, solver("asm"))
    return [*results, front.energy(grid.scatter(draw(2, 1, *grid.shape)))]


def check_the_same_on_ranks(run, shape, boundary):
    alone, divided = Grid(shape, boundary, MPI.COMM_SELF), Grid(shape, boundary)
    torch.testing.assert_close(run(divided), run(alone), rtol=1e-6, atol=1e-8)


def check_a_pattern_with_few_rows():
    """A ring of fewer unknowns than ranks, and of some more: coloured by Jones and Plassmann."""
    for n in (WORLD.size - 1, 11):
        start, end = n * WORLD.rank // WORLD.size, n * (WORLD.rank + 1) // WORLD.size
        rows = np.repeat(np.arange(start, end), 2)
        cols = (rows + np.tile([0, 1], end - start)) % n
        own = ColouredJacobian(rows, cols, end - start)
        sizes = WORLD.allgather(end - start)
        whole = Ring(sizes)
        u = solve_nonlinear(
            lambda u, whole=whole: 3.0 * u + whole.next_of(u) ** 3 - 1.0,
            torch.zeros(end - start, dtype=torch.float64),
            (),
            solver("none"),
            jacobian=own,
        )
        # Every unknown is the root of 3u + u³ = 1.
        torch.testing.assert_close(3.0 * u + u**3, torch.ones_like(u))


class Ring:
    """The next entry of a ring that is divided like this, differentiably."""

    def __init__(self, sizes):
        self.sizes, self.start = sizes, sum(sizes[: WORLD.rank])

    def next_of(self, u):
        from prdp_hpc.autograd.linear_map import LinearMap

        return LinearMap(lambda x: self._shifted(x, 1), lambda x: self._shifted(x, -1))(u)

    def _shifted(self, x, step):
        parts = WORLD.allgather(x.numpy())
        rolled = np.roll(np.concatenate(parts), -step)
        return torch.from_numpy(rolled[self.start : self.start + self.sizes[WORLD.rank]].copy())


def check_failures_on_one_rank():
    last = WORLD.rank == WORLD.size - 1
    newton = NonlinearSolver(Solver("gmres", "none"), 1e-8)

    def run(residual, start=None, parameters=(), **options):
        zero = torch.zeros(3, dtype=torch.float64)
        return solve_nonlinear(
            residual, zero if start is None else start, parameters, newton, **options
        )

    def breaks_at(count):
        calls = []

        def residual(u):
            calls.append(1)
            if last and len(calls) == count:
                raise KeyError("mine")
            return u**3 + u - 1.0

        return residual

    # At the start, in a line search, in the recording for the Jacobian.
    for count in (1, 2, 3):
        raised_everywhere(KeyError, "mine", lambda count=count: run(breaks_at(count)))
    raised_everywhere(
        InputError, "the residual must", lambda: run(lambda u: u[:2] if last else u - 1.0)
    )
    raised_everywhere(
        InputError, "does not depend", lambda: run(lambda u: u.detach() + 1.0 if last else u - 1.0)
    )
    nan = torch.full((3,), torch.nan if last else 0.0, dtype=torch.float64)
    raised_everywhere(NonlinearSolveError, "u0 holds NaN", lambda: run(lambda u: u - 1.0, nan))
    raised_everywhere(
        NonlinearSolveError, "at the start holds", lambda: run(lambda u, p: u - p, None, nan)
    )
    raised_everywhere(
        NonlinearSolveError,
        "sample 1 of 2",
        lambda: run(
            lambda u, r: u**2 - r,
            torch.ones(2, 3, dtype=torch.float64),
            torch.tensor([1.0, -1.0 if last else 1.0], dtype=torch.float64),
            per_sample=True,
        ),
    )
    raised_everywhere(
        InputError,
        "u0 must have shape",
        lambda: run(lambda u: u, torch.ones(*[1, 1, 3][0 if last else 1 :], dtype=torch.float64)),
    )
    raised_everywhere(
        InputError,
        "batches of different sizes",
        lambda: run(lambda u: u - 1.0, torch.ones(2 if last else 1, 3, dtype=torch.float64)),
    )
    raised_everywhere(
        InputError,
        "must be the same on every rank",
        lambda: run(lambda u, p: u - p, None, torch.ones(3).double().requires_grad_(last)),
    )
    grid = Grid((8,), "periodic")
    width = WORLD.size
    raised_everywhere(InputError, "halo", lambda: ColouredJacobian.on_grid(grid, width=3 * width))
    raised_everywhere(
        InputError, "has rows", lambda: ColouredJacobian([99 if last else WORLD.rank], [0], 1)
    )
    # After all this it still works.
    torch.testing.assert_close(run(lambda u: u - 2.0), torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_divided_nonlinear_systems():
    runs = {
        2: [
            (lambda grid: by_hand(grid, "none"), (7,), "periodic"),
            (steppers, (4, 5), "periodic"),
        ],
        3: [
            (lambda grid: by_hand(grid, "gamg", channels=2), (7,), "periodic"),
            (steppers, (6, 4), ("neumann", "dirichlet")),
        ],
        4: [(lambda grid: by_hand(grid, "asm"), (5, 4), "periodic")],
    }
    for run, shape, boundary in runs[WORLD.size]:
        check_the_same_on_ranks(run, shape, boundary)
    check_a_pattern_with_few_rows()
    check_failures_on_one_rank()
