"""Accuracy: the gradient of the emulator is that of its loss, through the network and K iterations
of the solver.
"""

from functools import partial

import h5py
import numpy as np
import pytest
import tiny
import torch
from differences import check_gradient

from prdp_hpc.config import validate
from prdp_hpc.data import TrajectoryFile
from prdp_hpc.experiments.build import ConfigParts
from prdp_hpc.generation.generate import generated_path
from prdp_hpc.tasks.emulator import Emulator

BURGERS = {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05}


@pytest.fixture
def task_of(make_task):
    return partial(make_task, tiny.emulator)


# Jacobi's iteration with a constant diagonal is a symmetric polynomial of the matrix, so that K
# adjoint iterations are the exact derivative of K forward ones.
@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize(
    ("shape", "boundary"), [([8], "dirichlet"), ([4, 4], "dirichlet"), ([4, 4], "periodic")]
)
def test_gradient_of_a_step_is_the_finite_difference_of_its_loss(shape, boundary, level, task_of):
    changes = {"grid": {"shape": shape, "boundary": boundary}, "training": {"batch_size": 10}}

    check_gradient(lambda: task_of(level, **changes)[0])


def test_loss_is_the_mean_square_against_the_second_state(task_of, mesh):
    """For converged solves: P is the inverse of `I − κ dt Δ`, here with dense algebra."""
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
        squares = [
            np.sum(field**2, axis=(1, 2)) for field in (state - truth[:, step], truth[:, step - 1])
        ]
        expected.append(np.mean(squares[0] / squares[1]))
    errors = task.validate()
    assert [errors["error_1"], errors["error_2"]] == pytest.approx(expected, rel=1e-12)
    assert errors["error"] == errors["error_2"]


def test_an_epochs_loss_is_the_mean_over_batches_of_any_size(task_of):
    """The learning rate is so small that the network does not change."""
    losses = {}
    for batch_size in (1, 5, 10):
        task, _ = task_of(2, training={"batch_size": batch_size, "learning_rate": 1e-14})
        losses[batch_size] = task.train_epoch(1)
    assert losses[1] == pytest.approx(losses[10], rel=1e-9)
    assert losses[5] == pytest.approx(losses[10], rel=1e-9)


def test_learning_rate_decays_with_steps(task_of):
    task, _ = task_of(
        1, training={"decay": 0.5, "decay_steps": 10, "batch_size": 1, "learning_rate": 0.1}
    )
    for epoch in (1, 2):
        task.train_epoch(epoch)
    (group,) = task.state_dict()["optimiser"]["param_groups"]
    assert group["lr"] == pytest.approx(0.1 * 0.5**2)


def test_learning_rate_on_half_a_cosine_wave(task_of):
    """The values of optax.cosine_decay_schedule(0.1, 20, alpha=0.25) at steps 0, 10, 20 and 30."""
    section = {
        "schedule": "cosine",
        "decay": 0.25,
        "decay_steps": 20,
        "batch_size": 1,
        "learning_rate": 0.1,
    }
    task, _ = task_of(1, training=section)
    rates = []
    for epoch in range(4):
        rates.append(task.state_dict()["optimiser"]["param_groups"][0]["lr"])
        task.train_epoch(epoch)
    assert rates == pytest.approx([0.1, 0.0625, 0.025, 0.025])


@pytest.mark.parametrize(
    ("physics", "shape", "boundary", "network"),
    [
        ({}, [4, 4, 4], "dirichlet", {"kind": "resnet", "channels": 3, "blocks": 1}),
        ({}, [6, 5], "neumann", {"kind": "resnet", "channels": 3, "blocks": 1}),
        (BURGERS, [16], "periodic", {"kind": "mlp", "hidden": [8]}),
        (BURGERS, [8, 6], "periodic", {"kind": "resnet", "channels": 3, "blocks": 1}),
    ],
)
def test_networks_learn_on_one_to_three_axes(physics, shape, boundary, network, task_of):
    changes = {
        "grid": {"shape": shape, "boundary": boundary},
        "network": network,
        "training": {"learning_rate": 3e-3},
    }
    solver = {"ksp": "gmres", "pc": "jacobi"} if physics else {"ksp": "richardson", "pc": "jacobi"}
    task, config = task_of(20, **changes, solver=solver, physics=physics)
    assert type(task.network).__name__.lower() == network["kind"]
    losses = [task.train_epoch(epoch) for epoch in range(1, 13)]
    assert losses[-1] < 0.8 * losses[0]
    assert task.validate()["error"] > 0
    components = len(shape) if physics else 1
    assert (
        task.solver.report.adjoint.solves
        == task.solver.report.forward.solves
        == 12 * config.data.train * components
    )


def test_data_with_too_few_steps(mesh, tmp_path):
    path = tmp_path / "short.h5"
    with h5py.File(path, "w") as file:
        for group in ("train", "validation"):
            file.create_dataset(f"{group}/trajectories", data=np.ones((3, 2, 8)))
    config = validate(tiny.emulator(tmp_path, data={"file": str(path)}), "here")
    with pytest.raises(
        ValueError, match=r"short.h5: its trajectories have 1 step\(s\), but the task needs 2"
    ):
        Emulator.from_config(None, ConfigParts(config, mesh))


def test_each_epoch_has_its_own_order(task_of):
    networks = []
    for epoch in (1, 1, 2):
        task, _ = task_of(1, training={"batch_size": 3})
        task.train_epoch(epoch)
        networks.append(torch.nn.utils.parameters_to_vector(task.network.parameters()))
    assert torch.equal(networks[0], networks[1])
    assert not torch.allclose(networks[0], networks[2], rtol=1e-6)
