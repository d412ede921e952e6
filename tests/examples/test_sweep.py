"""Usability: the example of a sweep prunes, continues killed trials, and runs in several processes
at once.
"""

import importlib.util
import json
import sqlite3
import subprocess
import sys

import optuna
import pytest
import tiny
from optuna.trial import TrialState

from prdp_hpc.distributed.preemption import Preempted

SCRIPT = tiny.REPOSITORY / "examples" / "sweep" / "sweep.py"


@pytest.fixture
def sweep():
    spec = importlib.util.spec_from_file_location("sweep", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trials_of(folder):
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials


def test_a_sweep_continues_and_is_shared(sweep, tmp_path, monkeypatch, capsys):
    train, words = sweep.train, ["--folder", str(tmp_path), "--trials", "3"]

    def killed(config, changes, resume):
        if "training.epochs=4" in changes:
            raise Preempted
        train(config, changes, resume=resume)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "train", killed)
        with pytest.raises(Preempted):
            sweep.main(words)
    (first,) = trials_of(tmp_path)
    assert first.state == TrialState.RUNNING  # as after any kill
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")

    other = subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        env=tiny.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sweep.main(words)
    _, reported = other.communicate(timeout=100)
    assert other.returncode == 0, reported
    assert "best error" in capsys.readouterr().out
    trials = trials_of(tmp_path)
    ended = [trial for trial in trials if trial.state in sweep.ENDED]
    assert 3 <= len(ended) <= 4  # each process may be in a trial when the third ends
    assert trials[0].state == TrialState.FAIL
    again = [trial for trial in ended if trial.params == first.params]
    assert len(again) == 1
    runs = {path.parent.name for path in tmp_path.glob("*/metrics.jsonl")}
    assert len(runs) == len(ended)
    name = "rate-{learning_rate!r}-width-{width}".format(**first.params)
    # Its second start was after the epochs of the first one.
    assert json.loads((tmp_path / name / "starts.json").read_text())[:2] == [[0, 0], [2, 0]]
    assert [row["epoch"] for row in tiny.rows(tmp_path / name)] == list(range(9))
    assert again[0].value == sweep.errors_of(tmp_path / name)[8]


def test_a_trial_that_is_worse_is_pruned(sweep, tmp_path, monkeypatch):
    errors = iter([1.0, 1.0, 1.0, 2.0])
    found = {}

    def trained(config, changes, resume):
        name = next(word for word in changes if word.startswith("name="))
        found.setdefault(name.removeprefix("name="), next(errors, 9.0))

    def errors_of(run):
        return dict.fromkeys(sweep.RUNGS, found[run.name]) if run.name in found else {}

    monkeypatch.setattr(sweep, "train", trained)
    monkeypatch.setattr(sweep, "errors_of", errors_of)
    sweep.main(["--folder", str(tmp_path), "--trials", "7"])
    states = [trial.state for trial in trials_of(tmp_path)]
    # The median pruner waits for five trials; later ones have an error of 9.
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED] * 2
