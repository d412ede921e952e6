"""The log of a run, in files and on standard error."""

import logging
import warnings
from types import SimpleNamespace

import pytest
import tiny

from prdp_hpc import cli
from prdp_hpc.config import validate
from prdp_hpc.experiments.run import run_experiment, run_log
from prdp_hpc.linalg import SolveError
from prdp_hpc.logs import LOGGER, log_file
from prdp_hpc.tasks.supervised import SupervisedTask


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, level, resume=False, **changes):
        content = tiny.emulator(tmp_path, name=name, logging={"level": level}, **changes)
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


def log(folder):
    return (folder / "logs" / "rank_0000.log").read_text()


def test_a_run_logs_its_start_levels_checkpoints_and_end(train, tmp_path):
    manual = {"schedule": "manual", "manual": {0: 1, 1: 3}}
    train("run", "info", training={"epochs": 2}, refinement=manual)
    text = log(tmp_path / "run")
    parts = (
        "INFO    prdp_hpc: run: starts (ranks: 1)",
        "checkpoint {}/checkpoints/epoch_0000.pt".format(tmp_path / "run"),
        "run: level 3, adjoint level 3, after step 3",
        "all 2 epochs were trained",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "after step 6" not in text
    train("run", "debug", True, training={"epochs": 3}, refinement=manual)
    assert log(tmp_path / "run").startswith(text)
    assert "run: continues after epoch 2, step 0" in log(tmp_path / "run")
    assert "DEBUG   prdp_hpc: run: error" in log(tmp_path / "run")
    assert len(LOGGER.handlers) == 1  # the one that shows nothing
    assert LOGGER.level == logging.NOTSET


def test_a_solver_failure_is_logged(train, tmp_path, monkeypatch):
    def fails(self, batch):
        raise SolveError("CG failed after 3 iterations")

    monkeypatch.setattr(SupervisedTask, "_train_step", fails)
    with pytest.raises(SolveError):
        train("run", "error")
    text = log(tmp_path / "run")
    assert "ERROR   prdp_hpc: ended by an error" in text
    assert "SolveError: CG failed after 3 iterations" in text
    assert "INFO" not in text


@pytest.mark.parametrize("quiet", [False, True])
def test_warnings_are_logged(tmp_path, quiet, recwarn):
    with log_file(tmp_path / "logs" / "log", "warning", quiet):
        warnings.warn("a lagged preconditioner", RuntimeWarning, stacklevel=1)
    assert "WARNING prdp_hpc: a lagged preconditioner" in (tmp_path / "logs" / "log").read_text()
    assert len(recwarn) == (0 if quiet else 1)


def test_the_level_of_the_command_line(tmp_path, capsys, monkeypatch):
    config = tiny.write(tmp_path / "a.yaml", tiny.emulator(tmp_path, training={"epochs": 1}))
    handlers, level = list(LOGGER.handlers), LOGGER.level
    try:
        cli.main(["run", config, "--log-level", "info"])
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(level)
    assert "INFO    prdp_hpc: tiny: all 1 epochs were trained" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "logs").exists()
    cli.main(["run", config, "name=silent"])
    assert "INFO" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "files"),
    [
        ({}, []),
        ({"level": "debug"}, [0]),
        ({"per_rank": True}, [0, 1]),
        ({"level": "error", "per_rank": True}, [0, 1]),
    ],
)
def test_files_of_the_ranks(section, files, tmp_path):
    config = validate(tiny.emulator(tmp_path, logging=section), "here")
    for rank in (0, 1):
        mesh = SimpleNamespace(world=SimpleNamespace(rank=rank), is_root=rank == 0)
        with run_log(config, mesh, tmp_path):
            LOGGER.error("a message")
    assert sorted(tmp_path.glob("logs/*")) == [tmp_path / f"logs/rank_000{i}.log" for i in files]
