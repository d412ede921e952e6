"""Property: the Navier–Stokes stepper solves its equations, as the authors do, in any direction and
number of dimensions.
"""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import staggered
import torch
from mpi4py import MPI
from reference_data import reference

from prdp_hpc import Grid, NavierStokes, Solver

START = Path(__file__).parent / "reference" / "navier_stokes_train_0.npz"


def stepper(shape, viscosity=0.01, dt=0.1, level=1e-13, length=1.0, **options):
    grid = Grid(shape, "periodic", MPI.COMM_SELF, length)
    solver = Solver("gmres", "constraint", level, petsc_options={"ksp_gmres_restart": 100})
    return NavierStokes(grid, viscosity, dt, solver, **options)


def draw(physics, samples=1, dtype=torch.float64):
    return torch.randn(samples, physics.grid.dim + 1, *physics.grid.shape, dtype=dtype)


def test_the_authors_trajectory_is_followed():
    with h5py.File(reference("navier_stokes.h5")) as file:
        wanted = file["train/trajectories"][0].astype(np.float64)
        dt, viscosity = float(file.attrs["dt"]), float(file.attrs["nu"])
    with np.load(START) as start:
        velocity = torch.from_numpy(start["velocity"]).double()
    state = torch.cat([velocity, torch.zeros(1, *velocity.shape[1:], dtype=torch.float64)])[None]
    physics = stepper(tuple(velocity.shape[1:]), viscosity, dt, 1e-10)
    assert np.linalg.norm(state[0, :2, 1::2, 1::2].numpy() - wanted[0, :2]) < 1e-4 * np.linalg.norm(
        wanted[0, :2]
    )
    # What the authors' GMRES leaves in single precision; seen: 5e-5 in the velocity, 2.4e-4 in the
    # pressure.
    bounds = (1e-4, 1e-4, 5e-4)
    for after in wanted[1:]:
        state = physics(state)
        ours = state[0, :, 1::2, 1::2].numpy()
        for own, other, bound in zip(ours, after, bounds, strict=True):
            assert np.linalg.norm(own - other) < bound * np.linalg.norm(other)


def vortices(grid, viscosity, t):
    """Taylor and Green's vortices at the staggered points of a unit square, `(1, 3, n, n)`."""
    y, x = grid.coordinates()
    (hy, hx), k = grid.spacing, 2 * math.pi
    decay = math.exp(-2 * viscosity * k**2 * t)
    u = torch.cos(k * (x + hx / 2)) * torch.sin(k * y)
    v = -torch.sin(k * x) * torch.cos(k * (y + hy / 2))
    p = -(torch.cos(2 * k * x) + torch.cos(2 * k * y)) / 4
    return torch.stack([decay * u, decay * v, decay**2 * p])[None]


@pytest.mark.parametrize("picard_iterations", [1, 3])
def test_vortices_decay_at_first_order(picard_iterations):
    errors, end, viscosity = [], 0.125, 0.05
    for n in (32, 64):
        physics = stepper((n, n), viscosity, 1 / n, 1e-8, picard_iterations=picard_iterations)
        state = vortices(physics.grid, viscosity, 0.0)
        for _ in range(n // 8):
            state = physics(state)
        difference = state - vortices(physics.grid, viscosity, end)
        errors.append(
            [part.square().mean().sqrt().item() for part in (difference[:, :2], difference[:, 2])]
        )
    for coarse, fine in zip(*errors, strict=True):
        assert 0.8 < math.log2(coarse / fine) < 1.2
        assert fine < 0.025


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_field_that_does_not_vary_along_an_axis_moves_as_in_the_plane(axis):
    plane = stepper((6, 5), length=(1.0, 2.0))
    flat = draw(plane, 2)
    shape, length = [6, 5], [1.0, 2.0]
    shape.insert(axis, 4)
    length.insert(axis, 0.7)
    space = stepper(tuple(shape), length=tuple(length))
    # Component c points along the last axis but c; the wind along the axis itself has nothing to
    # carry.
    in_plane = [c for c in range(3) if c != 2 - axis]

    def spread(state):
        parts = [torch.full((len(state), *shape), 0.3, dtype=torch.float64)] * 4
        for c, component in zip((*in_plane, 3), state.unbind(1), strict=True):
            parts[c] = component.unsqueeze(axis + 1).expand(-1, *shape)
        return torch.stack(parts, dim=1)

    torch.testing.assert_close(space(spread(flat)), spread(plane(flat)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("shape", "length"), [((5, 7), (1.0, 2.0)), ((3, 4, 5), (1.0, 2.0, 0.5))])
def test_the_matrix_is_the_one_written_independently(shape, length):
    physics = stepper(shape, length=length)
    state = draw(physics, 2)
    dim = len(shape)
    operator = physics.operator
    members = operator.acquire_matrices(2)
    for member, values, wind in zip(
        members, physics.values(state[:, :dim]), state[:, :dim].numpy(), strict=False
    ):
        member.load(values)
        wanted = staggered.matrix(wind, 0.01, 0.1, physics.grid.spacing)
        first, columns, entries = member.matrix.getValuesCSR()
        found = type(wanted)((entries, columns, first), shape=wanted.shape)
        np.testing.assert_allclose(found.toarray(), wanted.toarray(), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize(("shape", "length"), [((8, 6), (1.0, 2.0)), ((4, 5, 6), (1.0, 0.8, 2.0))])
def test_converged_picard_iterations_solve_the_nonlinear_equations(shape, length):
    physics = stepper(shape, 0.02, 0.05, length=length, picard_iterations=40)
    state = 0.5 * draw(physics)
    after = physics(state)
    left = staggered.residual(state[0].numpy(), after[0].numpy(), 0.02, 0.05, physics.grid.spacing)
    assert np.abs(left).max() < 1e-8
    # and one iteration does not
    once = stepper(shape, 0.02, 0.05, length=length)(state)
    assert (
        np.abs(
            staggered.residual(state[0].numpy(), once[0].numpy(), 0.02, 0.05, physics.grid.spacing)
        ).max()
        > 1e-3
    )


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_a_uniform_flow_stays(shape):
    physics = stepper(shape, picard_iterations=2)
    state = torch.zeros(1, len(shape) + 1, *shape, dtype=torch.float64)
    for c in range(len(shape)):
        state[:, c] = c - 0.6
    torch.testing.assert_close(physics(state), state, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_a_shifted_state_gives_the_shifted_step(shape):
    physics = stepper(shape, picard_iterations=2)
    state = draw(physics)
    shifts, axes = tuple(range(1, len(shape) + 1)), tuple(range(2, len(shape) + 2))
    moved = physics(state.roll(shifts, axes))
    torch.testing.assert_close(moved, physics(state).roll(shifts, axes), rtol=0, atol=1e-10)


def test_samples_are_independent():
    physics = stepper((6, 5), picard_iterations=2)
    state = draw(physics, 3).requires_grad_()
    after = physics(state)
    alone = torch.cat([physics(sample[None]) for sample in state.detach()])
    torch.testing.assert_close(after.detach(), alone, rtol=0, atol=1e-11)
    (gradient,) = torch.autograd.grad(after[1].square().sum(), state)
    assert not gradient[[0, 2]].any()
    assert gradient[1].any()


def test_the_pressure_that_comes_in_has_no_influence():
    physics = stepper((6, 5), picard_iterations=2)
    state = draw(physics, 2).requires_grad_()
    other = state.detach().clone()
    other[:, 2] = 7.0
    after = physics(state)
    assert torch.equal(after, physics(other))
    after.square().sum().backward()
    assert not state.grad[:, 2].any()


def test_single_precision_in_and_out():
    physics = stepper((6, 5), picard_iterations=2)
    state = draw(physics, dtype=torch.float32).requires_grad_()
    after = physics(state)
    after.sum().backward()
    assert after.dtype == state.grad.dtype == torch.float32
    torch.testing.assert_close(
        after.double(), physics(state.detach().double()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
def test_the_projection(shape):
    physics = stepper(shape, length=tuple(1.0 + d for d in range(len(shape))))
    state = draw(physics, 2)
    found = physics.divergence(state)
    for sample, own in zip(state.numpy(), found, strict=True):
        np.testing.assert_allclose(
            own, staggered.divergence(sample[:-1], physics.grid.spacing), rtol=1e-12, atol=1e-11
        )
    once = physics.divergence_free(state)
    assert physics.divergence(once).abs().max() < 1e-9
    torch.testing.assert_close(
        physics.divergence_free(once)[:, :-1], once[:, :-1], rtol=0, atol=1e-10
    )
    # orthogonal to what was taken away
    taken = (state - once)[:, :-1]
    assert (taken * once[:, :-1]).sum().abs() < 1e-8 * state.square().sum()


@pytest.mark.parametrize("picard_iterations", [1, 2])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 3)])
def test_full_gradients_are_derivatives(picard_iterations, shape):
    physics = stepper(shape, picard_iterations=picard_iterations)
    fast = len(shape) == 3
    state = draw(physics, 2 if fast else 1).requires_grad_()
    assert torch.autograd.gradcheck(
        physics, (state,), eps=1e-6, atol=1e-5, rtol=1e-5, fast_mode=fast
    )


@pytest.mark.parametrize("picard_iterations", [1, 2])
def test_reduced_gradients_are_those_of_frozen_matrices(picard_iterations):
    physics = stepper((4, 5), picard_iterations=picard_iterations, gradient="reduced")
    state = draw(physics).requires_grad_()
    after = physics(state)
    weights = torch.randn_like(after)
    (gradient,) = torch.autograd.grad(after, state, weights)
    whole = stepper((4, 5), picard_iterations=picard_iterations)
    torch.testing.assert_close(after.detach(), whole(state.detach()))
    wind = state if picard_iterations == 1 else stepper((4, 5))(state)
    frozen = staggered.matrix(wind[0, :2].detach().numpy(), 0.01, 0.1, physics.grid.spacing)
    # Singular by the constant pressure, which is orthogonal to everything here.
    adjoint = np.linalg.pinv(frozen.toarray(), rcond=1e-10).T @ weights.flatten().numpy()
    wanted = torch.from_numpy(adjoint).view(3, 4, 5) / 0.1
    wanted[2] = 0.0
    torch.testing.assert_close(gradient[0], wanted, rtol=1e-7, atol=1e-8)
    (full,) = torch.autograd.grad(whole(state), state, weights)
    assert (full - gradient).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("ksp", "pc", "options"),
    [
        ("gmres", "none", {}),
        ("gmres", "constraint", {}),
        ("fgmres", "constraint", {}),
        ("bcgs", "none", {}),
    ],
)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_k_iterations_keep_the_pressures_mean(ksp, pc, options, k):
    grid = Grid((8, 6), "periodic", MPI.COMM_SELF)
    physics = NavierStokes(
        grid, 0.01, 0.1, Solver(ksp, pc, k, petsc_options=options), picard_iterations=2
    )
    after = physics(draw(physics, 2))
    assert after[:, 2].abs().max() > 0
    assert after[:, 2].mean(dim=(-2, -1)).abs().max() < 1e-13 * after[:, 2].abs().max()


def test_channels():
    assert stepper((4, 4)).channels == ("velocity_x", "velocity_y", "pressure")
    assert stepper((4, 4, 4)).channels == ("velocity_x", "velocity_y", "velocity_z", "pressure")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grid": Grid((4, 4), "dirichlet", MPI.COMM_SELF)},
            "needs a periodic grid of 2 or 3 dimensions",
        ),
        ({"grid": Grid((4, 4), ("periodic", "neumann"), MPI.COMM_SELF)}, "needs a periodic grid"),
        ({"grid": Grid((4,), "periodic", MPI.COMM_SELF)}, "not .* in 1-D"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"dt": math.inf}, "dt must be positive and finite"),
        ({"viscosity": -1e-9}, "viscosity must be finite and at least 0"),
        ({"viscosity": math.nan}, "viscosity must be finite and at least 0"),
        ({"gradient": "none"}, "gradient must be 'full' or 'reduced', not 'none'"),
        ({"picard_iterations": 0}, "picard_iterations must be an integer of at least 1, not 0"),
        ({"picard_iterations": 1.5}, "picard_iterations"),
        ({"picard_iterations": True}, "picard_iterations"),
    ],
)
def test_mistakes_when_it_is_made(change, message):
    right = {
        "grid": Grid((4, 4), "periodic", MPI.COMM_SELF),
        "viscosity": 0.01,
        "dt": 0.1,
        "solver": Solver(),
    }
    with pytest.raises(ValueError, match=message):
        NavierStokes(**(right | change))


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 4, 4, 4), (3, 4, 4), (1, 3, 4, 5)])
def test_mistakes_in_the_state(shape):
    physics = stepper((4, 4))
    for call in (physics, physics.divergence_free):
        with pytest.raises(
            ValueError, match=r"a state on this rank must have shape \(B, 3, 4, 4\)"
        ):
            call(torch.ones(shape, dtype=torch.float64))
