"""Accuracy: loss, gradient and errors of the corrector are those of the unrolled `u ← P(u) +
net(P(u))`.
"""

from functools import partial

import h5py
import numpy as np
import pytest
import tiny
import torch
from differences import check_gradient

from prdp_hpc.data import DataError, TrajectoryFile
from prdp_hpc.generation.generate import generated_path

FLOWS = {
    "burgers": (
        {"pde": "burgers", "viscosity": 1e-2, "dt": 0.05},
        {"ksp": "gmres", "pc": "jacobi"},
    ),
    "navier_stokes": (
        {"pde": "navier_stokes", "viscosity": 1e-2, "dt": 0.1},
        {"ksp": "gmres", "pc": "constraint"},
    ),
}


@pytest.fixture
def task_of(make_task):
    return partial(make_task, tiny.corrector)


def store(path, array):
    with h5py.File(path, "w") as file:
        file.create_dataset("train/trajectories", data=array)
        file.create_dataset("validation/trajectories", data=array)
    return {"file": str(path)}


def heat_step(n, coefficient):
    """The inverse of `I − κ dt Δ` on n inner points of (0, 1)."""
    laplacian = (np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1) - 2 * np.eye(n)) * (
        n + 1
    ) ** 2
    return np.linalg.inv(np.eye(n) - coefficient * laplacian)


def corrected(network, coarse):
    with torch.no_grad():
        return coarse + network(torch.from_numpy(coarse)).numpy()


# See test_emulator.py on why the derivative of K Jacobi iterations is exact.
@pytest.mark.parametrize(("unroll", "level"), [(1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize(
    "network", [{"kind": "mlp", "hidden": [8]}, {"kind": "resnet", "channels": 3, "blocks": 1}]
)
def test_gradient_of_a_step_is_the_finite_difference_of_its_loss(network, unroll, level, task_of):
    smooth = {**network, "activation": "tanh"}
    changes = {"corrector": {"unroll": unroll}, "training": {"batch_size": 10}, "network": smooth}
    check_gradient(lambda: task_of(level, **changes)[0])


def test_bfloat16_is_float32_to_its_eight_bits(task_of):
    """The gradient of the network only; it adds a correction to a state and a loss in float32."""
    resnet = {"kind": "resnet", "channels": 16, "blocks": 2}
    losses, gradients = {}, {}
    for precision in ("float32", "bfloat16"):
        task, _ = task_of(3, network=resnet, training={"precision": precision, "batch_size": 10})
        losses[precision] = task.train_epoch(1)
        parameters = list(task.network.parameters())
        assert {p.dtype for p in parameters} == {torch.float32}
        gradients[precision] = torch.cat([p.grad.flatten() for p in parameters])
    assert 0 < abs(losses["bfloat16"] / losses["float32"] - 1) < 2**-6
    error = torch.linalg.vector_norm(gradients["bfloat16"] - gradients["float32"])
    assert error < 0.05 * torch.linalg.vector_norm(gradients["float32"])


@pytest.mark.parametrize("unroll", [1, 3])
def test_loss_is_the_sum_of_the_steps_mean_squares(unroll, task_of):
    task, config = task_of(
        500, corrector={"unroll": unroll, "validation_steps": [1, 3]}, training={"batch_size": 10}
    )
    data = TrajectoryFile(generated_path(config), (8,)).read("train").astype(np.float64)
    state, expected, step = data[:, 0], 0.0, heat_step(8, 1e-2)
    for s in range(1, unroll + 1):
        state = corrected(task.network, state @ step)
        expected += np.mean((state - data[:, s]) ** 2)
    assert task.train_epoch(1) == pytest.approx(expected, rel=1e-9)
    # the first step starts from data, which need no gradient
    report = task.solver.report
    assert (report.forward.solves, report.adjoint.solves) == (10 * unroll, 10 * (unroll - 1))


def test_validation_has_full_refinement_and_a_separate_solver(task_of):
    task, config = task_of(
        1, refinement={"level": 1e-12}, corrector={"validation_steps": [1, 2, 5]}
    )
    truth = TrajectoryFile(generated_path(config), (8,)).read("validation").astype(np.float64)
    assert truth.shape == (3, 6, 1, 8)
    errors = task.validate()
    assert set(errors) == {"error", *(f"error_{s}{name}" for s in (1, 2, 5) for name in ("", "_u"))}
    state, step = truth[:, 0], heat_step(8, 1e-2)
    for s in range(1, 6):
        state = corrected(task.network, state @ step)
        if s in (1, 2, 5):
            squares = [
                np.sum(field**2, axis=(1, 2)) for field in (state - truth[:, s], truth[:, s])
            ]
            assert (
                errors[f"error_{s}"]
                == errors[f"error_{s}_u"]
                == pytest.approx(np.mean(squares[0] / squares[1]), rel=1e-8)
            )
    assert errors["error"] == errors["error_5"]
    assert task.solver.report.forward.solves == 0
    task.solver.refine(3)
    assert task.validate() == errors


def test_the_coordinator_receives_the_measured_channel(task_of, tmp_path):
    """Heat diffuses each channel separately; data of another file have two channels."""
    fields = np.random.default_rng(0).standard_normal((4, 4, 2, 8))
    changes = {"data": store(tmp_path / "two.h5", fields)}
    by_default, _ = task_of(2, **changes)
    errors = by_default.validate()
    assert errors["error"] == errors["error_3"] == errors["error_3_u_1"] != errors["error_3_u_2"]
    second, _ = task_of(2, **changes, corrector={"measure": "u_2"})
    assert second.validate()["error"] == errors["error_3_u_2"]
    assert second.validate()["error_1"] == errors["error_1_u_2"]
    with pytest.raises(
        ValueError, match=r"corrector\.measure: 'v' is not a channel; choose one of u_1, u_2"
    ):
        task_of(2, **changes, corrector={"measure": "v"})


def test_data_that_cannot_be_measured_or_are_too_short(task_of, tmp_path):
    fields = np.random.default_rng(0).standard_normal((4, 4, 2, 8))
    zero = fields.copy()
    zero[2, 3, 1] = 0.0
    with pytest.raises(
        DataError,
        match=r"zero everywhere in sample 2, step 3, channel u_2, and errors are measured",
    ):
        task_of(1, data=store(tmp_path / "zero.h5", zero))
    zero[2, 3, 1], zero[2, 2, 1] = 1.0, 0.0  # a step without measurement
    task_of(1, data=store(tmp_path / "other.h5", zero))
    with pytest.raises(DataError, match=r"its trajectories have 2 step\(s\), but the task needs 3"):
        task_of(1, data=store(tmp_path / "short.h5", fields[:, :3]))


@pytest.mark.parametrize("pde", FLOWS)
def test_data_with_other_channels_are_rejected(pde, task_of, tmp_path):
    physics, solver = FLOWS[pde]
    data = store(tmp_path / "one.h5", np.ones((3, 4, 1, 8, 8)))
    with pytest.raises(
        DataError,
        match=r"have 1 channel\(s\), but \w+ on this grid has [23]: velocity_x, velocity_y",
    ):
        task_of(
            1,
            grid={"shape": [8, 8], "boundary": "periodic"},
            physics=physics,
            solver=solver,
            data=data,
        )


@pytest.mark.parametrize("pde", FLOWS)
def test_flows_are_corrected(pde, task_of):
    """With data from a finer grid, the trained corrector has a smaller error than the coarse solver
    alone.
    """
    physics, solver = FLOWS[pde]
    task, _ = task_of(
        20,
        grid={"shape": [8, 8], "boundary": "periodic"},
        physics=physics,
        solver=solver,
        refinement={"level": 1e-8},
        network={"kind": "resnet", "channels": 8, "blocks": 1},
        training={"learning_rate": 1e-2},
    )
    with torch.no_grad():
        for parameter in task.network.project.parameters():
            parameter.zero_()  # without a correction
    before = task.validate()
    losses = [task.train_epoch(epoch) for epoch in range(1, 13)]
    after = task.validate()
    assert losses[-1] < 0.7 * losses[0]
    assert after["error_1"] < before["error_1"]
    assert {name for name in after if name.startswith("error_3_")} >= {
        "error_3_velocity_x",
        "error_3_velocity_y",
    }
