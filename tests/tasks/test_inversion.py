"""Accuracy of field inversion: its loss and gradient against dense algebra and finite differences,
its data, its optimisers, and that a resumed run equals an uninterrupted one.
"""

import json

import numpy as np
import pytest
import tiny
import torch
from differences import check_gradient

from prdp_hpc.config import ConfigError, load_config, validate
from prdp_hpc.data import DataError
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.experiments.evaluation import evaluate
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.physics import Poisson
from prdp_hpc.tasks.inversion.experiments import (
    Experiments,
    FieldObservations,
    PointObservations,
)
from prdp_hpc.tasks.inversion.physics import Conductivity
from prdp_hpc.tasks.inversion.positions import Positions
from prdp_hpc.tasks.inversion.synthetic import noise, random_wells, well_sources
from prdp_hpc.tasks.inversion.task import FieldInversion
from prdp_hpc.tasks.inversion.truth import synthetic_field


def dense_laplacian(kappa, h):
    """`−∇·(κ ∇u)` on inner points with value 0 outside; κ at faces is the mean, at walls that of
    the point.
    """
    n = kappa.shape[0]
    matrix = np.zeros((n, n, n, n))
    for i in range(n):
        for j in range(n):
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                a, b = i + di, j + dj
                inside = 0 <= a < n and 0 <= b < n
                face = 0.5 * (kappa[i, j] + kappa[a, b]) if inside else kappa[i, j]
                matrix[i, j, i, j] += face / h**2
                if inside:
                    matrix[i, j, a, b] -= face / h**2
    return matrix.reshape(n * n, n * n)


def dense_h1(m, h, weight):
    return 0.5 * weight * h**2 * sum((np.diff(m, axis=a) ** 2).sum() / h**2 for a in (0, 1))


def dense_tv(m, h, weight, smoothing):
    squares = np.zeros_like(m)
    squares[:-1] += np.diff(m, axis=0) ** 2 / h**2
    squares[:, :-1] += np.diff(m, axis=1) ** 2 / h**2
    return weight * h**2 * (np.sqrt(squares + smoothing**2) - smoothing).sum()


@pytest.mark.parametrize("kind", ["h1", "tv"])
@pytest.mark.parametrize("points", [5, None])
def test_loss_is_misfit_and_regularisation_by_dense_algebra(kind, points, make_task):
    task, _ = make_task(
        tiny.field_inversion,
        1e-12,
        regularisation={"kind": kind, "weight": 3.0},
        experiments={"points": points},
    )
    h, m = 1 / 9, 0.3 * torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        task.unknown.parameters[0].copy_(m)
    some = task._experiments
    inverse = np.linalg.inv(dense_laplacian(m.exp().numpy(), h))
    u = some.sources.reshape(some.count, -1).numpy() @ inverse.T
    observed = some.observe(torch.from_numpy(u).reshape(some.sources.shape)).numpy()
    misfit = 0.5 * (((observed - some.data.numpy()) / some.noise) ** 2).sum()
    known = dense_h1(m.numpy(), h, 3.0) if kind == "h1" else dense_tv(m.numpy(), h, 3.0, 0.1)

    assert some.count == 3
    assert task._evaluate() == pytest.approx(misfit + known, rel=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"regularisation": {"kind": "tv"}, "experiments": {"points": None}},
        {"unknown": {"kind": "network", "features": 3, "hidden": [4]}},
        {"grid": {"shape": [5, 4, 6], "boundary": "neumann"}, "experiments": {"points": 3}},
    ],
)
def test_gradient_is_the_finite_difference_of_the_loss(changes, make_task):
    task, _ = make_task(tiny.field_inversion, 1e-13, **changes)
    generator = torch.Generator().manual_seed(3)
    start = [
        0.2 * torch.randn(p.shape, generator=generator).double() for p in task.unknown.parameters
    ]
    along = [torch.randn(p.shape, generator=generator).double() for p in start]

    def loss(shift):
        with torch.no_grad():
            for parameter, own, direction in zip(
                task.unknown.parameters, start, along, strict=True
            ):
                parameter.copy_(own + shift * direction)
        return task._evaluate()

    loss(0.0)
    gradient = task.gradient()
    expected = torch.dot(gradient, torch.cat([direction.reshape(-1) for direction in along]))
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert difference == pytest.approx(expected.item(), rel=1e-5)


def test_interpolation_is_exact_for_linear_fields_and_its_transpose_keeps_the_rates():
    grid = Grid((7, 9), "neumann", length=(1.0, 2.0))
    x, y = grid.coordinates()
    positions = Positions(grid, [[0.31, 0.7], [0.5, 1.9 - 1 / 9], [1 / 14, 1 / 9]])
    values = positions.values(2 * x - 3 * y + 1)
    expected = 2 * positions.points[:, 0] - 3 * positions.points[:, 1] + 1
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    rates = torch.tensor([1.0, -2.0, 0.5]).double()
    field = positions.sources(rates)
    assert field.sum().item() * np.prod(grid.spacing) == pytest.approx(-0.5)
    test = torch.rand(grid.local_shape).double()
    products = [
        (field * test).sum() * np.prod(grid.spacing),
        (rates * positions.values(test)).sum(),
    ]
    assert products[0].item() == pytest.approx(products[1].item(), rel=1e-12)
    with pytest.raises(InputError, match=r"position 1, \[0.5, 2.5\], lies outside"):
        Positions(grid, [[0.5, 0.5], [0.5, 2.5]])


def test_noise_has_the_given_standard_deviation():
    grid = Grid((20, 30))
    for observe in (
        FieldObservations(grid),
        PointObservations(Positions(grid, [[0.5, 0.5]] * 600)),
    ):
        found = noise(grid, observe, 50, seed=1)
        assert found.std().item() == pytest.approx(1.0, abs=0.02)
        assert abs(found.mean().item()) < 0.02
        assert not torch.equal(found[0], found[1])


def test_synthetic_fields_do_not_depend_on_the_grid_and_have_their_contrast():
    fine, coarse = (Grid((n,)) for n in (199, 99))
    field = synthetic_field(fine, "gaussian", 100.0, 3.0, 64, seed=2)
    torch.testing.assert_close(field[1::2], synthetic_field(coarse, "gaussian", 100.0, 3.0, 64, 2))
    assert field.std().item() == pytest.approx(np.log(100) / 4, rel=0.3)
    channels = synthetic_field(fine, "channels", 1000.0, 3.0, 64, seed=2)
    assert channels.unique().tolist() == pytest.approx([-np.log(1000) / 2, np.log(1000) / 2])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("unknown", ["field", "network"])
def test_both_searches_find_the_field_from_whole_solutions(optimizer, unknown, mesh, tmp_path):
    changes = {
        "unknown": {"kind": unknown} | ({"bandwidth": 0.5} if unknown == "network" else {}),
        "experiments": {"points": None, "noise": 1e-3, "wells": 16},
        "training": {
            "optimizer": optimizer,
            "epochs": 20,
            "learning_rate": 0.05 if unknown == "field" else 0.005,
        },
        "truth": {"waves": 0.5, "contrast": 10.0},
        "refinement": {"schedule": "constant"},
    }
    config = validate(tiny.field_inversion(tmp_path, **changes), "here")
    summary = run_experiment(config, mesh, tmp_path / "run")
    assert summary["error_field"] < 0.5
    first = tiny.rows(tmp_path / "run")[0]
    assert first["error_field"] == pytest.approx(1.0)
    assert summary["error"] < 0.3 * first["error"]
    kept = np.load(tmp_path / "run" / "fields.npz")
    error = np.linalg.norm(kept["log_permeability"] - kept["truth"])
    assert error / np.linalg.norm(kept["truth"]) == pytest.approx(summary["error_field"])
    # Evaluations of line searches are counted too: a solve for each of 3 experiments, and an
    # adjoint solve for each.
    assert summary["solves"] == 6 * summary["evaluations"]
    assert summary["evaluations"] == 40 if optimizer == "adam" else summary["evaluations"] > 40


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_resumed_optimisation_has_the_same_numbers(optimizer, mesh, tmp_path):
    def config(epochs):
        training = {"optimizer": optimizer, "epochs": epochs}
        solver = {"ksp": "cg", "pc": "icc", "lag_preconditioner": "auto", "initial_guess": "last"}
        return validate(tiny.field_inversion(tmp_path, training=training, solver=solver), "here")

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_experiment(config(5), mesh, whole)
    run_experiment(config(3), mesh, stopped)
    run_experiment(config(5), mesh, stopped, resume=True)
    # The preconditioner is set up again, for the previous values.
    assert tiny.rows(stopped, "set_ups") == tiny.rows(whole, "set_ups")
    fields = [np.load(folder / "fields.npz")["log_permeability"] for folder in (whole, stopped)]
    assert np.array_equal(*fields)


def test_fields_sources_and_measurements_from_a_file(mesh, tmp_path):
    """Data from a script, with dense algebra and given wells; with and without a known truth."""
    generator = np.random.default_rng(0)
    m = generator.normal(0, 0.3, (8, 8))
    sources = generator.normal(0, 1, (3, 8, 8))
    solutions = np.linalg.solve(dense_laplacian(np.exp(m), 1 / 9), sources.reshape(3, -1).T).T
    points = np.array([[2 / 9, 3 / 9], [5 / 9, 5 / 9], [8 / 9, 1 / 9]])
    index = [1 * 8 + 2, 4 * 8 + 4, 7 * 8 + 0]
    arrays = {
        "log_permeability": m,
        "sources": sources,
        "observations": solutions[:, index],
        "positions": points,
        "noise": np.array([0.1, 0.2, 0.3]),
    }
    np.savez(tmp_path / "own.npz", **arrays)
    changes = {
        "experiments": {"file": str(tmp_path / "own.npz")},
        "validation": {"experiments": 1},
        "unknown": {"kind": "field", "start": 0.1},
    }
    config = validate(tiny.field_inversion(tmp_path, **changes), "here")
    task = build_task(config, mesh)
    with torch.no_grad():
        task.unknown.parameters[0].copy_(torch.from_numpy(m))
    found = task.validate()
    # The last experiment is held out; the true field predicts it.
    assert found["error_field"] == 0.0
    assert found["error"] < 1e-5
    del arrays["log_permeability"]
    np.savez(tmp_path / "own.npz", **arrays)
    summary = run_experiment(config, mesh, tmp_path / "run")
    assert "error_field" not in summary
    assert evaluate(tmp_path / "run")["error"] == pytest.approx(summary["error"], rel=1e-9)
    np.savez(tmp_path / "own.npz", **{**arrays, "sources": sources[:, :4]})
    with pytest.raises(DataError, match=r"sources must have the shape \(3, 8, 8\), not"):
        build_task(config, mesh)


def test_values_on_sides_that_differ_between_experiments(mesh):
    """The solution of Laplace's equation between two values is linear for any coefficient without
    sources.
    """
    grid = Grid((6, 5), "neumann", mesh.grid_comm)
    from prdp_hpc.physics.boundaries import Dirichlet

    sides = [(Dirichlet(0.0), Dirichlet(0.0)), None]
    physics = Conductivity(Poisson(grid, Solver("cg", "none", 1e-13), boundaries=sides))
    values = torch.tensor([1.0, -2.0]).double()
    own = {(0, "high"): values.reshape(2, 1, 1).expand(2, *grid.face_shape(0, "high"))}
    found = physics(torch.ones(6, 5).double(), torch.zeros(2, 6, 5).double(), own)
    x = grid.coordinates()[0]
    torch.testing.assert_close(found, values.reshape(2, 1, 1) * x)


def test_a_user_defined_pde_in_a_script(mesh, tmp_path):
    """`κ u = f`: all results are known analytically."""

    class Local:
        def __init__(self, grid, solver):
            self.grid, self.solver = grid, solver

        def __call__(self, kappa, sources):
            return sources / kappa

    grid = Grid((6,), comm=mesh.grid_comm)
    sources, m = torch.rand(2, 6).double() + 1, torch.linspace(-1, 1, 6).double()
    some = Experiments(sources, FieldObservations(grid), sources / m.exp(), 0.1)
    task = FieldInversion(Local(grid, Solver()), some, mesh, truth=m, learning_rate=0.05, steps=200)
    task.train_epoch(1)
    assert task.validate()["error_field"] < 1e-2
    with pytest.raises(InputError, match="need data of shape"):
        Experiments(sources, FieldObservations(grid), sources[:1], 0.1)
    with pytest.raises(InputError, match="standard deviation"):
        Experiments(sources, FieldObservations(grid), sources, 0.0)


def test_wells_are_the_same_for_any_grid():
    one, other = (random_wells(Grid(shape), 2, 4, seed=3) for shape in ((8, 8), (16, 12)))
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a.positions, b.positions)
    sources = well_sources(Grid((40, 40)), one)
    assert sources.sum(dim=(1, 2)).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": {"kind": "fractal"}}, "truth.kind: .*gaussian"),
        ({"truth": {"contrast": 1.0}}, "truth.contrast: "),
        ({"training": {"optimizer": "lbfg"}}, "training.optimizer: 'lbfg' is not known"),
        ({"regularisation": {"kind": "tv", "smooth": 1}}, "smooth: unknown key; .*'smoothing'"),
        ({"validation": {"experiments": 5}}, "leaves none of the 5 experiments"),
        ({"validation": {"points": 0.5}}, "either whole experiments or a share"),
        ({"experiments": {"sides": [{"axis": 0, "end": "low", "values": [1]}]}}, "1 values for 5"),
        ({"physics": {"pde": "heat"}}, "physics.pde: 'heat' is not known"),
    ],
)
def test_invalid_configs_are_reported(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate(tiny.field_inversion(tmp_path, **changes), "here")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiments": {"file": "nowhere.h5"}}, "nowhere.h5: cannot be read"),
        ({"experiments": {"points": [[0.5, 1.5]]}}, "position 0, .* lies outside of the domain"),
        ({"validation": {"experiments": 0, "points": 0.01}}, "is none or all of them"),
        (
            {"training": {"optimizer": "torch.optim:LBFGS"}},
            "give optimizer: lbfgs, which computes them over all ranks",
        ),
        (
            {"training": {"schedule": {"kind": "StepLR", "step_size": 2}}},
            "training.schedule: StepLR is for tasks that train a network",
        ),
    ],
)
def test_mismatches_with_grid_or_file_are_reported(changes, message, mesh, tmp_path):
    config = validate(tiny.field_inversion(tmp_path, **changes), "here")
    with pytest.raises(InputError, match=message):
        build_task(config, mesh)


def test_sensors_can_be_held_out(make_task):
    task, _ = make_task(tiny.field_inversion, 1e-10, validation={"experiments": 0, "points": 0.2})
    counts = [len(some.observe.positions.points) for some in (task._experiments, task._validation)]
    assert counts == [20, 5]
    assert task._experiments.count == 5


def test_data_can_be_made_on_a_finer_grid(make_task):
    same, _ = make_task(tiny.field_inversion, 1e-10)
    finer, _ = make_task(tiny.field_inversion, 1e-10, experiments={"reference_factor": 3})
    one, other = (task._experiments.data for task in (same, finer))
    assert 1e-3 < (one - other).norm() / one.norm() < 0.6


def test_shipped_configs_are_valid():
    for path in sorted((tiny.REPOSITORY / "configs").glob("field_inversion*.yaml")):
        config = load_config(path)
        assert config.task == "field_inversion"
        assert json.dumps(config.model_dump(mode="json"))


@pytest.mark.parametrize("points", [None, 5])
def test_amortised_gradient_is_the_finite_difference_of_its_loss(points, make_task):
    changes = {"experiments": {"points": points}, "training": {"batch_size": 8}}
    check_gradient(lambda: make_task(tiny.amortised_inversion, 1e-13, **changes)[0], 1)


def test_amortised_inversion_learns_and_resumes(mesh, tmp_path):
    def config(epochs):
        content = tiny.amortised_inversion(tmp_path, training={"epochs": epochs})
        return validate(content, "here")

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    summary = run_experiment(config(12), mesh, whole)
    rows = tiny.rows(whole)
    assert rows[-1]["loss"] < 0.7 * rows[1]["loss"]
    run_experiment(config(2), mesh, stopped)
    run_experiment(config(12), mesh, stopped, resume=True)
    assert tiny.rows(stopped) == rows
    assert evaluate(whole)["error"] == summary["error"]


def test_an_amortised_inversion_rejects_unsupported_keys(tmp_path):
    for changes, message in (
        ({"experiments": {"file": "own.h5"}}, "file, sides and reference_factor are not supported"),
        ({"network_inputs": ["coordinates"]}, "network_inputs: .* has no further inputs"),
        ({"data": {"trained": 3}}, "data.trained: unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(tiny.amortised_inversion(tmp_path, **changes), "here")
