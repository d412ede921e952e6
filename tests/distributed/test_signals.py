"""Reliability: a signal that arrives before training is not lost, and stops the run at the next
point from which it can start again.
"""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
from mpi4py import MPI

from prdp_hpc.distributed.preemption import PREEMPTED, Preempted, leave_if_stopped
from prdp_hpc.distributed.signals import hold_signals, take_held


def blocks(process, number):
    """Whether a process lets a signal wait."""
    mask = re.search(
        r"^SigBlk:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE
    )[1]
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_signals_from_the_start_to_the_end_stop_a_run(number, tmp_path):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path / "runs"))
    with subprocess.Popen(
        tiny.command(0, "run", config), env=tiny.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not blocks(process, number):
            time.sleep(0.01)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.01)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == PREEMPTED, said
    assert "stopped by a signal" in said


def test_handlers_come_back_and_a_signal_is_held_once():
    before = signal.getsignal(signal.SIGTERM)
    with hold_signals():
        signal.raise_signal(signal.SIGTERM)
        with hold_signals():
            signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) == before
    assert take_held()
    assert not take_held()


def test_work_outside_of_training_stops_at_the_next_check(handlers, capsys):
    with hold_signals():
        leave_if_stopped(MPI.COMM_SELF, "before it arrived")
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Preempted) as stop:
            leave_if_stopped(MPI.COMM_SELF, "after 3 of 5 samples")
    assert stop.value.code == PREEMPTED
    assert capsys.readouterr().err == "prdp-hpc: stopped by a signal after 3 of 5 samples\n"
    assert not take_held()
