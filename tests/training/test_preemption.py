"""A signalled run exits with code 85, and its resumed run has the same numbers in each step as an
uninterrupted one.
"""

import os
import signal
import subprocess
import sys

import pytest
import tiny
import torch
from mpi4py import MPI

from prdp_hpc.config import validate
from prdp_hpc.data import TrajectoryFile, group_reader
from prdp_hpc.distributed.preemption import PREEMPTED, Preempted, PreemptionWatch
from prdp_hpc.distributed.signals import hold, take_held
from prdp_hpc.experiments import run as run_module
from prdp_hpc.experiments.run import run_experiment
from prdp_hpc.tasks.supervised import SupervisedTask
from prdp_hpc.training.checkpoint import Checkpoints
from prdp_hpc.training.requeue import RestartError, note_start
from prdp_hpc.training.trainer import Trainer

EPOCHS = 5
RESNET = {"kind": "resnet", "channels": 4, "blocks": 1}


@pytest.fixture
def train(mesh, tmp_path):
    def run(name, resume=False, make=tiny.emulator, training=None, **changes):
        content = make(
            tmp_path, name=name, training={"epochs": EPOCHS, **(training or {})}, **changes
        )
        return run_experiment(validate(content, "here"), mesh, tmp_path / name, resume)

    return run


@pytest.fixture
def signalled(monkeypatch):
    """Make the process signal itself in the steps with these numbers, counted since the fixture was
    created.
    """
    steps, count, original = set(), [0], SupervisedTask._train_step

    def step(self, batch):
        count[0] += 1
        if count[0] in steps:
            os.kill(os.getpid(), signal.SIGUSR1 if count[0] % 2 else signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(SupervisedTask, "_train_step", step)
    return lambda *numbers: (steps.update(numbers), count.__setitem__(0, 0))


def ended_with(action):
    """The exit code of an action that a signal ended, otherwise 0."""
    try:
        action()
    except Preempted as stop:
        return stop.code
    return 0


def network(folder):
    state = Checkpoints(folder / "checkpoints").load_latest()
    return state["task"]["network"]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batch_size": 2}},
        {
            "training": {
                "batch_size": 2,
                "checkpoint_every": 100,
                "precision": "float32",
                "decay": 0.5,
                "decay_steps": 3,
            }
        },
        {
            "make": tiny.corrector,
            "network": RESNET,
            "training": {"batch_size": 2, "schedule": "cosine", "decay": 0.1},
        },
        {"training": {"batch_size": 2, "steps": 24, "validate_every": "7 steps", "log_every": 2}},
    ],
    ids=["plain", "no other checkpoints", "corrector", "in steps"],
)
@pytest.mark.parametrize(
    "steps", [(1,), (5,), (3, 4, 15)], ids=["first step", "end of an epoch", "three times"]
)
def test_a_signalled_run_continues_with_the_same_numbers(
    changes, steps, train, signalled, tmp_path
):
    train("whole", **changes)  # 5 steps an epoch
    signalled(*steps)
    codes = []
    while code := ended_with(lambda: train("stopped", resume=len(codes) > 0, **changes)):
        codes.append(code)
    assert codes == [PREEMPTED] * len(steps)
    assert PREEMPTED == 85
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")
    assert tiny.summary(tmp_path / "stopped", "name") == tiny.summary(tmp_path / "whole", "name")
    ours, theirs = network(tmp_path / "stopped"), network(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert signal.getsignal(signal.SIGUSR1) in (signal.SIG_DFL, None)


def test_a_signal_in_the_last_epoch_stops_the_next_run(train, signalled, tmp_path):
    train("whole", training={"batch_size": 2})
    signalled(5 * EPOCHS)
    train("first", training={"batch_size": 2})
    assert ended_with(lambda: train("second", training={"batch_size": 2})) == PREEMPTED
    train("second", resume=True, training={"batch_size": 2})
    for name in ("first", "second"):
        assert tiny.rows(tmp_path / name) == tiny.rows(tmp_path / "whole")


def test_a_signal_while_data_are_read_stops_the_run(train, tmp_path, monkeypatch):
    """Between two blocks of a group that is read into memory."""
    blocks = []

    def read(self, *arguments, own=TrajectoryFile.read):
        blocks.append(arguments[:2])
        hold(signal.SIGTERM)  # as the handler of hold_signals does
        return own(self, *arguments)

    train("whole")
    monkeypatch.setattr(group_reader, "BLOCK_BYTES", 1)
    with monkeypatch.context() as patched:
        patched.setattr(TrajectoryFile, "read", read)
        assert ended_with(lambda: train("stopped")) == PREEMPTED
    assert len(blocks) == 1
    train("stopped", resume=True)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["task_from", "restore"])
def test_a_signal_while_loading_stops_the_run(moment, train, tmp_path, monkeypatch):
    """Before training, where nothing is saved; the same run then continues."""
    train("whole")
    train("stopped", training={"epochs": 1})
    home = run_module if moment == "task_from" else Trainer
    loading = getattr(home, moment)

    def signalled_while_loading(*arguments):
        loaded = loading(*arguments)
        hold(signal.SIGUSR1)  # as the handler of hold_signals does
        return loaded

    with monkeypatch.context() as patched:
        patched.setattr(home, moment, signalled_while_loading)
        before = (tmp_path / "stopped" / "metrics.jsonl").read_bytes()
        assert ended_with(lambda: train("stopped", resume=True)) == PREEMPTED
        assert (tmp_path / "stopped" / "metrics.jsonl").read_bytes() == before
        # A job that SLURM restarts again and again without progress ends with an error.
        patched.setenv("SLURM_RESTART_COUNT", "3")
        assert ended_with(lambda: train("stopped", resume=True)) == PREEMPTED
        with pytest.raises(RestartError, match="ended each time before it got beyond epoch 0"):
            train("stopped", resume=True)
        take_held()
    train("stopped", resume=True)
    assert tiny.rows(tmp_path / "stopped") == tiny.rows(tmp_path / "whole")


def test_a_signal_without_a_watch_ends_the_process():
    """PETSc would abort MPI from within its signal handler, which may wait for a lock of the
    interrupted code.
    """
    code = "import os, signal\nfrom prdp_hpc import Solver\nos.kill(os.getpid(), signal.SIGTERM)"
    ended = subprocess.run(
        [sys.executable, "-c", code], timeout=60, env=tiny.environment(), check=False
    )
    assert ended.returncode == -signal.SIGTERM


def test_a_watch_of_one_rank():
    with PreemptionWatch(MPI.COMM_SELF) as watch:
        assert not watch.after_step()
        assert not watch.now()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert watch.after_step()
        assert watch.now()
    assert take_held()  # the block finished normally, so the next run must receive the signal
    assert not take_held()


def test_a_requeued_job_without_progress_stops(tmp_path, monkeypatch):
    assert note_start(tmp_path, 0, 0, resumed=False) is None
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    for count in (1, 2):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(count))
        output = note_start(tmp_path, 3, count, resumed=True)
        assert output == f"restart {count} of SLURM job 77: continuing after epoch 3, step {count}"
    for _ in range(2):
        note_start(tmp_path, 3, 2, resumed=True)
    with pytest.raises(
        RestartError,
        match=r"restarted 2 times and ended each time before it got beyond epoch 3, step 2: look",
    ):
        note_start(tmp_path, 3, 2, resumed=True)
    assert note_start(tmp_path, 3, 3, resumed=True) is not None
    (tmp_path / "starts.json").write_text("{")
    assert note_start(tmp_path, 3, 3, resumed=True) is not None
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    for _ in range(5):
        assert note_start(tmp_path, 3, 3, resumed=True) is None  # without SLURM there is no limit
