"""Property: Burgers' equation with conditions on its sides: states at rest stay, shocks stand where
they must, what flows in arrives; gradients are derivatives; Newton's method finds the same.
"""

import math

import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, NonlinearSolver, Solver
from prdp_hpc.config import ConfigError, validate
from prdp_hpc.errors import InputError
from prdp_hpc.physics import Dirichlet, Neumann, Robin

LU = ("preonly", "lu")


def made(shape, sides=None, boundary="neumann", viscosity=0.05, dt=0.1, solver=None, **options):
    grid = Grid(shape, boundary, MPI.COMM_SELF)
    options = {"picard_iterations": 8, **options}
    return Burgers(grid, viscosity, dt, solver or Solver(*LU), boundaries=sides, **options)


@pytest.mark.parametrize("speed", [1.0, -1.0])
def test_a_constant_flow_stays(speed):
    flow = speed * torch.tensor([1.0, 0.3], dtype=torch.float64)
    value = Dirichlet(flow[:, None, None].expand(2, 6, 1).contiguous())
    for sides in ([None, (value, None)], [None, (value, value)], [None, (None, value)], None):
        u = flow[:, None, None].expand(2, 6, 5)[None].contiguous()
        torch.testing.assert_close(made((6, 5), sides)(u), u, rtol=1e-11, atol=1e-12)


def test_a_standing_shock_is_met_at_first_order():
    """`u = −tanh((x − x₀) / 2ν)` solves `u u_x = ν u_xx`."""
    viscosity = 0.1

    def exact(x):
        return -torch.tanh((x - 0.4) / (2 * viscosity))

    def error(n):
        shock = made((n,), [(Dirichlet(exact), Dirichlet(exact))], viscosity=viscosity, dt=2.0)
        (x,) = shock.grid.coordinates()
        u = (1 - 2 * x)[None, None]
        for _ in range(30):
            u = shock(u)
        return (u[0, 0] - exact(x)).abs().max().item()

    assert 0.75 <= math.log2(error(40) / error(80)) <= 1.3


def test_what_flows_in_arrives_and_leaves_through_the_outlet():
    sides = [None, (Dirichlet(1.0), Neumann())]
    tunnel = made((3, 20), sides, ("periodic", "neumann"), viscosity=1e-3)
    u = torch.full((1, 2, 3, 20), 0.1, dtype=torch.float64)
    for _ in range(60):
        u = tunnel(u)
    torch.testing.assert_close(u, torch.ones_like(u), rtol=0, atol=1e-6)


def test_a_flux_is_what_the_viscosity_brings_in():
    """Where nothing is carried (across the flow) a component gains the flux."""
    flux = torch.tensor([0.5, 0.0], dtype=torch.float64)[:, None, None].expand(2, 1, 4)
    layer = made((5, 4), [(Neumann(flux.contiguous()), None), None], ("neumann", "periodic"))
    u = torch.zeros(1, 2, 5, 4, dtype=torch.float64)
    after = layer(u)
    gained = after[0, 0].sum(dim=0) * layer.grid.spacing[0]
    torch.testing.assert_close(gained, torch.full_like(gained, 0.5 * layer.dt))
    assert after[0, 1].abs().max() < 1e-14


@pytest.mark.parametrize("shape", [(5,), (4, 3)])
def test_gradients_are_derivatives(shape):
    u = torch.randn(2, len(shape), *shape, dtype=torch.float64, requires_grad=True)
    grid = Grid(shape, "neumann", MPI.COMM_SELF)
    faces = [len(shape), *grid.face_shape(0, "low")]
    value, flux = (torch.randn(*faces, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def after(u, value, flux):
        sides = [(Dirichlet(value), Neumann(flux)), *[None] * (len(shape) - 1)]
        return Burgers(grid, 0.1, 0.1, Solver(*LU), 2, boundaries=sides)(u)

    assert torch.autograd.gradcheck(after, (u, value, flux))


def test_newton_finds_what_picard_iterations_converge_to():
    value = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    u = 0.3 * torch.randn(2, 2, 5, 4, dtype=torch.float64)
    sides = [(Dirichlet(value), Neumann(0.1)), None]
    newton = made((5, 4), sides, solver=NonlinearSolver(Solver("gmres", "none", 1e-12), 1e-11))
    picard = made((5, 4), sides, picard_iterations=40)
    results = [step(u) for step in (newton, picard)]
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-9)
    gradients = [torch.autograd.grad(r.square().sum(), value)[0] for r in results]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_mistakes():
    with pytest.raises(InputError, match=r"low side of axis 0 needs Dirichlet\(value\) or Neumann"):
        made((5,), [(Robin(1.0), None)])
    with pytest.raises(InputError, match="one per component"):
        made((5,), [(Dirichlet(torch.zeros(3, 1)), None)])(torch.zeros(1, 1, 5))


def config(sides, boundary="neumann"):
    physics = {"pde": "burgers", "viscosity": 0.1, "dt": 0.1, "boundaries": sides}
    content = tiny.emulator("out", grid={"shape": [6, 5], "boundary": boundary})
    return content | {"physics": physics}


def test_a_config():
    sides = {"axis_1": {"low": {"kind": "dirichlet", "value": 1.0}}}
    section = validate(config(sides), "here").physics
    grid = Grid((6, 5), "neumann", MPI.COMM_SELF)
    stepper = Burgers.from_config(section, grid, Solver(*LU))
    same = made((6, 5), [None, (Dirichlet(1.0), None)], viscosity=0.1, picard_iterations=1)
    u = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    assert torch.equal(stepper(u), same(u))
    assert stepper.attributes()["boundaries.axis_1.low.value"] == 1.0
    robin = {"axis_0": {"high": {"kind": "robin", "coefficient": 1.0}}}
    with pytest.raises(ConfigError, match=r"axis_0\.high\.kind: burgers supports dirichlet"):
        validate(config(robin), "here")
    with pytest.raises(ConfigError, match=r"cell centres: give grid\.boundary=neumann"):
        validate(config(sides, "dirichlet"), "here")
