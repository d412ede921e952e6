"""Property: κ may be a number, a scalar or a field, with or without gradient, and is never
stale.
"""

import math

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import Grid, Heat, Poisson, Solver
from prdp_hpc.errors import InputError

SOLVER = ("cg", "jacobi", 1e-13)


def one(kind="dirichlet"):
    return Grid((4, 3), kind, comm=MPI.COMM_SELF)


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", ("periodic", "dirichlet")])
@pytest.mark.parametrize("shape", [(), (4, 3)])
def test_heat_gradients_are_derivatives(kind, shape):
    heat = Heat(one(kind), 1.0, 0.1, Solver(*SOLVER))
    kappa = (0.5 + torch.rand(shape, dtype=torch.float64)).requires_grad_()
    u, source = torch.randn(2, 2, 1, 4, 3, dtype=torch.float64).unbind()

    def step(k, state, force):
        heat.diffusivity = k
        return heat(state, force)

    assert torch.autograd.gradcheck(step, (kappa, u.requires_grad_(), source.requires_grad_()))


def test_a_scalar_is_the_constant_field():
    u = torch.randn(4, 3, dtype=torch.float64)
    wanted = Heat(one(), torch.full((4, 3), 0.3, dtype=torch.float64), 0.1, Solver(*SOLVER))(u)
    for kappa in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        torch.testing.assert_close(Heat(one(), kappa, 0.1, Solver(*SOLVER))(u), wanted)


def test_a_fixed_diffusivity_is_set_up_once_and_a_changed_one_again():
    solver = Solver(*SOLVER)
    kappa = torch.tensor(1.0, dtype=torch.float64)
    heat, u = Heat(one(), kappa, 0.1, solver), torch.randn(4, 3, dtype=torch.float64)
    first = heat(u)
    assert torch.equal(heat(u), first)
    assert solver.report.forward.set_ups == 1
    kappa.mul_(2.0)
    second = heat(u)
    torch.testing.assert_close(second, Heat(one(), 2.0, 0.1, Solver(*SOLVER))(u))
    heat.diffusivity = 1.0
    torch.testing.assert_close(heat(u), first)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_a_diffusivity_that_was_changed_in_place_is_checked_as_a_new_one(wrong, requires_grad):
    kappa = torch.ones(4, 3, dtype=torch.float64, requires_grad=requires_grad)
    heat, u = Heat(one(), kappa, 0.1, Solver(*SOLVER)), torch.randn(4, 3, dtype=torch.float64)
    heat(u)
    kappa.data[1, 2] = wrong
    with pytest.raises(InputError, match="diffusivity must be positive and finite"):
        heat(u)


def test_gradient_descent_on_a_parameter_finds_it():
    u = torch.randn(5, 4, 3, dtype=torch.float64)
    target = Heat(one(), 0.8, 0.1, Solver(*SOLVER))(u)
    log_kappa = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
    optimizer = torch.optim.Adam([log_kappa], lr=0.05)
    heat = Heat(one(), 1.0, 0.1, Solver(*SOLVER))
    for _ in range(120):
        optimizer.zero_grad()
        heat.diffusivity = log_kappa.exp()
        (heat(u) - target).square().sum().backward()
        optimizer.step()
    assert log_kappa.exp().item() == pytest.approx(0.8, abs=1e-3)


def test_evaluation_in_inference_mode_and_then_training():
    heat = Heat(one(), 1.0, 0.1, Solver(*SOLVER))
    u = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        quiet = heat(u)
    after = heat(u)
    after.sum().backward()
    torch.testing.assert_close(after.detach(), quiet.clone())
    assert u.grad.isfinite().all()


def test_no_gradient_is_recorded_without_need():
    heat = Heat(one(), torch.tensor(1.0, requires_grad=True), 0.1, Solver(*SOLVER))
    with torch.no_grad():
        assert not heat(torch.ones(4, 3)).requires_grad
        assert not heat.values().requires_grad
    assert heat(torch.ones(4, 3)).requires_grad


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 0, 4, 3), (3, 2, 4, 3)])
def test_any_leading_axes_and_precision(shape):
    u = torch.randn(shape)
    after = Heat(one(), 1.0, 0.1, Solver(*SOLVER))(u)
    assert (after.shape, after.dtype) == (u.shape, torch.float32)


@pytest.mark.parametrize(
    "kappa",
    [
        0.0,
        -1.0,
        math.nan,
        math.inf,
        torch.ones(3, 4),
        torch.ones(4, 3).long(),
        torch.tensor([[1.0, 1.0, -1.0]] * 4),
    ],
)
def test_an_impossible_diffusivity(kappa):
    for make in (
        lambda: Heat(one(), kappa, 0.1, Solver()),
        lambda: Poisson(one(), Solver(), kappa),
    ):
        with pytest.raises(ValueError, match="diffusivity must be"):
            make()


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_time_step(dt):
    with pytest.raises(ValueError, match="dt must be positive"):
        Heat(one(), 1.0, dt, Solver())


def test_a_field_of_a_wrong_shape():
    with pytest.raises(
        ValueError, match=r"must end in the grid's local shape \(4, 3\), this one has \(2, 3, 4\)"
    ):
        Heat(one(), 1.0, 0.1, Solver())(torch.ones(2, 3, 4))
