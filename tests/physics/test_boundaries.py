"""Property: conditions on the sides are met at second order, in any mixture; their gradients are
derivatives; the flux through layers is exact with harmonic means.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver
from prdp_hpc.errors import InputError
from prdp_hpc.physics import Dirichlet, Neumann, Robin

EXACT = ("cg", "jacobi", 1e-13)
SIZES = {1: (15, 31), 2: (11, 23), 3: (7, 15)}
CELLS = {
    "dirichlet": ("dirichlet", "dirichlet"),
    "neumann": ("dirichlet", "neumann"),
    "robin": ("robin", "robin"),
    "mixed": ("robin", "dirichlet"),
    "flux in": ("neumann", "robin"),
}


class Manufactured:
    """`u = Π_d g(x_d + d)` with `g(s) = sin s + s²/2`, and `κ = 1 + x_0/2 + x_last²/4`."""

    def __init__(self, dim):
        self.dim = dim

    def factors(self, x):
        return [torch.sin(s + d) + (s + d) ** 2 / 2 + 1 for d, s in enumerate(x)]

    def u(self, *x):
        return math.prod(self.factors(x), start=torch.ones_like(x[0]))

    def kappa(self, *x):
        return 1 + x[0] / 2 + x[-1] ** 2 / 4

    def slope(self, axis, *x):
        """∂u/∂x_axis."""
        other = [f for d, f in enumerate(self.factors(x)) if d != axis]
        return math.prod(other, start=torch.cos(x[axis] + axis) + x[axis] + axis)

    def source(self, *x):
        """−∇·(κ ∇u), by torch."""
        x = [c.clone().requires_grad_() for c in x]
        total = torch.zeros_like(x[0])
        for axis in range(self.dim):
            flux = (self.kappa(*x) * self.slope(axis, *x)).sum()
            (change,) = torch.autograd.grad(flux, x[axis])
            total = total - change
        return total.detach()

    def condition(self, kind, axis, end):
        sign = -1.0 if end == "low" else 1.0

        def flux(*x):
            return sign * self.kappa(*x) * self.slope(axis, *x)

        def rate(*x):
            return 1.5 + x[-1]

        if kind == "dirichlet":
            return Dirichlet(self.u)
        if kind == "neumann":
            return Neumann(flux)
        return Robin(rate, lambda *x: flux(*x) + rate(*x) * self.u(*x))

    def sides(self, kinds):
        return [
            None
            if pair is None
            else tuple(
                self.condition(kind, axis, end)
                for kind, end in zip(pair, ("low", "high"), strict=True)
            )
            for axis, pair in enumerate(kinds)
        ]


def order(errors):
    return math.log2(errors[0] / errors[1])


def poisson_errors(dim, boundary, kinds, face_mean="arithmetic", pc="jacobi"):
    wanted, errors = Manufactured(dim), []
    for n in SIZES[dim]:
        grid = Grid((n,) * dim, boundary, MPI.COMM_SELF)
        x = grid.coordinates()
        poisson = Poisson(
            grid, Solver("cg", pc, 1e-13), wanted.kappa(*x), wanted.sides(kinds), face_mean
        )
        u = wanted.u(*x)
        errors.append(((poisson(wanted.source(*x)) - u).abs().max() / u.abs().max()).item())
    return errors


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kinds", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("face_mean", ["arithmetic", "harmonic"])
def test_cell_centred_sides_are_of_second_order(dim, kinds, face_mean):
    errors = poisson_errors(dim, "neumann", [kinds] * dim, face_mean)
    assert 1.7 <= order(errors) <= 2.6
    assert errors[1] < 0.01


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_sides_of_inner_points_are_of_second_order(dim):
    errors = poisson_errors(dim, "dirichlet", [("dirichlet", "dirichlet")] * dim)
    assert 1.7 <= order(errors) <= 2.6
    assert errors[1] < 0.01


def test_each_axis_has_its_own():
    errors = poisson_errors(
        3,
        ("dirichlet", "neumann", "neumann"),
        [("dirichlet", "dirichlet"), ("neumann", "robin"), ("neumann", "dirichlet")],
    )
    assert 1.7 <= order(errors) <= 2.6


@pytest.mark.parametrize("kinds", CELLS.values(), ids=CELLS)
def test_multigrid_needs_as_few_iterations_on_finer_grids(kinds):
    iterations = []
    for n in (16, 64):
        solver = Solver("cg", "mg", 1e-10)
        problem, grid = Manufactured(2), Grid((n, n), "neumann", MPI.COMM_SELF)
        x = grid.coordinates()
        Poisson(grid, solver, problem.kappa(*x), problem.sides([kinds] * 2))(problem.source(*x))
        iterations.append(solver.report.forward.iterations)
    assert iterations[1] <= iterations[0] + 4


def test_only_fluxes_give_the_solution_with_mean_0_and_take_what_does_not_balance_from_the_source():
    grid = Grid((40,), "neumann", MPI.COMM_SELF, length=2.0)
    (x,) = grid.coordinates()
    sides = [(Neumann(-1.0), Neumann(3.0))]  # u = x² / 2 + x, −u'' = −1
    wanted = x**2 / 2 + x
    for extra in (0.0, 5.0):
        found = Poisson(grid, Solver(*EXACT), 1.0, sides)(torch.full_like(x, extra - 1.0))
        torch.testing.assert_close(found, wanted - wanted.mean(), rtol=0, atol=1e-3)
        assert abs(found.mean().item()) < 1e-12


def two_layers(x, left, right):
    """`(κ u')' = 0`, u(0) = 1, u(1) = 0, with the jump at 1/2."""
    flux = 2 / (1 / left + 1 / right)
    return torch.where(x < 0.5, 1 - flux * x / left, flux * (1 - x) / right), flux


@pytest.mark.parametrize("boundary", ["neumann", ("neumann", "periodic")])
def test_harmonic_means_give_the_exact_flux_through_two_layers_and_arithmetic_ones_do_not(boundary):
    shape = (10,) if boundary == "neumann" else (10, 3)
    grid = Grid(shape, boundary, MPI.COMM_SELF)
    x = grid.coordinates()[0]
    kappa = torch.where(x < 0.5, 1.0, 1000.0).double()
    sides = [(Dirichlet(1.0), Dirichlet(0.0)), None][: grid.dim]
    wanted, flux = two_layers(x, 1.0, 1000.0)

    def solved(face_mean):
        u = Poisson(grid, Solver(*EXACT), kappa, sides, face_mean)(torch.zeros_like(x))
        into = 2 * kappa[0] * (1.0 - u[0]) / grid.spacing[0]
        return u, into.flatten()[0].item()

    exact, through = solved("harmonic")
    torch.testing.assert_close(exact, wanted, rtol=0, atol=1e-10)
    assert through == pytest.approx(flux, rel=1e-10)
    other, through = solved("arithmetic")
    assert (other - wanted).abs().max() > 0.02
    assert abs(through / flux - 1) > 0.05


CHOICES = {"dirichlet": Dirichlet, "neumann": Neumann, "robin": Robin}


@pytest.mark.parametrize("kinds", list(itertools.product(CHOICES, CHOICES)), ids="-".join)
def test_poisson_gradients_are_derivatives(kinds):
    check_gradients(Poisson(*started((4, 3), kinds)), kinds)


def started(shape, kinds):
    grid = Grid(shape, ("neumann", "periodic"), MPI.COMM_SELF)
    sides = [tuple(Robin(1.0) if k == "robin" else CHOICES[k]() for k in kinds), None]
    return grid, Solver(*EXACT), 1.0, sides, "harmonic"


def check_gradients(physics, kinds):
    grid = physics.grid
    face = grid.face_shape(0, "low")
    number = {"dtype": torch.float64, "requires_grad": True}
    kappa = (0.5 + torch.rand(grid.shape, dtype=torch.float64)).requires_grad_()
    source = torch.randn(2, *grid.shape, **number)
    low, high = torch.randn(2, *face, **number), torch.randn((), **number)
    rates = [(0.5 + torch.rand(s, dtype=torch.float64)).requires_grad_() for s in (face, ())]

    def solved(kappa, source, low, high, *rates):
        def made(kind, value, rate):
            return Robin(rate, value) if kind == "robin" else CHOICES[kind](value)

        physics.diffusivity = kappa
        physics.boundaries = [tuple(map(made, kinds, (low, high), rates)), None]
        return physics(source)

    assert torch.autograd.gradcheck(solved, (kappa, source, low, high, *rates))


def test_a_matrix_is_symmetric_and_the_promise_is_kept():
    grid = Grid((4, 3), "neumann", MPI.COMM_SELF)
    sides = [(Dirichlet(1.0), Robin(2.0)), (Neumann(), Robin(torch.rand(4, 1).double()))]
    kappa = 0.1 + torch.rand(4, 3, dtype=torch.float64)
    for face_mean in ("arithmetic", "harmonic"):
        poisson = Poisson(grid, Solver(*EXACT), kappa, sides, face_mean)
        units = torch.eye(12, dtype=torch.float64).reshape(12, 4, 3)
        shift = poisson(torch.zeros_like(kappa))  # what the sides bring
        inverse = (poisson(units) - shift).reshape(12, 12)
        torch.testing.assert_close(inverse, inverse.T, rtol=0, atol=1e-11)
        assert torch.linalg.eigvalsh(inverse).min() > 0


def test_a_number_for_the_diffusivity_is_the_constant_field():
    grid = Grid((5, 4), "neumann", MPI.COMM_SELF)
    sides = [(Dirichlet(1.0), Robin(2.0, 1.0)), (Neumann(0.5), Dirichlet(2.0))]
    source = torch.randn(3, 5, 4, dtype=torch.float64)
    field = torch.full((5, 4), 0.3, dtype=torch.float64)
    for some in (sides, [sides[0], None], [None, sides[1]]):
        number, same = (Poisson(grid, Solver(*EXACT), k, some)(source) for k in (0.3, field))
        torch.testing.assert_close(number, same, rtol=1e-10, atol=1e-11)


def test_each_sample_has_its_own_values_and_diffusivity():
    grid = Grid((5, 4), "neumann", MPI.COMM_SELF)
    source = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    kappa = 0.5 + torch.rand(3, 5, 4, dtype=torch.float64)
    value = torch.randn(3, 1, *grid.face_shape(0, "low"), dtype=torch.float64)

    def solved(k, v, f):
        return Poisson(grid, Solver(*EXACT), k, [(Dirichlet(v), None), None], "harmonic")(f)

    together = solved(kappa, value, source)
    for sample in range(3):
        alone = solved(kappa[sample], value[sample], source[sample])
        torch.testing.assert_close(together[sample], alone, rtol=1e-9, atol=1e-11)
    # Experiments that differ in nothing but the value of a side.
    found = solved(kappa[0], value[:, 0], torch.zeros(5, 4))
    torch.testing.assert_close(
        found[1], solved(kappa[0], value[1, 0], torch.zeros(5, 4)), rtol=1e-9, atol=1e-11
    )
    assert found.shape == (3, 5, 4)


def test_heat_with_conditions_comes_to_rest_at_the_solution_of_poisson():
    grid = Grid((9, 7), ("neumann", "dirichlet"), MPI.COMM_SELF)
    sides = [(Robin(3.0, 1.0), Neumann(2.0)), (Dirichlet(1.0), Dirichlet(lambda x, y: 1 + x))]
    source = torch.randn(2, 1, 9, 7, dtype=torch.float64)
    solver = Solver(*EXACT)
    heat, u = Heat(grid, 0.5, 1e3, solver, sides), torch.zeros_like(source)
    for _ in range(8):
        u = heat(u, source)
    torch.testing.assert_close(u, Poisson(grid, solver, 0.5, sides)(source), rtol=1e-9, atol=1e-10)


def test_values_that_change_in_time():
    """`u = e^{−t} cos x`, κ = 1, from its own values and fluxes: first order in time."""

    def error(steps):
        grid, dt, t = Grid((100,), "neumann", MPI.COMM_SELF), 0.5 / steps, 0.0
        (x,) = grid.coordinates()
        sides = [
            (
                Dirichlet(lambda x, t: math.exp(-t) * torch.cos(x)),
                Robin(2.0, lambda x, t: math.exp(-t) * (2 * torch.cos(x) - torch.sin(x))),
            )
        ]
        heat, u = Heat(grid, 1.0, dt, Solver("preonly", "lu"), sides), torch.cos(x)
        for _ in range(steps):
            u, t = heat(u, time=t), t + dt
        return (u - math.exp(-0.5) * torch.cos(x)).abs().max().item()

    assert 0.9 <= order([error(10), error(20)]) <= 1.1


def test_a_changed_coefficient_is_noticed():
    grid, rate = Grid((6,), "neumann", MPI.COMM_SELF), torch.tensor(1.0, dtype=torch.float64)
    solver = Solver(*EXACT)
    poisson = Poisson(grid, solver, 1.0, [(Robin(rate, 1.0), Neumann())])
    u = torch.zeros(6, dtype=torch.float64)
    torch.testing.assert_close(poisson(u), torch.ones_like(u))
    poisson(u)
    assert solver.report.forward.set_ups == 1
    rate.fill_(4.0)
    torch.testing.assert_close(poisson(u), torch.full_like(u, 0.25))


def test_a_function_is_called_once_per_step():
    """The matrix and the right-hand side have the same coefficient, also of one that varies."""
    numbers = iter([0.5, 2.0, 1.0])
    grid, solver = Grid((6,), boundary="neumann"), Solver(*EXACT)
    poisson = Poisson(grid, solver, 1.0, [(Robin(lambda x: next(numbers), 3.0), Dirichlet(1.0))])
    for number in (0.5, 2.0):
        fixed = Poisson(grid, solver, 1.0, [(Robin(number, 3.0), Dirichlet(1.0))])
        zeros = torch.zeros(6).double()
        torch.testing.assert_close(poisson(zeros), fixed(zeros))
    assert list(numbers) == [1.0]


def test_the_precision_of_a_field_is_kept():
    grid = Grid((6,), "neumann", MPI.COMM_SELF)
    poisson = Poisson(grid, Solver(*EXACT), 1.0, [(Dirichlet(2.0), None)])
    found = poisson(torch.zeros(3, 6))
    assert (found.dtype, found.shape) == (torch.float32, (3, 6))
    torch.testing.assert_close(found, torch.full((3, 6), 2.0))


WRONG = [
    ("neumann", [(Dirichlet(), None)], "has 1 entries for 2 axes"),
    ("neumann", [(1.0, None), None], r"low side of axis 0 needs Dirichlet\(…\)"),
    ("neumann", [Dirichlet(), None], r"boundaries\[0\] must be a pair"),
    ("periodic", [None, (None, Neumann())], "high side of axis 1 does not exist: .* periodic"),
    ("dirichlet", [(Dirichlet(), Robin(1.0)), None], "Dirichlet values only, not Robin"),
    ("neumann", "dirichlet", "must be a list"),
]  # fmt: skip


@pytest.mark.parametrize(("boundary", "sides", "message"), WRONG)
def test_conditions_that_a_grid_cannot_have(boundary, sides, message):
    grid = Grid((4, 3), boundary, MPI.COMM_SELF)
    for make in (
        lambda: Poisson(grid, Solver(), 1.0, sides),
        lambda: Heat(grid, 1.0, 0.1, Solver(), sides),
    ):
        with pytest.raises(InputError, match=message):
            make()


VALUES = [
    (Dirichlet(torch.ones(4, 3)), r"has the shape \(1, 3\)"),
    (Dirichlet(torch.ones(1, 3).long()), "floating-point"),
    (Neumann(lambda x, y, t: t), "needs the time"),
    (Robin(-1.0), "at least 0"),
    (Robin(math.nan), "finite"),
    (Robin(torch.ones(2, 1, 3)), "all samples share"),
    (Robin(0.0), "coefficients of all Robin sides are 0"),
]


@pytest.mark.parametrize(("condition", "message"), VALUES)
def test_values_that_do_not_fit(condition, message):
    grid = Grid((4, 3), "neumann", MPI.COMM_SELF)
    poisson = Poisson(grid, Solver(), 1.0, [(condition, None), None])
    with pytest.raises(InputError, match=message):
        poisson(torch.zeros(4, 3))


def test_other_kinds_of_conditions_need_another_stepper():
    grid = Grid((4,), "neumann", MPI.COMM_SELF)
    poisson = Poisson(grid, Solver(), 1.0, [(Dirichlet(), None)])
    with pytest.raises(InputError, match="make another Poisson"):
        poisson.boundaries = [(Robin(1.0), None)]
    assert isinstance(poisson.boundaries[0][0], Dirichlet)


def test_an_impossible_mean_of_faces():
    with pytest.raises(InputError, match="'arithmetic' or 'harmonic', not 'geometric'"):
        Poisson(Grid((4,), comm=MPI.COMM_SELF), Solver(), 1.0, face_mean="geometric")


def test_sides_of_a_grid():
    grid = Grid((4, 3), ("neumann", "periodic"), MPI.COMM_SELF, length=(2.0, 1.0))
    assert grid.face_shape(0, "high") == (1, 3)
    x, y = grid.face_coordinates(0, "high")
    np.testing.assert_array_equal(x, np.full((1, 3), 2.0))
    np.testing.assert_allclose(y[0], np.arange(3) / 3)
    for axis, end, message in ((1, "low", "periodic"), (2, "low", "0 to 1"), (0, "left", "'low'")):
        with pytest.raises(InputError, match=message):
            grid.face_shape(axis, end)
