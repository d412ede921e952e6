"""`best.pt` is the state of the lowest validation error, also after kills."""

import pytest
import tiny
import torch

from prdp_hpc import evaluate, load_network
from prdp_hpc.config import validate
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.training.checkpoint import Checkpoints

# A learning rate so large that the lowest error is not the last one.
TRAINING = {"epochs": 8, "learning_rate": 0.04}


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, resume=False, changes=None, **training):
        content = tiny.emulator(
            tmp_path, name=name, training={**TRAINING, **training}, **(changes or {})
        )
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


def best_row(folder):
    return min(tiny.rows(folder), key=lambda row: row["error"])


def test_the_best_network_has_the_lowest_error(train, tmp_path):
    summary, folder = train("run"), tmp_path / "run"
    row = best_row(folder)
    assert 0 < row["epoch"] < 8
    assert summary["best"] == {key: row[key] for key in ("error", "epoch", "step")}
    assert evaluate(folder, checkpoint="best")["error"] == row["error"]
    assert evaluate(folder, checkpoint="best")["epoch"] == row["epoch"]
    assert evaluate(folder)["error"] == summary["error"] > row["error"]
    state = Checkpoints(folder / "checkpoints").load_best()["task"]["network"]
    loaded = load_network(folder, checkpoint="best").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    last = load_network(folder).state_dict()
    assert not all(torch.equal(loaded[key], last[key]) for key in state)


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_the_best_after_a_kill(train, tmp_path, kept, monkeypatch):
    """`best.pt` may be of a later step than the checkpoint from which a run continues."""
    monkeypatch.setattr(Checkpoints, "ready", True)
    summary, folder = train("run", keep_checkpoints=100), tmp_path / "run"
    for epoch in range(kept + 1, 9):
        (folder / "checkpoints" / f"epoch_{epoch:04d}.pt").unlink()
    assert train("run", True)["best"] == summary["best"]
    best = Checkpoints(folder / "checkpoints").load_best()
    assert best["best"] == summary["best"]
    assert best["epoch"] == summary["best"]["epoch"]


def test_a_damaged_best_is_replaced(train, tmp_path):
    train("run", epochs=1)
    (tmp_path / "run" / "checkpoints" / "best.pt").write_bytes(b"cut")
    with pytest.warns(RuntimeWarning, match=r"best\.pt: .* the next lower error replaces the file"):
        train("run", True)
    later = [row["error"] for row in tiny.rows(tmp_path / "run")[2:]]
    assert evaluate(tmp_path / "run", checkpoint="best")["error"] == min(later)


def test_without_a_best_state(train, tmp_path):
    summary = train("run", keep_best=False)
    assert summary["best"]["error"] == best_row(tmp_path / "run")["error"]
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    with pytest.raises(
        ValueError, match=r"has no best checkpoint, which runs with training\.keep_best="
    ):
        evaluate(tmp_path / "run", checkpoint="best")
