"""The runs of a comparison that train in turns compute the same numbers as one after another."""

import json
import os
import signal

import pytest
import tiny

from prdp_hpc import cli
from prdp_hpc.errors import PrdpError
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.training.trainer import Trainer

RUNS = [f"{seed}/{name}" for seed in ("seed_1", "seed_2") for name in ("prdp", "full", "loose")]
DROPOUT = """
from torch import nn
class Dropping(nn.Sequential):
    def __init__(self, in_channels, out_channels):
        super().__init__(
            nn.Conv1d(in_channels, 4, 3, padding="same", padding_mode="circular"),
            nn.Dropout(0.5),
            nn.Conv1d(4, out_channels, 1),
        )
"""
WORDS = ["comparison.seeds=2", "comparison.in_turns=true"]


@pytest.fixture
def config(tmp_path):
    (tmp_path / "own.py").write_text(DROPOUT)
    loose = {"solver": {"ksp": "cg", "pc": "none"}, "level": 0.1}
    content = tiny.emulator(tmp_path / "runs", comparison={"baselines": {"loose": loose}})
    content["network"] = {"kind": "own.py:Dropping"}
    return tiny.write(tmp_path / "tiny.yaml", content)


@pytest.fixture
def order(monkeypatch):
    """The names of the runs, in the order of their validations."""
    found, original = [], Trainer._to_next_validation

    def noting(self, watch):
        found.append(self.label)
        return original(self, watch)

    monkeypatch.setattr(Trainer, "_to_next_validation", noting)
    return found


def metrics(folder):
    """The metrics of all runs, without measured seconds."""
    return {name: tiny.rows(folder / name) for name in RUNS}


def test_the_same_numbers_as_one_after_another(config, tmp_path, order, handlers):
    cli.main(["compare", config, "comparison.seeds=2"])
    alone = metrics(tmp_path / "runs" / "tiny-compare")
    order.clear()
    cli.main(["compare", config, *WORDS, "name=turns"])
    folder = tmp_path / "runs" / "turns-compare"
    assert metrics(folder) == alone
    first, second = (
        ["turns-prdp", "turns-full", "turns-loose"],
        ["turns-full", "turns-loose", "turns-prdp"],
    )
    assert order == 4 * first + 4 * second
    assert json.loads((folder / "comparison.json").read_text())["variants"]["loose"]
    order.clear()
    cli.main(["compare", config, *WORDS, "name=turns", "--resume"])
    assert not order


def test_the_time_of_other_turns_is_not_counted(config, tmp_path, monkeypatch, handlers):
    now, original = [100.0], SupervisedTask._train_step

    def step(self, batch):
        now[0] += 1.0
        return original(self, batch)

    monkeypatch.setattr("prdp_hpc.training.measures.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(SupervisedTask, "_train_step", step)
    cli.main(["compare", config, *WORDS])
    for name in RUNS:
        last = json.loads((tmp_path / "runs/tiny-compare" / name / "summary.json").read_text())
        assert last["total_seconds"] == last["step"]


def test_a_signal_saves_all_runs(config, tmp_path, monkeypatch, handlers):
    cli.main(["compare", config, *WORDS, "name=whole"])
    count, original = [0], SupervisedTask._train_step

    def step(self, batch):
        count[0] += 1
        if count[0] == 11:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, batch)

    monkeypatch.setattr(SupervisedTask, "_train_step", step)
    words = [*WORDS, "training.checkpoint_every=3"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", config, *words])
    assert ended.value.code == 85
    folder = tmp_path / "runs" / "tiny-compare"
    assert all(list((folder / name / "checkpoints").glob("*.pt")) for name in RUNS[:3])
    assert count[0] == 13
    cli.main(["compare", config, *words, "--resume"])
    assert metrics(folder) == metrics(tmp_path / "runs" / "whole-compare")


def test_the_error_of_one_run_ends_all(config, tmp_path, monkeypatch, handlers, capsys):
    count, original = [0], SupervisedTask._train_step

    def step(self, batch):
        count[0] += 1
        if count[0] == 5:
            raise PrdpError("the fifth step fails")
        return original(self, batch)

    monkeypatch.setattr(SupervisedTask, "_train_step", step)
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", config, *WORDS])
    assert ended.value.code not in (0, 85)
    assert "the fifth step fails" in capsys.readouterr().err
    assert len(tiny.rows(tmp_path / "runs/tiny-compare/seed_1/prdp")) == 2
