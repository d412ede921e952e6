"""Early stopping: never before a level had its validations, and as a restart finds it."""

import json

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.config import validate
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.refinement import Coordinator, IterationLadder
from prdp_hpc.training.early_stopping import EarlyStopping

ERRORS = st.lists(st.floats(1e-6, 1e3), max_size=60)


def validations(errors, stopping, schedule):
    """The levels after each validation, until training ends."""
    levels = []
    for error in errors:
        schedule.observe(error)
        levels.append((schedule.level, schedule.adjoint_level))
        if stopping.observe(error, levels[-1]):
            break
    return levels


@given(errors=ERRORS, patience=st.integers(1, 6), change=st.floats(0, 0.5), top=st.integers(1, 5))
def test_it_ends_after_the_patience_at_one_level_without_a_lower_error(
    errors, patience, change, top
):
    stopping = EarlyStopping(patience, change)
    levels = validations(errors, stopping, Coordinator(IterationLadder(1, 1, top), ema_window=2))
    seen = errors[: len(levels)]
    if not stopping.ended:
        assert len(levels) == len(errors)
        return
    # None of the last `patience` validations lowered the error, and the level did not change.
    assert len(set(levels[-patience - 1 :])) == 1
    assert len(levels) > patience
    before = min(seen[:-patience])
    assert all(error >= (1 - change) * before for error in seen[-patience:])
    assert not any(
        EarlyStopping(patience, change).observe(error, level)
        for error, level in zip(seen[:1], levels[:1], strict=True)
    )


@given(errors=ERRORS, patience=st.integers(1, 6), cut=st.integers(0, 60))
def test_a_restart_continues_the_count(errors, patience, cut):
    whole, first, second = (EarlyStopping(patience, 0.01) for _ in range(3))
    ended = [whole.observe(error, (1, 1)) for error in errors]
    found = [first.observe(error, (1, 1)) for error in errors[:cut]]
    second.load_state_dict(first.state_dict())
    assert found + [second.observe(error, (1, 1)) for error in errors[cut:]] == ended


@given(errors=ERRORS.filter(len))
def test_falling_errors_do_not_end_training(errors):
    stopping = EarlyStopping(1)
    falling = sorted(set(errors), reverse=True)
    assert not any(stopping.observe(error, (1, 1)) for error in falling)
    assert stopping.lowest == falling[-1]


@pytest.mark.parametrize("given_keys", [(0, 0.0), (True, 0.0), (1.5, 0.0), (1, 1.0), (1, -0.1)])
def test_invalid_keys(given_keys):
    with pytest.raises(InputError, match=r"patience must be|min_change must be"):
        EarlyStopping(*given_keys)


def test_a_run_that_stops_early(mesh, tmp_path):
    """At a constant level with a learning rate that ruins the network."""

    def train(name, resume=False, patience=3, epochs=40):
        training = {
            "epochs": epochs,
            "learning_rate": 3.0,
            "early_stopping": {"patience": patience},
        }
        content = tiny.emulator(
            tmp_path, name=name, training=training, refinement={"schedule": "constant", "level": 2}
        )
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    summary = train("run")
    errors = [row["error"] for row in tiny.rows(tmp_path / "run")]
    lowest = min(range(len(errors)), key=errors.__getitem__)
    assert len(errors) - 1 == lowest + 3 == summary["epochs"] < 40
    assert summary["best"] == {"error": errors[lowest], "epoch": lowest, "step": 3 * lowest}
    assert summary["ended"] == (
        "early stopping: the error was not lower in 3 validations at level 2"
    )
    assert summary["planned"] == "40 epochs"
    train("run", resume=True)
    assert tiny.summary(tmp_path / "run") == {
        key: value
        for key, value in json.loads(json.dumps(summary)).items()
        if key not in tiny.SECONDS
    }
    assert [row["error"] for row in tiny.rows(tmp_path / "run")] == errors
    # More patience continues the run as if it had been given from the start.
    train("run", resume=True, patience=6)
    train("patient", patience=6)
    assert tiny.rows(tmp_path / "run") == tiny.rows(tmp_path / "patient")
    assert len(tiny.rows(tmp_path / "run")) > len(errors)
