"""Property: the steppers converge to the analytic solutions at the order they promise."""

import math

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver

KINDS = ("dirichlet", "neumann", "periodic")
SIZES = {1: (16, 32), 2: (10, 20), 3: (8, 16)}


def product(factors):
    return math.prod(factors, start=torch.ones((), dtype=torch.float64))


def mode(grid, kind):
    """A product of one eigenfunction per axis, its wave number, and its derivative along the first
    axis.
    """
    wave = {"dirichlet": math.pi, "neumann": math.pi, "periodic": 2 * math.pi}[kind]
    value, slope = {"neumann": (torch.cos, lambda x: -torch.sin(x))}.get(
        kind, (torch.sin, torch.cos)
    )
    first, *others = grid.coordinates()
    rest = product(value(wave * x) for x in others)
    return value(wave * first) * rest, wave, wave * slope(wave * first) * rest


def order(errors, spacings):
    return math.log(errors[0] / errors[1]) / math.log(spacings[0] / spacings[1])


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("varying", [False, True])
def test_poisson_is_of_second_order(kind, dim, varying):
    errors, spacings = [], []
    for n in SIZES[dim]:
        grid = Grid((n,) * dim, kind, comm=MPI.COMM_SELF)
        u, wave, slope = mode(grid, kind)
        x = grid.coordinates()[0]
        kappa, kappa_slope = torch.ones_like(x), torch.zeros_like(x)
        if varying and kind == "periodic":
            kappa, kappa_slope = 1 + 0.5 * torch.sin(wave * x), 0.5 * wave * torch.cos(wave * x)
        elif varying:
            kappa, kappa_slope = 1 + x / 2, torch.full_like(x, 0.5)
        source = kappa * dim * wave**2 * u - kappa_slope * slope
        solution = Poisson(grid, Solver("cg", "mg", 1e-13), kappa)(source)
        wanted = u - u.mean() if grid.is_singular else u
        errors.append((solution - wanted).abs().max().item())
        spacings.append(grid.spacing[0])
    assert 1.8 <= order(errors, spacings) <= 2.6
    assert errors[1] < 0.05


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_heat_damps_a_mode_as_backward_euler_does(kind, dim):
    grid = Grid((8,) * dim, kind, comm=MPI.COMM_SELF, length=1.0)
    u, wave, _ = mode(grid, kind)
    dt, kappa = 0.01, 0.7
    rate = dim * 4 / grid.spacing[0] ** 2 * math.sin(wave * grid.spacing[0] / 2) ** 2
    heat = Heat(grid, kappa, dt, Solver("cg", "jacobi", 1e-13))
    torch.testing.assert_close(heat(u), u / (1 + dt * kappa * rate), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_heat_is_of_first_order_in_time_and_second_in_space(kind):
    def error(n, steps):
        grid = Grid((n,), kind, comm=MPI.COMM_SELF)
        u, wave, _ = mode(grid, kind)
        time = 0.05
        heat = Heat(grid, 1.0, time / steps, Solver("preonly", "lu"))
        after = u
        for _ in range(steps):
            after = heat(after)
        return (after - math.exp(-(wave**2) * time) * u).abs().max().item()

    # On a fine grid only the time step is seen; steps that go with h² show both orders at once.
    assert 0.9 <= math.log2(error(400, 40) / error(400, 80)) <= 1.1
    assert 1.8 <= math.log2(error(16, 64) / error(32, 256)) <= 2.2


def test_heat_with_a_source_comes_to_rest_at_the_solution_of_poisson():
    grid = Grid((9, 7), ("dirichlet", "neumann"), comm=MPI.COMM_SELF)
    source = torch.randn(2, 1, 9, 7, dtype=torch.float64)
    solver = Solver("cg", "jacobi", 1e-13)
    heat, u = Heat(grid, 0.5, 1e3, solver), torch.zeros_like(source)
    for _ in range(8):
        u = heat(u, source)
    torch.testing.assert_close(u, Poisson(grid, solver, 0.5)(source), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["neumann", "periodic"])
def test_heat_conserves_the_mean_without_walls(kind):
    grid = Grid((6, 5), kind, comm=MPI.COMM_SELF)
    u = torch.randn(3, 6, 5, dtype=torch.float64)
    kappa = 0.1 + torch.rand(6, 5, dtype=torch.float64)
    after = Heat(grid, kappa, 0.3, Solver("cg", "jacobi", 1e-13))(u)
    torch.testing.assert_close(after.mean((1, 2)), u.mean((1, 2)), rtol=1e-10, atol=1e-12)
