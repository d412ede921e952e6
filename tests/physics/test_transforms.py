"""Property: steps and rollouts have the same derivatives inside the transforms of torch.func and in
forward mode as by `backward`, also where a transform is the first use of a stepper.
"""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AllenCahn,
    Burgers,
    Grid,
    Heat,
    NavierStokes,
    NonlinearDiffusion,
    NonlinearSolver,
    Poisson,
    Robin,
    Solver,
    rollout,
)
from prdp_hpc.errors import InputError

SELF = MPI.COMM_SELF
LINE, PLANE = (Grid(shape, "periodic", comm=SELF) for shape in ((6,), (4, 5)))
CG, GMRES = (Solver(ksp, "jacobi", 1e-12) for ksp in ("cg", "gmres"))
forward_ad = torch.autograd.forward_ad


def newton(solver):
    return NonlinearSolver(solver, 1e-12)


def poisson():
    solve = Poisson(LINE, CG)
    return lambda u: solve(u - u.mean())


def rolled(steps, **options):
    heat = Heat(LINE, 0.3, 0.1, CG)
    return lambda u: rollout(lambda v: heat(v) + v**2, u, steps, **options)


MAPS = {
    "heat": lambda: Heat(LINE, 0.3, 0.1, CG),
    "poisson": poisson,
    "allen_cahn": lambda: AllenCahn(LINE, 0.5, 0.1, newton(CG)),
    "nonlinear_diffusion": lambda: NonlinearDiffusion(LINE, 0.3, 0.1, newton(GMRES)),
    "burgers": lambda: Burgers(LINE, 0.3, 0.1, GMRES),
    "burgers, newton": lambda: Burgers(LINE, 0.3, 0.1, newton(GMRES)),
    "navier_stokes": lambda: NavierStokes(PLANE, 0.3, 0.1, Solver("gmres", "none", 1e-12)),
    "one step": lambda: rolled(1),
    "five steps": lambda: rolled(5, checkpoints=2),
}


def start_of(name):
    torch.manual_seed(3)
    shape = (3, 4, 5) if name == "navier_stokes" else (1, 6)
    return 0.5 + torch.rand(2, *shape, dtype=torch.float64)


def weighted(function):
    def total(u):
        result = function(u)
        weights = torch.linspace(1.0, 2.0, result.numel(), dtype=torch.float64)
        return (result.reshape(-1) ** 2 * weights).sum()

    return total


def by_backward(function, u, direction):
    u = u.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(function)(u), u)
    return float((gradient * direction).sum())


def by_grad(function, u, direction):
    return float((torch.func.grad(weighted(function))(u) * direction).sum())


def by_jvp(function, u, direction):
    return float(torch.func.jvp(weighted(function), (u,), (direction,))[1])


def by_dual_numbers(function, u, direction):
    with forward_ad.dual_level():
        total = weighted(function)(forward_ad.make_dual(u, direction))
        return float(forward_ad.unpack_dual(total).tangent)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("derivative", [by_grad, by_jvp, by_dual_numbers])
def test_derivatives_are_those_of_backward(name, derivative):
    u = start_of(name)
    direction = torch.randn_like(u)
    exact = by_backward(MAPS[name](), u, direction)
    function = MAPS[name]()
    assert derivative(function, u, direction) == pytest.approx(exact, rel=1e-7)
    assert by_backward(function, u, direction) == pytest.approx(exact, rel=1e-7)


def test_a_rollout_in_a_batch_is_that_of_each_slice():
    u = start_of("five steps")
    batch = torch.stack([u, 2.0 * u])
    exact = torch.stack([rolled(5)(each) for each in batch])
    torch.testing.assert_close(torch.func.vmap(rolled(5))(batch), exact)
    hessian = torch.func.hessian(weighted(rolled(3)))(u)
    exact = torch.autograd.functional.hessian(weighted(rolled(3)), u)
    torch.testing.assert_close(hessian, exact)


STATE = start_of("heat")


def heat_of(kappa):
    return Heat(LINE, kappa, 0.1, CG)(STATE)


def robin_of(coefficient):
    sides = [(Robin(coefficient, 1.0), Robin(2.0, 0.0))]
    grid = Grid((6,), "neumann", comm=SELF)
    return Heat(grid, 0.3, 0.1, CG, boundaries=sides)(STATE)


def step_of(dt):
    return Heat(LINE, 0.3, dt, CG)(STATE)


@pytest.mark.parametrize(
    ("function", "shape"), [(heat_of, (6,)), (heat_of, ()), (robin_of, ()), (step_of, ())]
)
def test_coefficients_in_a_batch_are_right_or_refused(function, shape):
    batch = 0.5 + torch.rand(2, *shape, dtype=torch.float64)
    exact = torch.stack([function(each) for each in batch])
    if function is step_of:
        with pytest.raises(InputError, match=r"torch\.func\.vmap"):
            torch.func.vmap(function)(batch)
    else:
        torch.testing.assert_close(torch.func.vmap(function)(batch), exact)
    with pytest.raises(InputError):
        torch.func.vmap(function)(-batch)
