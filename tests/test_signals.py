"""Reliability: a signal that comes while libraries load is not lost, and ends nothing before there is something to save."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny

from prdp_hpc.preemption import PREEMPTED
from prdp_hpc.signals import hold_signals, take_held


def catches(process, number):
    """Whether a process has a handler for a signal."""
    mask = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)[1]
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_at_the_start_stops_training_after_its_first_step(number, tmp_path):
    config = tiny.write(tmp_path / "config.yaml", tiny.emulator(tmp_path / "runs"))
    with subprocess.Popen(tiny.command(0, "run", config), env=tiny.environment(), stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not catches(process, number):
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == PREEMPTED, said
    assert list((tmp_path / "runs" / "tiny" / "checkpoints").glob("*.pt"))


def test_handlers_come_back_and_a_signal_is_held_once():
    before = signal.getsignal(signal.SIGTERM)
    with hold_signals():
        signal.raise_signal(signal.SIGTERM)
        with hold_signals():
            signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) == before
    assert take_held()
    assert not take_held()
