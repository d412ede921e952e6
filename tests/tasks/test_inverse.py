"""Accuracy: the inverse problem finds the parameters, and PRDP needs fewer iterations than full
refinement.
"""

import numpy as np
import pytest
import tiny

from prdp_hpc.config import load_config, validate
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_task
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.linalg import Solver


@pytest.fixture(scope="module")
def mesh():
    mesh = ProcessMesh.from_world(1)
    yield mesh
    mesh.close()


def test_the_papers_problem_converges_with_fewer_iterations(mesh, tmp_path):
    path = tiny.REPOSITORY / "configs" / "poisson_inverse.yaml"
    runs = {}
    for schedule in ("prdp", "constant"):
        config = load_config(path, [f"refinement.schedule={schedule}", "training.epochs=120"])
        runs[schedule] = run_experiment(config, mesh, tmp_path / schedule)
        assert runs[schedule]["parameters"] == pytest.approx([2.0], rel=1e-2)
        assert runs[schedule]["error"] < 1e-2
    assert runs["constant"]["inner_iterations"] == 2 * 120 * 600
    assert runs["prdp"]["inner_iterations"] < 0.7 * runs["constant"]["inner_iterations"]
    saved = 1 - runs["prdp"]["inner_iterations"] / runs["constant"]["inner_iterations"]
    assert runs["prdp"]["savings"]["inner_iterations"] == pytest.approx(saved)
    assert runs["constant"]["savings"]["inner_iterations"] == 0.0
    levels = [row["level"] for row in tiny.rows(tmp_path / "prdp")]
    assert levels[0] == 25
    assert levels == sorted(levels)
    assert set(levels) <= set(range(25, 601, 10))


@pytest.mark.parametrize("modes", [1, 3])
def test_gradient_is_the_finite_difference_of_the_loss(modes, mesh, tmp_path):
    """K iterations in both directions: the matrix has a constant diagonal, see the test of the
    emulator.
    """

    def epoch(start):
        section = {"modes": modes, "reference": [2.0, -1.0, 0.5][:modes], "start": start}
        config = validate(
            tiny.inverse(tmp_path, inverse=section, training={"learning_rate": 1.0}), "here"
        )
        task = build_task(config, mesh, Solver("richardson", "jacobi", 7))
        return task.train_epoch(1), task.validate()["parameters"]

    start = [5.0, 1.0, -2.0][:modes]
    _, after = epoch(start)
    for m in range(modes):
        step = 1e-3  # the loss is quadratic, so central differences are exact
        up, down = (
            [value + sign * step * (i == m) for i, value in enumerate(start)] for sign in (1, -1)
        )
        difference = (epoch(up)[0] - epoch(down)[0]) / (2 * step)
        assert start[m] - after[m] == pytest.approx(difference, rel=1e-7)


def test_three_parameters_are_found(mesh, tmp_path):
    section = {"modes": 3, "reference": [2.0, -1.0, 0.5], "start": [0.0, 0.0, 0.0]}
    training = {"epochs": 200, "learning_rate": 2000.0}
    changes = {
        "solver": {"ksp": "cg", "pc": "none"},
        "refinement": {"schedule": "constant", "level": 1e-10},
    }
    config = validate(tiny.inverse(tmp_path, inverse=section, training=training, **changes), "here")
    summary = run_experiment(config, mesh, tmp_path / "three")
    assert summary["parameters"][0] == pytest.approx(2.0, rel=1e-6)
    assert summary["error"] < 0.3
    errors = [row["error"] for row in tiny.rows(tmp_path / "three")]
    assert errors == sorted(errors, reverse=True)


def test_loss_is_the_papers(mesh, tmp_path):
    """`‖u(5) − u(2)‖² / (2 n)` by dense algebra."""
    task = build_task(validate(tiny.inverse(tmp_path), "here"), mesh, Solver("cg", "jacobi", 1e-13))
    n, h = 8, 1 / 9
    laplacian = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) / h**2
    difference = np.linalg.solve(laplacian, (5 - 2) * np.sin(2 * np.pi * h * np.arange(1, n + 1)))
    assert task.train_epoch(1) == pytest.approx(difference @ difference / (2 * n), rel=1e-10)
