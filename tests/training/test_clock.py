"""Steps of the optimiser as the clock of training: the same numbers as with epochs, validations and
checkpoints within an epoch, and restarts at any of them.
"""

import json
import shutil
from itertools import pairwise

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.config import ConfigError, validate
from prdp_hpc.config.intervals import Interval, interval
from prdp_hpc.console import duration
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.refinement import ConstantSchedule
from prdp_hpc.report import load_run
from prdp_hpc.report.figures import plot_run
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.checkpoint_files import NAME
from prdp_hpc.training.clock import Clock
from prdp_hpc.training.settings import CheckpointError
from prdp_hpc.training.trainer import Trainer

STEPS = 3  # of an epoch: 10 samples in batches of 4
SPARSE = {"steps": 16, "validate_every": "5 steps", "checkpoint_every": "1 step", "log_every": 2}


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, resume=False, make=tiny.emulator, changes=None, **training):
        content = make(tmp_path, name=name, training=training, **(changes or {}))
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


def network(folder):
    return Checkpoints(folder / "checkpoints").load_latest()["task"]["network"]


def assert_same_run(folder, other):
    assert tiny.rows(folder) == tiny.rows(other)
    ours, theirs = network(folder), network(other)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    different = ("name", "planned", "ended")
    assert tiny.summary(folder, *different) == tiny.summary(other, *different)


def step_rows(folder):
    lines = (folder / "steps.jsonl").read_text().splitlines()
    measured = {"samples_per_second", "memory_gib", "solver_share", "total_seconds"}
    rows = [json.loads(line) for line in lines]
    assert all(measured <= row.keys() for row in rows)
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


@pytest.mark.parametrize("refinement", [{}, {"schedule": "gradient", "theta": 0.05}])
def test_steps_are_epochs(train, tmp_path, refinement):
    train("epochs", epochs=4, changes={"refinement": refinement})
    clock = {"steps": 4 * STEPS, "validate_every": "3 steps", "checkpoint_every": "3 steps"}
    train("steps", **clock, changes={"refinement": refinement})
    assert_same_run(tmp_path / "steps", tmp_path / "epochs")
    assert [row["step"] for row in tiny.rows(tmp_path / "steps")] == [0, 3, 6, 9, 12]
    assert [row["epoch"] for row in tiny.rows(tmp_path / "steps")] == [0, 1, 2, 3, 4]
    planned = [tiny.summary(tmp_path / name)["planned"] for name in ("epochs", "steps")]
    assert planned == ["4 epochs", "12 steps"]


def test_fewer_validations_do_not_change_training(train, tmp_path):
    constant = {"refinement": {"schedule": "constant", "level": 3}}
    train("each", epochs=4, changes=constant)
    train("second", epochs=4, validate_every=2, changes=constant)
    each, second = tiny.rows(tmp_path / "each"), tiny.rows(tmp_path / "second")
    assert [row["epoch"] for row in second] == [0, 2, 4]
    for row, before, last in zip(second[1:], each[1::2], each[2::2], strict=True):
        mean = (3 * before["loss"] + 3 * last["loss"]) / 6
        assert row | {"loss": 0.0} == last | {"loss": 0.0}
        assert row["loss"] == pytest.approx(mean, rel=1e-14)


def test_the_level_changes_within_an_epoch(train, tmp_path):
    manual = {"refinement": {"schedule": "manual", "manual": {0: 1, 1: 3}}}
    train("run", steps=4, validate_every="1 step", changes=manual)
    rows = tiny.rows(tmp_path / "run")
    assert [row["level"] for row in rows] == [1, 1, 3, 3, 3]
    work = [b["forward_iterations"] - a["forward_iterations"] for a, b in pairwise(rows)]
    assert work == [4 * 1, 4 * 3, 2 * 3, 4 * 3]  # samples times level
    assert rows[1]["epoch"] == 1 / 3
    plot_run(load_run(tmp_path / "run"), tmp_path / "figure.png")
    assert load_run(tmp_path / "run").metrics["epoch"].tolist() == [0, 1 / 3, 2 / 3, 1, 4 / 3]


def test_a_restart_at_any_step_continues_with_the_same_numbers(train, tmp_path, monkeypatch):
    """What a kill leaves: checkpoints up to a step, and lines of later steps."""
    monkeypatch.setattr(Checkpoints, "ready", True)
    train("whole", **SPARSE, keep_checkpoints=100)
    whole = tmp_path / "whole"
    for step in (0, 2, 5, 7, 15):
        folder = tmp_path / f"killed_{step}"
        shutil.copytree(whole, folder)
        forget(folder, step)
        train(folder.name, True, **SPARSE)
        assert_same_run(folder, whole)
        assert step_rows(folder) == step_rows(whole)
        best = Checkpoints(folder / "checkpoints").load_best()["best"]
        assert best == tiny.summary(whole)["best"]


def forget(folder, step):
    """Remove the checkpoints of later steps."""
    places = {}
    for path in (folder / "checkpoints").glob("epoch_*.pt"):
        epoch, rest = (int(number or 0) for number in NAME.fullmatch(path.name).groups())
        places[STEPS * epoch + rest] = path
    assert set(places) == set(range(17))
    for place, path in places.items():
        if place > step:
            path.unlink()


def test_lines_of_steps(train, tmp_path):
    train("run", steps=12, validate_every="6 steps", log_every=2)
    train("each", steps=12, validate_every="6 steps", log_every=1)
    steps, each = step_rows(tmp_path / "run"), step_rows(tmp_path / "each")
    assert [row["step"] for row in steps] == [2, 4, 6, 8, 10, 12]
    for row, before, last in zip(steps, each[::2], each[1::2], strict=True):
        assert row["loss"] == pytest.approx((before["loss"] + last["loss"]) / 2, rel=1e-12)
        assert row | {"loss": 0} == last | {"loss": 0}
    rows = {row["step"]: row for row in tiny.rows(tmp_path / "run")}
    for row in steps:
        if row["step"] in rows:
            same = ("epoch", "learning_rate", "gradient_norm", "level")
            assert [row[key] for key in same] == [rows[row["step"]][key] for key in same]
    train("none", steps=12, validate_every="6 steps")
    assert_same_run(tmp_path / "none", tmp_path / "run")
    assert not (tmp_path / "none" / "steps.jsonl").exists()


def test_checkpoints_by_the_clock(make_task, tmp_path):
    """The time of a step is 3 minutes; one is saved at least every 10 minutes."""
    task, _ = make_task(tiny.emulator, 2)
    times = iter(range(0, 10**6, 180))
    trainer = Trainer(
        task, ConstantSchedule(2), tmp_path / "run", 4, checkpoint_every="10 minutes",
        checkpoints=Checkpoints(tmp_path / "checkpoints", keep=100), clock=lambda: next(times),
        trackers=[],
    )  # fmt: skip
    saved, save = [], trainer._saving.save
    trainer._saving.save = lambda task, schedule, place, *more: (
        saved.append(STEPS * place[0] + place[1]),
        save(task, schedule, place, *more),
    )
    trainer.run()
    assert saved[-1] == 4 * STEPS
    assert len(saved) > 2
    # Each step and each save reads the clock once.
    assert all(later - earlier <= 4 for earlier, later in pairwise([0, *saved]))
    assert any(step % STEPS for step in saved)
    assert len(tiny.rows(tmp_path / "run")) == 5


def test_a_finished_run_continues_to_more_steps_but_not_to_fewer(train, tmp_path):
    train("whole", steps=12, validate_every="2 steps")
    train("run", steps=4, validate_every="2 steps")
    train("run", True, steps=12, validate_every="2 steps")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"already has 12 steps; give training\.steps=12"):
        train("run", True, steps=11, validate_every="2 steps")
    with pytest.raises(CheckpointError, match=r"validate_every: '2 steps' in the .*'3 steps' now"):
        train("run", True, steps=12, validate_every="3 steps")


def test_a_run_of_an_older_version_continues(train, tmp_path):
    """Its checkpoints and lines have neither steps nor the lowest error."""
    train("whole", epochs=4)
    train("old", epochs=2)
    folder = tmp_path / "old"
    checkpoints = Checkpoints(folder / "checkpoints", settings=None)
    state = checkpoints.load_latest()
    new = ("step", "learning_rate", "gradient_norm", *tiny.RATES)
    for key in new:
        del state["row"][key]
    for key in ("best", "early_stopping"):
        del state[key]
    checkpoints.fingerprint = state["fingerprint"]
    checkpoints.save(2, state)
    (folder / "checkpoints" / "best.pt").unlink()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    old = [{key: value for key, value in line.items() if key not in new} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    train("old", True, epochs=4)
    assert tiny.rows(folder, *new) == tiny.rows(tmp_path / "whole", *new)
    assert load_run(folder).metrics["step"].tolist()[3:] == [9, 12]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 5), ("validate_every", 2), ("log_every", 1), ("checkpoint_every", "2 steps"),
    ],
)  # fmt: skip
def test_a_task_without_steps_counts_epochs(mesh, tmp_path, key, value):
    config = validate(tiny.inverse(tmp_path), "here")
    task = build_task(config, mesh)
    with pytest.raises(InputError, match=rf"training\.{key}: Inverse trains and validates whole"):
        Trainer(task, ConstantSchedule(5), tmp_path / "run", 3, **{key: value})
    assert Clock(task, 3, checkpoint_every="5 minutes").total == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, Interval(2, "epochs")),
        ("3 epochs", Interval(3, "epochs")),
        ("1 step", Interval(1, "steps")),
        ("500 steps", Interval(500, "steps")),
        ("0.5 minutes", Interval(0.5, "minutes")),
    ],
)
def test_intervals(value, expected):
    assert interval(value) == expected
    assert interval(str(expected)) == expected


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "steps", "2.5 steps", "0 minutes", "1 hour"])
def test_invalid_intervals(value, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.checkpoint_every"):
        validate(tiny.emulator(tmp_path, training={"checkpoint_every": value}), "here")


def test_validations_are_not_at_minutes(tmp_path):
    with pytest.raises(ConfigError, match=r'validate_every: must be .*2 \(epochs\) or "500 steps"'):
        validate(tiny.emulator(tmp_path, training={"validate_every": "2 minutes"}), "here")


@given(st.floats(0, 1e7))
def test_durations(seconds):
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = duration(seconds).split()
    numbers, names = [int(word) for word in words[::2]], words[1::2]
    assert len(names) <= 2
    total = sum(number * units[name] for number, name in zip(numbers, names, strict=True))
    smallest = 60 if units[names[0]] == 3600 else 3600 if names[0] == "d" else 1
    assert abs(total - seconds) <= smallest
