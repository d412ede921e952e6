"""Property: a rollout has the gradients of the plain loop, with few states in memory, as few steps
computed again as possible, and at the levels of its forward pass.
"""

import weakref
from functools import cache

import pytest
import torch
from mpi4py import MPI
from torch import nn

from prdp_hpc import Burgers, Grid, Heat, NonlinearSolver, Solver
from prdp_hpc.autograd.binomial import default_checkpoints, extra_steps, reversible, split
from prdp_hpc.errors import InputError
from prdp_hpc.physics.rollout import rollout

DOUBLE = {"dtype": torch.float64}


@cache
def fewest(steps, checkpoints):
    """The fewest steps beside those that are differentiated, over all places of the next state."""
    if steps == 1:
        return 0
    if checkpoints == 1:
        return steps * (steps - 1) // 2
    return min(
        ahead + fewest(steps - ahead, checkpoints - 1) + fewest(ahead, checkpoints)
        for ahead in range(1, steps)
    )


def test_no_other_places_of_the_states_need_fewer_steps():
    for checkpoints in (1, 2, 3, 4, 7):
        for steps in range(1, 60):
            assert extra_steps(steps, checkpoints) == fewest(steps, checkpoints)


class Counted:
    """A stepper that counts its calls, and how many of its results are alive after each."""

    def __init__(self, step):
        self.step, self.calls, self.alive, self.results = step, 0, 0, []

    def __call__(self, state, *number):
        after = self.step(state, *number)
        self.calls += 1
        self.results = [ref for ref in self.results if ref() is not None]
        self.results.append(weakref.ref(after.untyped_storage()))
        self.alive = max(self.alive, len(self.results))
        return after


class Diffusing:
    """`u ↦ u + κ · second difference of u`, plain torch; κ a leaf."""

    def __init__(self, kappa):
        self.kappa = kappa

    def __call__(self, u):
        return u + self.kappa * (u.roll(1, -1) - 2 * u + u.roll(-1, -1) + u.sin())


@pytest.mark.parametrize("checkpoints", [1, 2, 3, 5, 9, 30, None])
@pytest.mark.parametrize("steps", [1, 2, 5, 30])
def test_gradients_are_those_of_the_plain_loop_and_the_steps_are_counted(steps, checkpoints):
    u = torch.randn(3, 8, **DOUBLE, requires_grad=True)
    kappa = torch.tensor(0.1, **DOUBLE, requires_grad=True)
    state = u
    for _ in range(steps):
        state = Diffusing(kappa)(state)
    wanted = torch.autograd.grad(state.square().sum(), [u, kappa])
    counted = Counted(Diffusing(kappa))
    end = rollout(counted, u, steps, checkpoints)
    assert torch.equal(end, state)
    assert counted.calls == steps
    found = torch.autograd.grad(end.square().sum(), [u, kappa])
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-13, atol=0)
    assert counted.calls == steps + extra_steps(steps, checkpoints or default_checkpoints(steps))


@pytest.mark.parametrize("checkpoints", [1, 3, 9, 19])
def test_two_hundred_steps_keep_few_states(checkpoints):
    grid = Grid((64,), "periodic", MPI.COMM_SELF)
    u = torch.randn(1, 1, 64, **DOUBLE, requires_grad=True)
    counted = Counted(Heat(grid, 1e-3, 0.1, Solver("preonly", "lu")))
    steps = 40 if checkpoints < 3 else 200
    rollout(counted, u, steps, checkpoints).square().sum().backward()
    # One more is the state of the step that is taken, one the result.
    assert counted.alive <= checkpoints + 3
    assert counted.calls == steps + extra_steps(steps, checkpoints)
    assert u.grad.isfinite().all()


def test_the_numbers_that_the_documentation_tells():
    assert extra_steps(200, 9) == 534
    assert extra_steps(200, 19) == 379
    assert default_checkpoints(200) == 19
    assert reversible(3, 2) == 10
    assert all(1 <= split(n, c) < n for c in (1, 2, 5) for n in (2, 3, 17))


class Corrected(nn.Module):
    """A network after each step of a PDE."""

    def __init__(self, physics):
        super().__init__()
        self.physics = physics
        self.network = nn.Sequential(nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 9)).double()
        self.dropout = nn.Dropout(0.5)

    def forward(self, state):
        after = self.physics(state)
        return after + 0.1 * self.dropout(self.network(after))


def test_a_network_inside_the_stepper_is_trained_and_its_dropout_repeated():
    grid = Grid((9,), "periodic", MPI.COMM_SELF)
    model = Corrected(Burgers(grid, 0.05, 0.01, Solver("preonly", "lu")))
    u = torch.randn(2, 1, 9, **DOUBLE)

    def gradients(run):
        torch.manual_seed(3)
        model.zero_grad()
        run().square().sum().backward()
        return [p.grad.clone() for p in model.parameters()], torch.rand(())

    def loop():
        state = u
        for _ in range(12):
            state = model(state)
        return state

    wanted, after = gradients(loop)
    found, then = gradients(lambda: rollout(model, u, 12, 3))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    assert after == then


@pytest.mark.parametrize("given", [False, True])
def test_a_coefficient_that_was_computed_before(given):
    """It is found by its leaves; given as a parameter it is not differentiated through each
    time.
    """
    grid = Grid((8,), "neumann", MPI.COMM_SELF)
    theta = torch.randn(8, **DOUBLE, requires_grad=True)
    u = torch.randn(2, 8, **DOUBLE, requires_grad=True)
    visits = []

    def loss(run):
        kappa = theta.exp()
        kappa.grad_fn.register_hook(lambda *gradients: visits.append(gradients))
        heat = Heat(grid, kappa, 0.01, Solver("preonly", "lu"))
        end = run(heat, kappa) + 1e-2 * kappa  # kappa is used beside the rollout too
        return torch.autograd.grad(end.square().sum(), [theta, u])

    def loop(heat, kappa):
        state = u
        for _ in range(10):
            state = heat(state)
        return state

    wanted = loss(loop)
    visits.clear()
    found = loss(lambda heat, kappa: rollout(heat, u, 10, 3, parameters=[kappa] if given else []))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)
    assert len(visits) == (1 if given else 11)


def test_a_parameter_that_the_step_also_needs_the_source_of():
    """A given coefficient that depends on another one is not counted twice."""
    theta = torch.tensor(0.3, **DOUBLE, requires_grad=True)
    u = torch.randn(4, **DOUBLE)
    kappa = theta.square()

    def step(state):
        return state * kappa + theta * state.cos()

    state = u
    for _ in range(4):
        state = step(state)
    (wanted,) = torch.autograd.grad(state.sum(), theta, retain_graph=True)
    (found,) = torch.autograd.grad(rollout(step, u, 4, 2, parameters=[kappa]).sum(), theta)
    torch.testing.assert_close(found, wanted)


def test_states_on_the_way_and_numbered_steps():
    controls = torch.randn(6, 5, **DOUBLE, requires_grad=True)
    u = torch.randn(5, **DOUBLE, requires_grad=True)

    def step(state, number):
        return (state + controls[number]).sin()

    def loss(states):
        return sum((k + 1) * s.square().sum() for k, s in enumerate(states))

    state, states = u, []
    for number in range(6):
        state = step(state, number)
        states.append(state)
    for at in ([1, 2, 3, 4, 5, 6], [2, 5], [6]):
        picked = [states[number - 1] for number in at]
        wanted = torch.autograd.grad(loss(picked), [u, controls], retain_graph=True)
        for checkpoints in (1, 2, 4):
            found = rollout(step, u, 6, checkpoints, at=at, numbered=True)
            assert all(map(torch.equal, found, picked))
            gradients = torch.autograd.grad(loss(found), [u, controls])
            torch.testing.assert_close(gradients, wanted)


def test_a_state_of_several_tensors():
    u, v = (torch.randn(3, **DOUBLE, requires_grad=True) for _ in range(2))

    def step(state):
        position, speed = state
        return position + 0.1 * speed, speed - 0.1 * position.sin()

    state = (u, v)
    for _ in range(7):
        state = step(state)
    wanted = torch.autograd.grad(state[0].sum() + state[1].square().sum(), [u, v])
    found = rollout(step, (u, v), 7, 2)
    gradients = torch.autograd.grad(found[0].sum() + found[1].square().sum(), [u, v])
    assert all(map(torch.equal, gradients, wanted))


def test_what_is_computed_again_is_solved_at_the_level_of_the_forward_pass():
    grid, solver = Grid((9,), "dirichlet", MPI.COMM_SELF), Solver("richardson", "jacobi", 3, 2)
    kappa = torch.full((9,), 1.0, **DOUBLE, requires_grad=True)
    heat = Heat(grid, kappa, 0.1, solver)
    u = torch.randn(2, 9, **DOUBLE, requires_grad=True)
    solver.refine(3, 2)
    state = u
    for _ in range(9):
        state = heat(state)
    wanted = torch.autograd.grad(state.square().sum(), [u, kappa])
    end = rollout(lambda state: heat(state), u, 9, 2)
    solver.refine(40, 40)
    found = torch.autograd.grad(end.square().sum(), [u, kappa])
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-12, atol=1e-14)
    assert (solver.refinement.max_it, solver.adjoint.max_it) == (40, 40)
    solver.refine(5)
    assert solver.adjoint.max_it == 40


def test_the_levels_of_newtons_method_are_kept_too():
    grid = Grid((9,), "periodic", MPI.COMM_SELF)
    solver = NonlinearSolver(Solver("gmres", "jacobi", 4), 1, adjoint=5)
    burgers = Burgers(grid, 0.05, 0.05, solver)
    u = torch.randn(1, 1, 9, **DOUBLE, requires_grad=True)
    state = u
    for _ in range(6):
        state = burgers(state)
    (wanted,) = torch.autograd.grad(state.square().sum(), u)
    end = rollout(burgers, u, 6, 2)
    solver.refine(8, 30)
    solver.solver.refine(40)
    (found,) = torch.autograd.grad(end.square().sum(), u)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)
    assert (solver.newton.max_it, solver.solver.refinement.max_it) == (8, 40)


def test_second_backward_passes_and_second_derivatives():
    u = torch.randn(4, **DOUBLE, requires_grad=True)
    kappa = torch.tensor(0.1, **DOUBLE, requires_grad=True)

    def run(u, kappa):
        return rollout(Diffusing(kappa), u, 5, 2)

    end = run(u, kappa).square().sum()
    first, second = (torch.autograd.grad(end, [u, kappa], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert torch.autograd.gradcheck(run, (u, kappa))
    assert torch.autograd.gradgradcheck(run, (u, kappa))


def test_nothing_is_kept_without_need():
    u = torch.randn(4, **DOUBLE)
    counted = Counted(lambda state: 2 * state)
    assert not rollout(counted, u, 50).requires_grad
    with torch.no_grad():
        rollout(counted, u.clone().requires_grad_(), 50)
    assert counted.alive <= 3 + default_checkpoints(50)
    assert counted.calls == 100


def test_a_stepper_that_changed_since():
    grid = Grid((8,), "neumann", MPI.COMM_SELF)
    heat = Heat(grid, 0.1, 0.01, Solver("preonly", "lu"))
    u = torch.randn(8, **DOUBLE, requires_grad=True)
    end = rollout(heat, u, 9, 3)
    heat.diffusivity = 0.2
    with pytest.raises(InputError, match="must not change in the meantime"):
        end.sum().backward()


def test_a_parameter_that_only_earlier_steps_need():
    early, late = (torch.tensor(0.5, **DOUBLE, requires_grad=True) for _ in range(2))
    u = torch.randn(3, **DOUBLE)

    def step(state, number):
        return state * (early if number < 3 else late)

    with pytest.raises(InputError, match=r"pass it in parameters"):
        rollout(step, u, 5, 2, numbered=True).sum().backward()
    rollout(step, u, 5, 2, numbered=True, parameters=[early]).sum().backward()
    assert early.grad.item() == pytest.approx(3 * 0.5**4 * u.sum().item())
    assert late.grad.item() == pytest.approx(2 * 0.5**4 * u.sum().item())


def test_parameters_changed_in_place_are_noticed():
    kappa = torch.tensor(0.1, **DOUBLE, requires_grad=True)
    end = rollout(Diffusing(kappa), torch.randn(4, **DOUBLE), 5, 2)
    with torch.no_grad():
        kappa += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, not 0"),
        ({"steps": 3, "checkpoints": 0}, "checkpoints must be"),
        ({"steps": 3, "at": [2, 1]}, "at must increase"),
        ({"steps": 3, "at": [4]}, "at most steps=3"),
        ({"steps": 3, "at": []}, "at must increase"),
        ({"steps": 3, "step": lambda state: state[:2]}, r"returned \(2,\) for a state of \(4,\)"),
    ],
)
def test_mistakes(options, message):
    step = options.pop("step", lambda state: state)
    with pytest.raises(InputError, match=message):
        rollout(step, torch.randn(4), **options)
