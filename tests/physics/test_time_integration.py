"""Property: each scheme has its order in time, with diffusion, an explicit term, sources and sides
that change in time; gradients in dt and in the initial state are derivatives.
"""

import math

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    AllenCahn,
    Burgers,
    Grid,
    Heat,
    NonlinearDiffusion,
    NonlinearSolver,
    Solver,
)
from prdp_hpc.errors import InputError
from prdp_hpc.physics import BDF2, CNAB2, SBDF2, Dirichlet, Neumann, ThetaScheme
from prdp_hpc.physics.rollout import rollout

KAPPA, END = 0.05, 1.0
SOLVER = ("preonly", "lu")


def line(n=16, boundary="periodic"):
    return Grid((n,), boundary, MPI.COMM_SELF)


def heat(grid, sides=None):
    return lambda h: Heat(grid, KAPPA, h, Solver(*SOLVER), sides)


SCHEMES = {
    "backward Euler": (lambda grid, n, dt: ThetaScheme(heat(grid), dt, 1.0), 1),
    "θ = 3/4": (lambda grid, n, dt: ThetaScheme(heat(grid), dt, 0.75), 1),
    "Crank–Nicolson": (lambda grid, n, dt: ThetaScheme(heat(grid), dt), 2),
    "BDF2": (lambda grid, n, dt: BDF2(heat(grid), dt), 2),
    "SBDF2": (lambda grid, n, dt: SBDF2(heat(grid), n, dt), 2),
    "CNAB2": (lambda grid, n, dt: CNAB2(heat(grid), n, dt), 2),
}


def run(scheme, u, steps, **options):
    """The state after some steps; `time` counts on where it is given."""
    time = options.pop("time", None)
    if hasattr(scheme, "start"):
        state = scheme.start(u, time=time, **options)
    else:
        state = scheme(u, time=time, **options)
    for number in range(1, steps):
        now = None if time is None else time + number * scheme.dt
        state = scheme(state, time=now, **options)
    return state[0] if isinstance(state, tuple) else state


def order(error, steps=20):
    return math.log2(error(steps) / error(2 * steps))


@pytest.mark.parametrize(("make", "expected"), SCHEMES.values(), ids=SCHEMES)
def test_each_scheme_has_its_order_for_a_mode_of_the_grid(make, expected):
    """Exact in time for the central differences: `u = e^{−λ t} sin 2πx`, and with an explicit term
    `N(u) = r u`, `e^{(r − λ) t}`.
    """
    grid = line()
    (x,) = grid.coordinates()
    u = torch.sin(2 * math.pi * x)
    h = grid.spacing[0]
    rate = -KAPPA * 4 / h**2 * math.sin(math.pi * h) ** 2
    growth = 0.0

    def explicit(v):
        return 1.5 * v

    def error(steps):
        scheme = make(grid, explicit, END / steps)
        after = run(scheme, u, steps)
        return (after - math.exp((rate + growth) * END) * u).abs().max().item()

    if hasattr(make(grid, explicit, 0.1), "explicit"):
        growth = 1.5
    assert order(error) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("name", ["SBDF2", "CNAB2"])
def test_imex_schemes_of_a_nonlinear_term(name):
    """Allen–Cahn without space: `u' = u − u³`, from a constant state."""
    start = 0.1
    wanted = math.exp(END) * start / math.sqrt(1 + start**2 * (math.exp(2 * END) - 1))
    u = torch.full((16,), start, dtype=torch.float64)

    def error(steps):
        scheme = SCHEMES[name][0](line(), lambda v: v - v**3, END / steps)
        return abs(run(scheme, u, steps)[0].item() - wanted)

    assert order(error) == pytest.approx(2, abs=0.15)


def advected(grid, speed):
    """`−speed u_x` by central differences."""

    def term(u):
        padded = grid.halo(u)
        return -speed * (padded[..., 2:] - padded[..., :-2]) / (2 * grid.spacing[0])

    return term


@pytest.mark.parametrize("make", [SBDF2, CNAB2])
def test_imex_schemes_with_advection(make):
    grid = line(64)
    (x,) = grid.coordinates()
    h, k = grid.spacing[0], 2 * math.pi
    decay, speed = KAPPA * 4 / h**2 * math.sin(k * h / 2) ** 2, math.sin(k * h) / h / k

    def error(steps):
        scheme = make(heat(grid), advected(grid, 1.0), END / steps)
        wanted = math.exp(-decay * END) * torch.sin(k * (x - speed * END))
        return (run(scheme, torch.sin(k * x), steps) - wanted).abs().max().item()

    assert order(error, 40) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("name", ["Crank–Nicolson", "BDF2", "SBDF2", "CNAB2"])
def test_sides_and_sources_that_change_in_time(name):
    """`u = cos 3t · (1 + x²/2)` is exact in space: `u_t − κ u_xx = f`, fluxes and values at the
    sides; the explicit schemes have a part of f as their term.
    """
    grid = line(10, "neumann")
    (x,) = grid.coordinates()

    def u(x, t):
        return math.cos(3 * t) * (1 + x**2 / 2)

    def source(t):
        return -3 * math.sin(3 * t) * (1 + x**2 / 2) - KAPPA * math.cos(3 * t)

    # At the first point the difference to the face, half a spacing away, is of second order.
    def value(x, t):
        return u(x, t) + math.cos(3 * t) * grid.spacing[0] ** 2 / 8

    sides = [(Neumann(lambda x, t: 0.0), Dirichlet(value))]
    explicit = name in ("SBDF2", "CNAB2")
    share = {"Crank–Nicolson": 0.5, "CNAB2": 0.5}.get(name, 1.0)

    def solved(steps):
        dt = END / steps
        make = heat(grid, sides)
        if name == "Crank–Nicolson":
            scheme = ThetaScheme(make, dt)
        elif name == "BDF2":
            scheme = BDF2(make, dt)
        else:
            kind = {"SBDF2": SBDF2, "CNAB2": CNAB2}[name]
            scheme = kind(make, lambda u, t: 0.3 * source(t).expand_as(u), dt)
        rest = 0.7 if explicit else 1.0
        state, t = u(x, 0.0), 0.0
        for number in range(steps):
            first = number == 0 and hasattr(scheme, "start")
            f = rest * source(t + (1.0 if first else share) * dt)
            state = (scheme.start if first else scheme)(state, source=f, time=t)
            t += dt
        return state[0] if isinstance(state, tuple) else state

    def error(steps):
        return (solved(steps) - u(x, END)).abs().max().item()

    assert order(error) == pytest.approx(2, abs=0.25)
    assert error(160) < 1e-3


def test_a_nonlinear_stepper_by_its_backward_euler_steps():
    """Burgers' equation with BDF2 and θ = 1/2 against many small steps."""
    grid = line(12)
    u = 0.5 + 0.4 * torch.sin(2 * math.pi * grid.coordinates()[0])[None, None]

    def make(h):
        return Burgers(grid, 0.05, h, Solver(*SOLVER), picard_iterations=5)

    wanted = run(BDF2(make, 0.5 / 64), u, 64)
    for scheme in (BDF2, ThetaScheme):
        errors = [(run(scheme(make, 0.5 / n), u, n) - wanted).abs().max().item() for n in (6, 12)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_backward_euler_is_the_stepper_itself_and_heat_has_theta():
    grid, u = line(), torch.randn(2, 16, dtype=torch.float64)
    plain = Heat(grid, KAPPA, 0.1, Solver(*SOLVER))
    assert torch.equal(ThetaScheme(heat(grid), 0.1, 1.0)(u), plain(u))
    source = torch.randn(16, dtype=torch.float64)
    same = Heat(grid, KAPPA, 0.1, Solver(*SOLVER), theta=0.5)
    assert torch.equal(ThetaScheme(heat(grid), 0.1)(u, source), same(u, source))
    assert "θ = 0.5" in same.scheme
    assert same.attributes() == {"dt": 0.1, "diffusivity": KAPPA, "theta": 0.5}


@pytest.mark.parametrize("name", SCHEMES)
def test_gradients_in_dt_and_the_initial_state(name):
    grid = line(6, "neumann")
    u = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    dt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def after(u, dt):
        return run(SCHEMES[name][0](grid, torch.sin, dt), u, 3)

    assert torch.autograd.gradcheck(after, (u, dt))


def newton(pde, number):
    return lambda grid, h: pde(
        grid, number, h, NonlinearSolver(Solver(*SOLVER), 1e-13), boundaries=NEWTON_SIDES
    )


NEWTON_SIDES = [(Dirichlet(0.4), Neumann(0.1))]
NEWTON = {
    "Allen–Cahn": newton(AllenCahn, 0.3),
    "nonlinear diffusion": newton(NonlinearDiffusion, KAPPA),
}


def with_explicit(kind):
    return lambda grid, dt: kind(grid, torch.sin, dt)


def as_bdf2(kind):
    return lambda grid, dt: BDF2(lambda h: kind(grid, h), dt)


OF_DT = {
    **{name: with_explicit(kind) for name, (kind, _) in SCHEMES.items()},
    "heat": lambda grid, dt: heat(grid)(dt),
    "heat, θ = 0.6": lambda grid, dt: Heat(
        grid, KAPPA, dt, Solver(*SOLVER), NEWTON_SIDES, theta=0.6
    ),
    **NEWTON,
    **{f"BDF2 of {name}": as_bdf2(kind) for name, kind in NEWTON.items()},
}


@pytest.mark.parametrize("make", OF_DT.values(), ids=OF_DT)
def test_a_stepper_follows_its_dt_through_many_backward_passes(make):
    """As an optimiser changes it, in place; by the plain loop and by a rollout."""
    grid = line(6, "neumann")
    u = torch.rand(2, 1, 6, dtype=torch.float64)
    dt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def loss(stepper, by_rollout):
        state = stepper.start(u) if hasattr(stepper, "start") else u
        if by_rollout:
            state = rollout(stepper, state, 3, 2)
        else:
            for _ in range(3):
                state = stepper(state)
        return (state[0] if isinstance(state, tuple) else state).pow(3).sum()

    stepper = make(grid, dt)
    for number in (0.2, 0.13):
        with torch.no_grad():
            dt.fill_(number)
        fresh = torch.tensor(number, dtype=torch.float64, requires_grad=True)
        wanted = loss(make(grid, fresh), by_rollout=False)
        slope = torch.autograd.grad(wanted, fresh)
        for by_rollout in (True, False):
            found = loss(stepper, by_rollout)
            torch.testing.assert_close(found, wanted)
            torch.testing.assert_close(torch.autograd.grad(found, dt), slope)
    after, before = (loss(make(grid, number + step), False) for step in (1e-4, -1e-4))
    torch.testing.assert_close(slope[0], (after - before) / 2e-4, rtol=1e-6, atol=1e-8)
    with torch.no_grad():
        dt.neg_()
    with pytest.raises(InputError, match="dt must be positive"):
        loss(stepper, by_rollout=False)


def test_numbers_without_a_gradient_refuse_one():
    """Where a tensor is accepted, and its gradient would be lost."""
    number = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    solver = NonlinearSolver(Solver(*SOLVER))
    for name, make in {
        "theta": lambda: Heat(line(), KAPPA, 0.1, Solver(*SOLVER), theta=number),
        "theta ": lambda: ThetaScheme(heat(line()), 0.1, number),
        "exponent": lambda: NonlinearDiffusion(line(), 1.0, 0.1, solver, exponent=number),
        "dt": lambda: Burgers(line(), 0.1, number, Solver()),
        "length": lambda: Grid((4,), comm=MPI.COMM_SELF, length=number),
    }.items():
        with pytest.raises(InputError, match=f"no gradient with respect to {name.strip()}"):
            make()


def test_gradient_in_dt_with_sources_sides_and_a_rollout():
    grid = line(4, "neumann")
    u = torch.randn(4, dtype=torch.float64, requires_grad=True)
    dt = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    sides = [(Dirichlet(lambda x, t: torch.sin(t) * torch.ones_like(x)), Neumann(0.3))]

    def after(u, dt):
        step = Heat(grid, KAPPA, dt, Solver(*SOLVER), sides, source=0.4, theta=0.5)
        return rollout(lambda u, n: step(u, time=n * dt), u, 4, 2, numbered=True)

    def pairs(u, dt):
        scheme = BDF2(heat(grid), dt)
        return rollout(scheme, scheme.start(u), 3, 2)[0]

    assert torch.autograd.gradcheck(after, (u, dt))
    assert torch.autograd.gradcheck(pairs, (u, dt))


def test_mistakes():
    for theta in (0.0, -1.0, 1.5):
        with pytest.raises(InputError, match="theta must be above 0"):
            ThetaScheme(heat(line()), 0.1, theta)
    for dt in (0.0, math.inf, math.nan):
        with pytest.raises(InputError, match="dt must be positive"):
            BDF2(heat(line()), dt)
    with pytest.raises(InputError, match=r"theta must be from 0\.5"):
        Heat(line(), KAPPA, 0.1, Solver(), theta=0.3)
