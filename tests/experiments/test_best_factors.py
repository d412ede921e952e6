"""Correctness: a wrong number is found although another scheme computed the data."""

import numpy as np
import pytest
import yaml
from mpi4py import MPI

from prdp_hpc import Grid, NavierStokes
from prdp_hpc.cli import main
from prdp_hpc.experiments.best_factors import best_factor
from prdp_hpc.experiments.inspected import inspect_data
from prdp_hpc.experiments.physics_residual import FACTORS
from prdp_hpc.physics.stepper import initial_states

pytestmark = pytest.mark.xdist_group("best_factors")  # One worker makes what all tests use.

VISCOSITY, DT, POINTS = 0.01, 0.02, 16


def residuals(errors, effects, right, factor):
    """Of states whose next ones are those of the factor `right`, with the errors of a scheme."""
    return [
        [float(np.linalg.norm(error + (factor - right) * effect)) for error in channels]
        for channels, effect in zip(errors, effects, strict=True)
    ]


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("right", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_errors_that_are_not_parallel_to_an_effect_do_not_hide_it(right, size):
    random = np.random.default_rng(1)
    effects = random.standard_normal((3, 200))
    errors = size * random.standard_normal((3, 2, 200))
    # A second channel with much larger errors, as those of a pressure.
    errors[:, 1] *= 100
    for state in range(3):
        unit = effects[state] / np.linalg.norm(effects[state])
        errors[state] -= np.outer(errors[state] @ unit, unit)
    found = best_factor(
        "viscosity",
        residuals(errors, effects, right, 1.0),
        {factor: residuals(errors, effects, right, factor) for factor in FACTORS.values()},
    )
    assert found.factors == pytest.approx([right] * 3, rel=0.05)
    assert found.agrees
    assert found.is_wrong == (right != 1.0)


def test_states_that_contradict_each_other_do_not_name_a_factor():
    changed = {0.5: [[0.9], [1.1], [1.0]], 2.0: [[1.1], [0.9], [np.nan]]}
    found = best_factor("dt", [[1.0], [1.0], [1.0]], changed)
    assert not found.agrees
    assert not found.is_wrong
    assert best_factor("dt", [[1.0]], {}) is None
    assert best_factor("dt", [[np.nan]], {0.5: [[np.nan]], 2.0: [[np.nan]]}) is None


@pytest.fixture(scope="module")
def collocated(tmp_path_factory):
    """Navier–Stokes with the velocities at the points of the pressure, as in The Well."""
    grid = Grid((POINTS, POINTS), "periodic", MPI.COMM_SELF)
    stepper = NavierStokes(grid, VISCOSITY, DT, NavierStokes.reference_solver())
    states = [initial_states(stepper, np.random.default_rng(3), 2, 4)]
    for _ in range(4):
        states.append(stepper(states[-1]))
    found = np.stack([state.numpy() for state in states], axis=1)
    for channel, axis in ((0, 3), (1, 2)):
        found[:, :, channel] += np.roll(found[:, :, channel], 1, axis=axis)
        found[:, :, channel] /= 2
    path = tmp_path_factory.mktemp("collocated") / "a.npy"
    np.save(path, found.astype("f4"))
    return path


@pytest.mark.parametrize(
    ("key", "factor"), [("dt", 1.0), ("dt", 2.0), ("dt", 0.1), ("viscosity", 10.0)]
)
def test_wrong_numbers_are_named_for_velocities_at_cell_centres(
    key, factor, collocated, tmp_path, capsys
):
    physics = {"pde": "navier_stokes", "viscosity": VISCOSITY, "dt": DT}
    physics[key] *= factor
    grid = {"shape": [POINTS, POINTS], "boundary": "periodic"}
    content = {"task": "emulator", "name": "a", "grid": grid, "physics": physics}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    found = inspect_data(collocated, MPI.COMM_SELF, config).residual
    assert found.residual > 0.5
    wrong = {one.key: one.factors for one in found.wrong}
    if factor == 1.0:
        assert wrong == {}
        return
    assert found.better is None
    assert wrong[key] == pytest.approx([1 / factor] * 3, rel=0.5)
    if key == "dt":
        return  # The command computes it again, and its words are the same.
    main(["inspect", str(collocated), "--config", str(config)])
    assert f"fit best with {key} ×" in " ".join(capsys.readouterr().out.split())


def test_exchanged_velocities_at_cell_centres_are_named(collocated, tmp_path, capsys):
    """The error of another scheme keeps the residual of the right order above that of no step."""
    np.save(tmp_path / "a.npy", np.load(collocated)[:, :, [1, 0, 2]])
    keys = [f"physics.viscosity={VISCOSITY}", f"physics.dt={DT}", "grid.boundary=periodic"]
    given = ["physics.pde=navier_stokes", *keys]
    found = inspect_data(tmp_path / "a.npy", MPI.COMM_SELF, overrides=given).residual
    assert found.better is None
    assert not found.confirmed
    assert (found.wrong, found.undetermined) == ((), ())
    assert {(1, 0, 2), (1, 0)} & {one.channels or one.axes for one, _ in found.likelier}
    main(["inspect", str(tmp_path / "a.npy"), *given])
    assert "all states fit better with the" in " ".join(capsys.readouterr().out.split())
