"""Accuracy: the emulator's gradient is that of its loss, through the network and K iterations of the solver."""

import h5py
import numpy as np
import pytest
import tiny
import torch

from prdp_hpc.config import validate
from prdp_hpc.data import TrajectoryFile
from prdp_hpc.grid import Grid
from prdp_hpc.learning.emulator import EmulatorTask
from prdp_hpc.learning.experiment import build_task
from prdp_hpc.learning.generate import generated_path
from prdp_hpc.linalg import Solver
from prdp_hpc.mesh import ProcessMesh


@pytest.fixture(scope="module")
def mesh():
    mesh = ProcessMesh.from_world(1)
    yield mesh
    mesh.close()


@pytest.fixture
def task_of(mesh, tmp_path):
    """A fresh task of a tiny config, at a level; the same parameters and data each time."""

    def make(level, **changes):
        config = validate(tiny.emulator(tmp_path, **changes), "here")
        task = build_task(config, mesh, Solver(config.solver.ksp, config.solver.pc))
        task.solver.refine(level)
        return task, config

    return make


# Jacobi's iteration with a constant diagonal is a symmetric polynomial of the matrix, so that K adjoint iterations are the
# exact derivative of K forward ones.
@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize(("shape", "boundary"), [([8], "dirichlet"), ([4, 4], "dirichlet"), ([4, 4], "periodic")])
def test_gradient_of_a_step_is_the_finite_difference_of_its_loss(shape, boundary, level, task_of):
    changes = {"grid": {"shape": shape, "boundary": boundary}, "training": {"batch_size": 10}}

    def loss(shift=0.0, directions=None):
        task, _ = task_of(level, **changes)
        parameters = list(task.network.parameters())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions or [], strict=False):
                parameter += shift * direction
        return task.train_epoch(1), parameters  # one batch: the loss and the gradient are those before the step

    _, parameters = loss()
    gradients = [parameter.grad for parameter in parameters]
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for seed in range(3):
        torch.manual_seed(seed)
        directions = [torch.randn_like(parameter) for parameter in parameters]
        expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
        step = 1e-5
        difference = (loss(step, directions)[0] - loss(-step, directions)[0]) / (2 * step)
        assert difference == pytest.approx(expected, rel=1e-6)


def test_loss_is_the_mean_square_against_the_second_state(task_of, mesh):
    """At convergence: P is the inverse of `I − κ dt Δ`, here with dense algebra."""
    task, config = task_of(500, training={"batch_size": 10}, physics={"dt": 0.5})
    data = TrajectoryFile(generated_path(config), (8,)).read("train").astype(np.float64)
    h = 1 / 9
    laplacian = (np.diag(np.full(7, 1.0), 1) + np.diag(np.full(7, 1.0), -1) - 2 * np.eye(8)) / h**2
    step = np.linalg.inv(np.eye(8) - 1e-2 * 0.5 * laplacian)
    np.testing.assert_allclose(data[:, 1, 0], data[:, 0, 0] @ step, atol=1e-6)
    np.testing.assert_allclose(data[:, 2, 0], data[:, 1, 0] @ step, atol=1e-6)
    with torch.no_grad():
        first = task.network(torch.from_numpy(data[:, 0])).numpy()[:, 0]
    expected = np.mean((first @ step - data[:, 2, 0]) ** 2)
    assert task.train_epoch(1) == pytest.approx(expected, rel=1e-9)


def test_validation_errors_are_those_of_the_network_alone(task_of):
    task, config = task_of(1)
    truth = TrajectoryFile(generated_path(config), (8,)).read("validation").astype(np.float64)
    state, expected = truth[:, 0], []
    for step in (1, 2):
        with torch.no_grad():
            state = task.network(torch.from_numpy(state)).numpy()
        squares = [np.sum(field**2, axis=(1, 2)) for field in (state - truth[:, step], truth[:, step - 1])]
        expected.append(np.mean(squares[0] / squares[1]))
    errors = task.validate()
    assert [errors["error_1"], errors["error_2"]] == pytest.approx(expected, rel=1e-12)
    assert errors["error"] == errors["error_2"]


def test_an_epochs_loss_is_the_mean_over_batches_of_any_size(task_of):
    """The learning rate is so small that the network stays as it is."""
    losses = {}
    for batch_size in (1, 5, 10):
        task, _ = task_of(2, training={"batch_size": batch_size, "learning_rate": 1e-14})
        losses[batch_size] = task.train_epoch(1)
    assert losses[1] == pytest.approx(losses[10], rel=1e-9)
    assert losses[5] == pytest.approx(losses[10], rel=1e-9)


def test_learning_rate_decays_with_steps(task_of):
    task, _ = task_of(1, training={"decay": 0.5, "decay_steps": 10, "batch_size": 1, "learning_rate": 0.1})
    for epoch in (1, 2):
        task.train_epoch(epoch)
    (group,) = task.state_dict()["optimiser"]["param_groups"]
    assert group["lr"] == pytest.approx(0.1 * 0.5**2)


def test_data_with_too_few_steps(mesh, tmp_path):
    path = tmp_path / "short.h5"
    with h5py.File(path, "w") as file:
        for group in ("train", "validation"):
            file.create_dataset(f"{group}/trajectories", data=np.ones((3, 2, 8)))
    config = validate(tiny.emulator(tmp_path, data={"file": str(path)}), "here")
    with pytest.raises(ValueError, match=r"short.h5: data set train/trajectories has 1 step\(s\), training needs 2"):
        EmulatorTask(config, mesh, Grid([8], comm=mesh.grid_comm), TrajectoryFile(path, (8,)), Solver())


def test_each_epoch_has_its_own_order(task_of):
    networks = []
    for epoch in (1, 1, 2):
        task, _ = task_of(1, training={"batch_size": 3})
        task.train_epoch(epoch)
        networks.append(torch.nn.utils.parameters_to_vector(task.network.parameters()))
    assert torch.equal(networks[0], networks[1])
    assert not torch.allclose(networks[0], networks[2], rtol=1e-6)
