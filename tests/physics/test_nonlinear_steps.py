"""Property: steps by Newton's method solve their equations, converge in h and dt, and have the
gradients of what they compute.
"""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from mpi4py import MPI
from nonlinear_systems import check_slopes

from prdp_hpc import (
    AllenCahn,
    Burgers,
    Grid,
    NonlinearDiffusion,
    NonlinearSolver,
    Refinement,
    Solver,
    train,
)
from prdp_hpc.config import ConfigError, validate
from prdp_hpc.errors import InputError
from prdp_hpc.physics import Dirichlet, Neumann, Robin
from prdp_hpc.planning.workload import workload_of

SELF = MPI.COMM_SELF
BOUNDARIES = ["periodic", "dirichlet", "neumann", ("dirichlet", "neumann")]


def tight(ksp="gmres", pc="lu"):
    return NonlinearSolver(Solver(ksp, pc, 1e-12), 1e-12)


def states(grid, count=2, channels=1):
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, *grid.shape)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2.0 - 1.0


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_allen_cahn_loses_energy_and_keeps_to_its_bounds(boundary):
    grid = Grid((9, 8), boundary, SELF)
    physics = AllenCahn(grid, 0.1, 0.9, NonlinearSolver(Solver("cg", "jacobi"), 1e-10, inner=1e-3))
    u = states(grid, channels=2)
    energies = [physics.energy(u)]
    for _ in range(5):
        u = physics(u)
        energies.append(physics.energy(u))
    assert (torch.stack(energies).diff(dim=0) < 0).all()
    assert u.abs().max() <= 1.0


def test_allen_cahn_keeps_a_standing_front_to_second_order():
    # tanh(x / √2ε) stands still; mirrored in the middle of a Neumann box.
    errors = []
    for n in (20, 40, 80):
        grid, width = Grid((n,), "neumann", SELF, 2.0), 0.1
        (x,) = grid.coordinates()
        front = torch.tanh((x - 1.0) / (math.sqrt(2.0) * width))[None, None]
        physics, u = AllenCahn(grid, width, 0.5, tight("cg", "jacobi")), front
        for _ in range(10):
            u = physics(u)
        errors.append(float((u - front).abs().max()))
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


def test_allen_cahn_converges_in_dt_to_the_exact_solution_of_constant_states():
    # u' = u − u³ from 0.5: u(t)² = 1 / (1 + 3 exp(−2t)).
    exact, errors = (1.0 / (1.0 + 3.0 * math.exp(-2.0))) ** 0.5, []
    grid = Grid((3, 3), "periodic", SELF)
    for steps in (8, 16, 32):
        u = torch.full((1, 1, 3, 3), 0.5, dtype=torch.float64)
        physics = AllenCahn(grid, 0.1, 1.0 / steps, tight("cg", "jacobi"))
        for _ in range(steps):
            u = physics(u)
        errors.append(float((u - exact).abs().max()))
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.9 < errors[1] / errors[2] < 2.1


def barenblatt(x, t, m):
    """The source solution of `u_t = (|u|^m u_x)_x` in one dimension."""
    k = 1.0 / (m + 2.0)
    inside = 1.0 - k * m / 2.0 * x**2 / t ** (2.0 * k)
    return t**-k * inside.clamp(min=0.0) ** (1.0 / m)


def test_the_porous_medium_equation_has_its_source_solution():
    errors = []
    for n, steps in ((19, 4), (39, 16)):
        grid = Grid((n,), "dirichlet", SELF, 8.0)
        (x,) = grid.coordinates()
        physics = NonlinearDiffusion(grid, 1.0, 1.0 / steps, tight(), "power", 2.0)
        u = barenblatt(x - 4.0, 1.0, 2.0)[None, None]
        for _ in range(steps):
            u = physics(u)
        errors.append(float((u[0, 0] - barenblatt(x - 4.0, 2.0, 2.0)).abs().mean()))
    assert errors[1] < 1.2e-2
    assert errors[0] / errors[1] > 1.8


@pytest.mark.parametrize("dim", [1, 2])
def test_a_manufactured_steady_state_is_reached_to_second_order(dim):
    errors = []
    for n in (7, 15, 31):
        grid = Grid((n,) * dim, "dirichlet", SELF)
        x = torch.stack(grid.coordinates()).requires_grad_()
        u = torch.sin(math.pi * x).prod(dim=0)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        flux = 0.5 * (1.0 + 3.0 * u**2) * slope
        parts = [
            torch.autograd.grad(f.sum(), x, retain_graph=True)[0][i] for i, f in enumerate(flux)
        ]
        physics = NonlinearDiffusion(grid, 0.5, 1.0, tight(), exponent=3.0)
        found = physics.steady(-torch.stack(parts).sum(dim=0)[None, None])
        errors.append(float((found[0, 0] - u).detach().abs().max()))
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.7


def test_steps_of_a_decaying_solution_converge_in_dt():
    # u_t = (κ u_x)_x + f with u = exp(−t) sin(2πx), on a fine grid.
    grid = Grid((128,), "periodic", SELF)
    (x,) = grid.coordinates()
    sine, cosine, errors = torch.sin(2 * math.pi * x), torch.cos(2 * math.pi * x), []
    for steps in (4, 8, 16):
        dt = 0.5 / steps
        physics = NonlinearDiffusion(grid, 0.1, dt, tight())
        u = sine[None, None]
        for step in range(1, steps + 1):
            a = math.exp(-step * dt)
            # (0.1 (1 + a²s²) a s')' with s' = 2π c
            change = (
                0.1
                * (2 * math.pi) ** 2
                * a
                * sine
                * (2.0 * (a * cosine) ** 2 - 1.0 - (a * sine) ** 2)
            )
            u = physics(u, -a * sine - change)
        errors.append(float((u[0, 0] - math.exp(-0.5) * sine).abs().max()))
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert 1.7 < errors[1] / errors[2] < 2.4


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "robin"])
def test_conditions_on_the_sides_keep_the_order(kind):
    # −(κ u')' = f on (0, 1) with κ = 1 + u² and u = 1 + sin(x), so that κ u' at 1 is known.
    errors, u_1 = [], 1.0 + math.sin(1.0)
    flux = (1.0 + u_1**2) * math.cos(1.0)
    high = {
        "dirichlet": Dirichlet(u_1),
        "neumann": Neumann(flux),
        "robin": Robin(2.0, flux + 2.0 * u_1),
    }[kind]
    for n in (16, 32, 64):
        grid = Grid((n,), "neumann", SELF)
        (x,) = grid.coordinates()
        u, slope = 1.0 + torch.sin(x), torch.cos(x)
        source = -(2.0 * u * slope**2 - (1.0 + u**2) * torch.sin(x))
        sides = [(Dirichlet(1.0), high)]
        physics = NonlinearDiffusion(grid, 1.0, 0.1, tight(), boundaries=sides)
        found = physics.steady(source[None, None])
        errors.append(float((found[0, 0] - u).abs().max()))
        # The steady state is one of the time steps as well.
        torch.testing.assert_close(physics(found, source), found, rtol=1e-8, atol=1e-8)
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


@pytest.mark.parametrize("kind", ["allen_cahn", "diffusion"])
def test_gradients_of_what_is_given_on_the_sides_are_derivatives(kind):
    grid = Grid((4, 3), "neumann", SELF)
    numbers = torch.tensor([0.3, 0.5, 0.2, 0.4], dtype=torch.float64, requires_grad=True)
    u = states(grid, 1) * 0.5

    def step(numbers):
        low, flux, coefficient, value = numbers
        sides = [(Dirichlet(low), Neumann(flux)), (None, Robin(coefficient, value))]
        if kind == "allen_cahn":
            return AllenCahn(grid, 0.3, 0.5, tight("cg", "jacobi"), sides)(u)
        return NonlinearDiffusion(grid, 0.2, 0.5, tight(), boundaries=sides)(u)

    check_slopes(step, numbers)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("kind", ["allen_cahn", "quadratic", "power"])
def test_gradients_of_steps_are_derivatives(boundary, kind):
    grid = Grid((4, 2), boundary, SELF)
    u = (states(grid, 1) * 0.4 + (0.6 if kind == "power" else 0.0)).requires_grad_()
    number = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    source = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    source.requires_grad_()
    front = AllenCahn(grid, 1.0, 0.5, tight())
    flow = NonlinearDiffusion(grid, 1.0, 0.5, tight(), "power" if kind == "power" else "quadratic")

    def step(u, number, source=None):
        front.interface = flow.diffusivity = number
        return front(u) if kind == "allen_cahn" else flow(u, source)

    check_slopes(step, u, number, *(() if kind == "allen_cahn" else (source,)))


@pytest.mark.parametrize("shape", [(9,), (3, 4), (2, 3, 2)])
def test_newton_s_burgers_step_is_the_limit_of_picard_s_and_so_is_its_gradient(shape):
    grid = Grid(shape, "periodic", SELF)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(2, grid.dim, *shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(u.shape, generator=generator, dtype=torch.float64)
    results = []
    for options in (
        {"solver": tight()},
        {"solver": Solver("preonly", "lu"), "picard_iterations": 60},
    ):
        state = u.clone().requires_grad_()
        physics = Burgers(grid, 0.05, 0.03, **options)
        after = physics(physics(state))
        (after * weights).sum().backward()
        results.append((after.detach(), state.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda g: AllenCahn(g, 0.1, 1.0, tight()), "dt must be less than 1"),
        (lambda g: AllenCahn(g, 0.1, 0.0, tight()), "time step dt must be positive"),
        (lambda g: AllenCahn(g, 0.0, 0.5, tight()), "width of an interface"),
        (lambda g: AllenCahn(g, 0.1, 0.5, Solver()), "must be a NonlinearSolver"),
        (lambda g: NonlinearDiffusion(g, -1.0, 0.5, tight()), "diffusivity must be positive"),
        (lambda g: NonlinearDiffusion(g, 1.0, 0.5, tight(), "cubic"), "law must be one of"),
        (lambda g: NonlinearDiffusion(g, 1.0, 1.0, tight(), "power", 0.5), "at least 1"),
        (
            lambda g: NonlinearDiffusion(g, 1.0, 1.0, tight()).steady(torch.ones(1, 1, 4)),
            "Dirichlet or Robin condition",
        ),
        (lambda g: AllenCahn(g, 0.1, 0.5, tight())(torch.ones(1, 1, 5)), "local shape"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make(Grid((4,), "periodic", SELF))


def content(folder, **physics):
    return tiny.emulator(
        folder,
        grid={"shape": [8], "boundary": "periodic"},
        physics={"pde": "allen_cahn", "diffusivity": None, "interface": 0.2, "dt": 0.5, **physics},
        solver={"ksp": "cg", "pc": "jacobi"},
        data={"train": 6, "validation": 2, "modes": 2},
        training={"epochs": 4, "batch_size": 6, "learning_rate": 1e-2, "precision": "float64"},
        refinement={
            "ladder": {"kind": "iterations", "stop": 3},
            "ema_window": 1,
            "error_window": 1,
            "step_threshold": 0.5,
        },
    )


def without_none(content):
    content["physics"] = {k: v for k, v in content["physics"].items() if v is not None}
    return content


@pytest.mark.parametrize(
    ("physics", "levels"),
    [
        ({"newton": {"inner": 1e-2}}, "newton"),
        ({"newton": {"refines": "inner", "level": 2}}, "inner"),
        (
            {
                "pde": "nonlinear_diffusion",
                "diffusivity": 0.01,
                "interface": None,
                "newton": {"inner": "eisenstat_walker"},
            },
            "newton",
        ),
        (
            {
                "pde": "burgers",
                "viscosity": 0.01,
                "nonlinear": "newton",
                "interface": None,
            },
            "newton",
        ),
    ],
)
def test_an_emulator_trains_through_newton_s_method_with_prdp(tmp_path, physics, levels):
    config = without_none(content(tmp_path / "runs", **physics))
    if config["physics"]["pde"] != "allen_cahn":
        config["solver"] = {"ksp": "gmres", "pc": "jacobi"}
    found = train(tiny.write(tmp_path / "config.yaml", config))
    lines = [
        json.loads(line)
        for line in (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["level"] for line in lines] == sorted(line["level"] for line in lines)
    assert lines[-1]["level"] > 1
    assert found["error"] < lines[0]["error"]
    last = lines[-1]
    assert 0 < last["adjoint_solves"] < last["solves"] or levels == "inner"
    assert (found["savings"]["inner_iterations"] is None) == (levels == "newton")


def test_levels_of_a_config_reach_newton_s_method_or_its_linear_solves():
    grid = Grid((8,), "periodic", SELF)
    for refines in ("newton", "inner"):
        newton = {"refines": refines, "level": 3, "inner": 5}
        config = validate(without_none(content("out", newton=newton)), "here")
        physics = AllenCahn.from_config(config.physics, grid, Solver("cg", "jacobi"))
        physics.solver.refine(2, 1)
        level = Refinement(max_it=2)
        assert physics.solver.newton == (level if refines == "newton" else Refinement(max_it=3))
        inner = physics.solver.solver.refinement
        assert inner == (level if refines == "inner" else Refinement(max_it=5))
        assert physics.solver.adjoint == Refinement(max_it=5 if refines == "newton" else 1)
        # Linear iterations of a step: of a level, times the fixed part.
        assert workload_of(config, 4).solves == (5 if refines == "newton" else 3)


def test_initial_states_and_reference_solutions_are_there():
    grid = Grid((8, 8), "periodic", SELF)
    physics = NonlinearDiffusion(grid, 0.1, 0.5, NonlinearDiffusion.reference_solver(), "power")
    found = physics.initial_states(np.random.default_rng(0), 3, 2)
    assert found.shape == (3, 1, 8, 8)
    assert found.min() >= 0.0
    assert found.amax(dim=(1, 2, 3)) == pytest.approx(1.0)
    after = physics(found)
    torch.testing.assert_close(after.sum(dim=(2, 3)), found.sum(dim=(2, 3)))
    assert physics.attributes() == {"dt": 0.5, "diffusivity": 0.1, "exponent": 1.0}


@pytest.mark.parametrize(
    ("physics", "words"),
    [
        ({"dt": 1.5}, "physics.dt"),
        ({"newton": {"inner": "eisenstat_walkers"}}, "eisenstat_walker"),
        ({"newton": {"refine": "inner"}}, "refines"),
        ({"newton": {"level": 0}}, "physics.newton.level"),
        (
            {
                "pde": "nonlinear_diffusion",
                "diffusivity": 1.0,
                "interface": None,
                "law": "power",
                "exponent": 0.5,
            },
            "at least 1",
        ),
    ],
)
def test_wrong_keys_are_named(physics, words):
    with pytest.raises(ConfigError, match=words):
        validate(without_none(content("out", **physics)), "here")


def test_configs_of_picard_s_burgers_are_written_as_before():
    physics = {"pde": "burgers", "viscosity": 0.01, "interface": None}
    config = validate(without_none(content("out", **physics)), "here")
    assert set(config.physics.model_dump()) == {
        "pde",
        "viscosity",
        "dt",
        "picard_iterations",
        "gradient",
    }
    newton = validate(without_none(content("out", **physics, nonlinear="newton")), "here")
    again = validate({**newton.model_dump(mode="json")}, "here")
    assert again.physics.model_dump() == newton.physics.model_dump()
    assert again.physics.nonlinear == "newton"
