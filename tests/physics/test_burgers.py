"""Property: the Burgers stepper solves its equation, with shocks at the right speed, along any axis
and for every time step.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from prdp_hpc import Burgers, Grid, Refinement, Solver

SHAPES = [(9,), (5, 7), (3, 4, 5)]
# On an axis of two points both neighbours are the same point.
SHORT = [(2,), (2, 5), (5, 2), (2, 3, 2)]


def lengths(shape):
    return tuple(1.0 + d for d in range(len(shape)))


def stepper(shape, viscosity=0.01, dt=0.1, length=1.0, solver=None, **options):
    grid = Grid(shape, "periodic", MPI.COMM_SELF, length)
    return Burgers(grid, viscosity, dt, solver or Solver("preonly", "lu"), **options)


def draw(physics, samples=1, dtype=torch.float64):
    return torch.randn(samples, physics.grid.dim, *physics.grid.shape, dtype=dtype)


def left_side(wind, u, viscosity, dt, spacing):
    """`(I + dt (w·∇_h − ν Δ_h)) u` for one sample `(dim, *shape)` of NumPy arrays, written as in
    the docstring.
    """
    dim, total = len(spacing), np.array(u)
    for axis, h in enumerate(spacing):
        w = wind[dim - 1 - axis]
        w_before, w_after = (w + np.roll(w, 1, axis)) / 2, (w + np.roll(w, -1, axis)) / 2
        for c in range(dim):
            before, after = np.roll(u[c], 1, axis), np.roll(u[c], -1, axis)
            advected = (
                np.maximum(w_before, 0) * (u[c] - before) / h
                + np.minimum(w_after, 0) * (after - u[c]) / h
            )
            total[c] += dt * (advected - viscosity * (before - 2 * u[c] + after) / h**2)
    return total


def matrix(wind, viscosity, dt, spacing):
    """The dense matrix of one component."""
    shape, dim = wind.shape[1:], len(spacing)
    units = np.eye(wind[0].size).reshape(-1, *shape)
    columns = [
        left_side(wind, np.stack([unit] * dim), viscosity, dt, spacing)[0].ravel() for unit in units
    ]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("shape", SHAPES + SHORT)
def test_a_step_solves_the_linear_system(shape):
    physics = stepper(shape, length=lengths(shape))
    state = draw(physics, 2)
    for before, after in zip(state.numpy(), physics(state).numpy(), strict=True):
        left = left_side(before, after, 0.01, 0.1, physics.grid.spacing)
        np.testing.assert_allclose(left, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_converged_picard_iterations_solve_the_nonlinear_equations(shape):
    def residual(picard_iterations):
        physics = stepper(shape, 0.02, 0.05, lengths(shape), picard_iterations=picard_iterations)
        after = physics(state)[0].numpy()
        return np.abs(
            left_side(after, after, 0.02, 0.05, physics.grid.spacing) - state[0].numpy()
        ).max()

    state = 0.5 * draw(stepper(shape))
    assert residual(40) < 1e-10
    assert residual(1) > 1e-3


@pytest.mark.parametrize("picard_iterations", [1, 3])
@pytest.mark.parametrize("wind", [1.0, -1.0])
def test_the_solution_of_cole_and_hopf_is_met_at_first_order(wind, picard_iterations):
    viscosity, k, end = 0.05, 2 * math.pi, 0.25

    def exact(x, t):
        decay, moved = 0.5 * math.exp(-viscosity * k**2 * t), k * (x - wind * t)
        return wind + 2 * viscosity * k * decay * torch.sin(moved) / (1 + decay * torch.cos(moved))

    errors = []
    for n in (128, 256):
        physics = stepper((n,), viscosity, 1 / n, picard_iterations=picard_iterations)
        (x,) = physics.grid.coordinates()
        state = exact(x, 0.0).reshape(1, 1, n)
        for _ in range(n // 4):
            state = physics(state)
        errors.append((state.flatten() - exact(x, end)).square().mean().sqrt().item())
    assert 0.85 < math.log2(errors[0] / errors[1]) < 1.15
    assert errors[1] < 0.1 * (exact(x, end) - wind).abs().max()


@pytest.mark.parametrize("picard_iterations", [1, 3])
def test_first_order_in_the_time_step(picard_iterations):
    def at_end(steps):
        physics = stepper((24,), 0.02, 0.2 / steps, picard_iterations=picard_iterations)
        (x,) = physics.grid.coordinates()
        state = (0.3 + torch.sin(2 * math.pi * x)).reshape(1, 1, -1)
        for _ in range(steps):
            state = physics(state)
        return state

    coarse, middle, fine = (at_end(steps) for steps in (40, 80, 160))
    assert 0.85 < math.log2(((coarse - middle).norm() / (middle - fine).norm()).item()) < 1.15


@pytest.mark.parametrize(
    ("right_of_it", "speed"), [(0.0, 0.5), (0.5, 0.75), (-1.0, 0.0), (-2.0, -0.5)]
)
def test_a_shock_moves_at_its_speed(right_of_it, speed):
    n, end, middle = 128, 0.15, (1.0 + right_of_it) / 2
    physics = stepper((n,), 0.0, end / 32, picard_iterations=4)
    (x,) = physics.grid.coordinates()
    state = torch.where((x - 0.5).abs() < 0.25, right_of_it, 1.0).to(torch.float64).reshape(1, 1, n)
    for _ in range(32):
        state = physics(state)
    # From 1 on its left the wave falls through the mean of both sides once; the fan that starts at
    # 3/4 rises.
    u = state.flatten()
    falls = torch.nonzero((u[:-1] >= middle) & (u[1:] < middle)).flatten()
    assert len(falls) == 1
    assert abs(x[falls[0]].item() + 0.5 / n - (0.25 + speed * end)) < 2 / n


def test_one_dimensional_momentum_is_conserved():
    physics = stepper((16,), 0.01, 0.02, picard_iterations=60)
    state = draw(physics, 4)
    torch.testing.assert_close(physics(state).mean(-1), state.mean(-1), rtol=0, atol=1e-12)


@given(
    shape=st.sampled_from(SHAPES + SHORT),
    dt=st.floats(1e-3, 1e3),
    viscosity=st.floats(0.0, 10.0),
    picard_iterations=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_a_step_stays_between_the_extremes(shape, dt, viscosity, picard_iterations, seed):
    torch.manual_seed(seed)
    physics = stepper(shape, viscosity, dt, picard_iterations=picard_iterations)
    state = draw(physics, 2)
    before, after = state.flatten(2), physics(state).flatten(2)
    assert (after <= before.amax(-1, keepdim=True) + 1e-9).all()
    assert (after >= before.amin(-1, keepdim=True) - 1e-9).all()


@pytest.mark.parametrize("shape", SHAPES + SHORT)
def test_a_constant_state_stays(shape):
    physics = stepper(shape, picard_iterations=2)
    state = torch.stack(
        [torch.full(shape, c - 0.6, dtype=torch.float64) for c in range(len(shape))]
    )[None]
    torch.testing.assert_close(physics(state), state, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dim", "axis"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_a_field_that_varies_along_one_axis_moves_as_in_one_dimension(dim, axis):
    n, along = 7, dim - 1 - axis
    line = stepper((n,), length=2.0, picard_iterations=2)
    shape, length = [3] * dim, [0.7] * dim
    shape[axis], length[axis] = n, 2.0
    whole = stepper(tuple(shape), length=tuple(length), picard_iterations=2)
    profile = draw(line, 2)
    view = [len(profile)] + [n if d == axis else 1 for d in range(dim)]

    def spread(u):
        parts = [torch.full((len(u), *shape), 0.3 + c, dtype=torch.float64) for c in range(dim)]
        parts[along] = u.reshape(view).expand(-1, *shape)
        return torch.stack(parts, dim=1)

    torch.testing.assert_close(whole(spread(profile)), spread(line(profile)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shifted_state_gives_the_shifted_step(shape):
    physics = stepper(shape, picard_iterations=2)
    state = draw(physics)
    shifts, axes = tuple(range(1, len(shape) + 1)), tuple(range(2, len(shape) + 2))
    moved = physics(torch.from_numpy(np.roll(state.numpy(), shifts, axes)))
    np.testing.assert_allclose(
        moved, np.roll(physics(state).numpy(), shifts, axes), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [(shape, axis) for shape in SHAPES for axis in range(len(shape))]
)
def test_a_mirrored_state_gives_the_mirrored_step(shape, axis):
    def mirror(state):
        turned = state.flip(axis + 2)
        turned[:, len(shape) - 1 - axis] *= -1
        return turned

    physics = stepper(shape, length=lengths(shape), picard_iterations=2)
    state = draw(physics)
    torch.testing.assert_close(physics(mirror(state)), mirror(physics(state)), rtol=0, atol=1e-12)


def test_samples_are_independent():
    physics = stepper((6, 5), picard_iterations=2)
    state = draw(physics, 3).requires_grad_()
    after = physics(state)
    alone = torch.cat([physics(sample[None]) for sample in state.detach()])
    torch.testing.assert_close(after.detach(), alone, rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(after[1].square().sum(), state)
    assert not gradient[[0, 2]].any()
    assert gradient[1].any()


def test_single_precision_in_and_out():
    physics = stepper((6, 5), picard_iterations=2)
    state = draw(physics, dtype=torch.float32).requires_grad_()
    after = physics(state)
    after.sum().backward()
    assert after.dtype == state.grad.dtype == torch.float32
    torch.testing.assert_close(
        after.double(), physics(state.detach().double()), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(6,), (2,), (4, 3), (2, 3, 3)])
@pytest.mark.parametrize("picard_iterations", [1, 3])
def test_full_gradients_are_derivatives(shape, picard_iterations):
    physics = stepper(shape, length=lengths(shape), picard_iterations=picard_iterations)
    state = draw(physics, 2).requires_grad_()
    assert torch.autograd.gradcheck(physics, (state,), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_full_gradients_of_a_converged_iterative_solver_are_derivatives():
    solver = Solver("gmres", "jacobi", Refinement(rtol=1e-13))
    physics = stepper((4, 3), solver=solver, picard_iterations=3)
    assert torch.autograd.gradcheck(
        physics, (draw(physics).requires_grad_(),), eps=1e-5, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 2, 4)])
@pytest.mark.parametrize("picard_iterations", [1, 3])
def test_reduced_gradients_are_those_of_frozen_matrices(shape, picard_iterations):
    physics = stepper(shape, picard_iterations=picard_iterations, gradient="reduced")
    state = draw(physics).requires_grad_()
    after = physics(state)
    weights = torch.randn_like(after)
    (gradient,) = torch.autograd.grad(after, state, weights)
    whole = stepper(shape, picard_iterations=picard_iterations)
    torch.testing.assert_close(after.detach(), whole(state.detach()), rtol=0, atol=1e-12)
    wind = (
        state
        if picard_iterations == 1
        else stepper(shape, picard_iterations=picard_iterations - 1)(state)
    )
    frozen = matrix(wind[0].detach().numpy(), 0.01, 0.1, physics.grid.spacing)
    wanted = np.linalg.solve(frozen.T, weights.reshape(len(shape), -1).numpy().T).T
    np.testing.assert_allclose(gradient.reshape(len(shape), -1), wanted, rtol=0, atol=1e-11)
    (full,) = torch.autograd.grad(whole(state), state, weights)
    assert (full - gradient).abs().max() > 1e-2


@pytest.mark.parametrize("gradient", ["full", "reduced"])
def test_after_the_backward_pass_no_batch_holds_matrices(gradient, monkeypatch):
    physics = stepper((4, 3), picard_iterations=3, gradient=gradient)
    operator, held = physics.operator, []
    take, give_back = operator.acquire_matrices, operator.release_matrices

    def taken(count):
        held.append(take(count))
        return held[-1]

    def given(members):
        held[:] = [other for other in held if other is not members]
        give_back(members)

    monkeypatch.setattr(operator, "acquire_matrices", taken)
    monkeypatch.setattr(operator, "release_matrices", given)
    after = physics(draw(physics, 2).requires_grad_())
    assert len(held) == {"full": 3, "reduced": 1}[gradient]
    after.sum().backward()
    assert not held


def test_channels():
    names = ("velocity_x", "velocity_y", "velocity_z")
    for shape in SHAPES:
        assert stepper(shape).channels == names[: len(shape)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"grid": Grid((4, 4), "dirichlet", MPI.COMM_SELF)},
            "needs a periodic grid, not .*dirichlet",
        ),
        ({"grid": Grid((4, 4), ("periodic", "dirichlet"), MPI.COMM_SELF)}, "needs a periodic grid"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"dt": -0.1}, "dt must be positive"),
        ({"dt": math.inf}, "dt must be positive and finite"),
        ({"viscosity": -1e-9}, "viscosity must be finite and at least 0"),
        ({"viscosity": math.nan}, "viscosity must be finite and at least 0"),
        ({"gradient": "none"}, "gradient must be 'full' or 'reduced', not 'none'"),
        ({"picard_iterations": 0}, "picard_iterations must be an integer of at least 1, not 0"),
        ({"picard_iterations": 1.5}, "picard_iterations"),
        ({"picard_iterations": True}, "picard_iterations"),
        ({"viscosity": torch.tensor(0.1, requires_grad=True)}, "no gradient with respect to visc"),
        ({"dt": torch.tensor(0.1, requires_grad=True)}, "no gradient with respect to dt"),
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
        Burgers(**(right | change))


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (1, 3, 4, 4), (2, 4, 4), (1, 2, 4, 5)])
def test_mistakes_in_the_state(shape):
    with pytest.raises(
        ValueError,
        match=r"a state on this rank must have shape \(B, 2, 4, 4\) with .* velocity_x, velocity_y",
    ):
        stepper((4, 4))(torch.ones(shape, dtype=torch.float64))
