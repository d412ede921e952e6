"""Properties: gradient measurements change nothing else, are counted, and are correct."""

import json
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch

from prdp_hpc.config import validate
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.refinement import (
    ConstantSchedule,
    GradientCoordinator,
    IterationLadder,
    MeasuredGradient,
)
from prdp_hpc.training.trainer import Trainer

NETWORK = """
import torch
from torch import nn

class Noisy(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        super().__init__(
            nn.Conv1d(in_channels, 4, 3, padding=1),
            nn.BatchNorm1d(4),
            nn.Dropout(0.3),
            nn.Conv1d(4, out_channels, 3, padding=1),
        )
"""


@pytest.fixture
def noisy(make_task, tmp_path):
    """Creates tasks whose network has batch statistics and random numbers."""
    (tmp_path / "noisy.py").write_text(NETWORK)

    def make(**sections):
        torch.manual_seed(3)
        kind = f"{tmp_path / 'noisy.py'}:Noisy"
        return make_task(tiny.emulator, 4, network={"kind": kind}, **sections)[0]

    return make


class Measuring(ConstantSchedule):
    """A schedule that measures at several levels before each epoch, at a constant level."""

    def __init__(self):
        super().__init__(4)
        self.measured = []

    def probe_due(self, training_iterations, probe_iterations):
        return True

    def probe(self, measure):
        self.measured.append(
            [measure(level, adjoint) for level, adjoint in ((1, 2), (4, 4), (1, 2))]
        )
        return False


def trained(task, schedule, folder):
    """The errors and losses of some epochs, and the random numbers after them."""
    torch.manual_seed(5)
    np.random.seed(5)
    Trainer(task, schedule, folder, epochs=3).run()
    rows = tiny.rows(folder)
    return (
        [(row["loss"], row["error"]) for row in rows],
        [float(torch.rand(())), float(np.random.rand())],
        [buffer.clone() for buffer in task.network.buffers()],
    )


@pytest.mark.parametrize("guess", ["zero", "last"])
def test_probes_change_nothing_else(guess, noisy, tmp_path):
    schedule, solver = Measuring(), {"solver": {"initial_guess": guess}}
    probed = trained(noisy(**solver), schedule, tmp_path / "probed")
    plain = trained(noisy(**solver), ConstantSchedule(4), tmp_path / "plain")
    assert probed[:2] == plain[:2]
    assert len(plain[2]) == 3
    assert all(torch.equal(a, b) for a, b in zip(probed[2], plain[2], strict=True))
    for first, finer, again in schedule.measured:
        # The same batch and the same random numbers, although the network has dropout.
        assert torch.equal(first.vector, again.vector)
        assert first.squared_distance(finer) > 0
        assert first.variance > 0
    batches = {float(found[0].vector[0]) for found in schedule.measured}
    assert len(batches) == 3


def test_gradients_and_their_spread_are_those_of_the_parts(make_task):
    """Against single samples: the mean of the batch, and the unbiased variance of the mean of a
    batch.
    """
    task, _ = make_task(tiny.emulator, 3, data={"train": 20}, training={"batch_size": 4})
    before = {key: value.clone() for key, value in task.network.state_dict().items()}
    gradient, variance = task.sampled_gradient(7)
    parts = task._sampler.parts(7, 4)
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    rows = []
    for part in parts:
        task._backward(part)
        rows.append(torch.cat([p.grad.reshape(-1) for p in task.network.parameters()]))
    rows = torch.stack(rows)
    torch.testing.assert_close(gradient, rows.mean(0))
    assert variance == pytest.approx(float(rows.var(0).sum()) / 4)
    task._backward(np.concatenate(parts))
    whole = torch.cat([p.grad.reshape(-1) for p in task.network.parameters()])
    torch.testing.assert_close(gradient, whole)
    assert all(torch.equal(before[key], value) for key, value in task.network.state_dict().items())


@pytest.mark.parametrize(
    ("samples", "batch", "sizes"),
    [
        (20, 6, [1, 1, 1, 1]),
        (20, 9, [2, 2, 2, 2]),
        (20, 1, [1, 1]),
        (3, 25, [1, 1, 1]),
        (1, 5, [1]),
    ],
)
def test_variance_is_that_of_a_batch_for_any_parts(samples, batch, sizes, make_task):
    task, _ = make_task(tiny.emulator, 3, data={"train": samples}, training={"batch_size": batch})
    assert [len(part) for part in task._sampler.parts(1, 4)] == sizes
    _, variance = task.sampled_gradient(1)
    rows = torch.stack([task._gradient_of(part) for part in task._sampler.parts(1, 4)])
    expected = float(rows.var(0).sum()) * sizes[0] / batch if len(rows) > 1 else 0.0
    assert variance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", [tiny.emulator, tiny.inverse])
def test_cost_is_counted_as_all_solves_and_apart(make, mesh, tmp_path):
    content = make(
        tmp_path,
        refinement={"schedule": "gradient", "theta": 0.05, "theta_noise": 0.05, "probe_share": 0.5},
        training={"epochs": 6},
    )
    summary = run_experiment(validate(content, "here"), mesh, tmp_path / "run")
    rows = tiny.rows(tmp_path / "run")
    each = 10 if make is tiny.emulator else 1
    for before, after in pairwise(rows):
        counted = [key for key in after if key.endswith(("iterations", "solves"))]
        work = {key: after[key] - before[key] for key in counted}
        assert work["solves"] - work["probe_solves"] == 2 * each
        assert work["adjoint_solves"] - work["probe_adjoint_solves"] == each
        for direction, level in (("forward", "level"), ("adjoint", "adjoint_level")):
            trained = work[f"{direction}_iterations"] - work[f"probe_{direction}_iterations"]
            assert trained == each * after[level]
        assert (work["probe_solves"] > 0) == (work["probe_forward_iterations"] > 0)
    assert rows[1]["probe_solves"] > 0
    assert rows[-1]["level"] > rows[0]["level"]
    top = validate(content, "here").refinement.full_level
    assert summary["savings"]["inner_iterations"] == pytest.approx(
        1 - summary["inner_iterations"] / (2 * 6 * each * top)
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert 0 < last["probe_seconds"] < last["total_seconds"]


def test_a_task_without_gradients_is_rejected(make_task, tmp_path):
    class NoGradients:
        def __init__(self, task):
            self.mesh, self.solver, self.stopwatch = task.mesh, task.solver, task.stopwatch
            self.validate, self.close = task.validate, task.close
            self.state_dict, self.load_state_dict = task.state_dict, task.load_state_dict

    task = NoGradients(make_task(tiny.emulator, 3)[0])
    with pytest.raises(ValueError, match=r"NoGradients has no method gradient\(\)"):
        Trainer(task, GradientCoordinator(IterationLadder(1, 1, 4)), tmp_path / "run", epochs=1)


def test_a_user_defined_schedule_measures_gradients(mesh, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, ladder, adjoint_ladder, at=1):\n"
        "        self.ladder, self.rung, self.at = ladder, 0, at\n"
        "    level = property(lambda self: self.ladder.level(self.rung))\n"
        "    adjoint_level = level\n"
        "    observe = lambda self, error: False\n"
        "    state_dict = lambda self: {'rung': self.rung}\n"
        "    def load_state_dict(self, state): self.rung = state['rung']\n"
        "    def probe_due(self, trained, probed): return trained >= self.at\n"
        "    def probe(self, measure):\n"
        "        here, finer = (measure(self.ladder.level(self.rung + i), 2) for i in (0, 1))\n"
        "        self.rung += here.squared_distance(finer) > 0\n"
        "        return True\n"
    )
    mine = {"kind": f"{tmp_path / 'mine.py'}:Mine", "at": 25}
    content = tiny.emulator(tmp_path, refinement={"schedule": mine})
    run_experiment(validate(content, "here"), mesh, tmp_path / "run")
    assert [row["level"] for row in tiny.rows(tmp_path / "run")] == [1, 1, 1, 2]


def test_gradients_without_samples_have_no_noise(make_task, mesh, tmp_path):
    task, _ = make_task(tiny.inverse, 5)
    schedule = Measuring()
    Trainer(task, schedule, tmp_path / "run", epochs=1).run()
    (found,) = schedule.measured
    assert isinstance(found[0], MeasuredGradient)
    assert [one.variance for one in found] == [0.0, 0.0, 0.0]
    assert found[0].squared_norm() == pytest.approx(float(found[0].vector.square().sum()))


def test_probes_leave_kept_initial_guesses_alone(mesh, tmp_path):
    """With `initial_guess="last"` a run at a constant level is the same with and without probes."""
    errors = []
    for schedule in ("constant", "gradient"):
        content = tiny.emulator(
            tmp_path,
            solver={"initial_guess": "last"},
            refinement={
                "schedule": schedule,
                "ladder": {"kind": "iterations", "start": 2, "stop": 2},
                "probe_share": 0.9,
            },
        )
        run_experiment(validate(content, "here"), mesh, tmp_path / schedule)
        rows = tiny.rows(tmp_path / schedule)
        errors.append([(row["loss"], row["error"]) for row in rows])
    assert rows[-1]["probe_solves"] > 0
    assert errors[0] == errors[1]
