"""Reliability: a signal while a command generates data, or waits for them, ends it with code 85,
and the same command then continues.
"""

import signal

import pytest
import tiny
from test_locks import Holder

from prdp_hpc import cli, lock_files, locks
from prdp_hpc.config import load_config
from prdp_hpc.generation import generate as generation
from prdp_hpc.generation.generate import generated_path


@pytest.fixture(autouse=True)
def _impatient(monkeypatch, handlers):
    monkeypatch.setattr(lock_files, "PATIENCE", 0.0)


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs", data={"test": 2}))


def stopped(*words):
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    assert ended.value.code == 85


@pytest.mark.parametrize("command", ["run", "generate"])
def test_a_signal_during_generation(command, config, tmp_path, monkeypatch):
    cli.main(["run", config, "name=whole", f"output={tmp_path / 'whole'}"])
    computed = []

    def compute(batch, *arguments, own=generation._compute):
        computed.append(batch)
        own(batch, *arguments)
        if len(computed) == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(generation, "_compute", compute)
    stopped(command, config)
    assert len(computed) == 1
    path = generated_path(load_config(config))
    assert not path.exists()
    # Signals that are sent again while the process ends are ignored.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    cli.main([command, config, *(["--resume"] if command == "run" else [])])
    samples = [(batch.group, sample) for batch in computed for sample in batch.samples]
    assert len(samples) == len(set(samples)) == 10 + 3 + 2  # none is computed twice
    (whole,) = (tmp_path / "whole" / "data").glob("*.h5")
    assert path.read_bytes() == whole.read_bytes()
    if command == "run":
        folder = tmp_path / "runs" / "tiny"
        assert tiny.rows(folder) == tiny.rows(tmp_path / "whole" / "whole")


def test_a_signal_while_another_job_generates_the_data(config, monkeypatch, capsys):
    path = generated_path(load_config(config))

    def noted(text):
        assert f"waiting for {path}, which is being written by process" in text
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(locks, "note", noted)
    with Holder(path, "file"):
        stopped("run", config)
    assert f"stopped by a signal while waiting for {path}" in capsys.readouterr().err
