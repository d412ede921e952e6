"""Reliability: a generation that was stopped or killed continues, and ends with the same file."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny

from prdp_hpc.config import validate
from prdp_hpc.data import DataError, TrajectoryFile, writer
from prdp_hpc.distributed.preemption import Preempted
from prdp_hpc.generation import generate as generation
from prdp_hpc.grid.structured import Grid

KILLED = """
import os, signal, sys, json
from prdp_hpc.config import validate
from prdp_hpc.data import writer
from prdp_hpc.generation import generate as generation
from prdp_hpc.grid.structured import Grid

def write(*arguments, own=writer.TrajectoryWriter.write, calls=[]):
    calls.append(1)
    if len(calls) == 8:  # in the middle of the third batch
        os.kill(os.getpid(), signal.SIGKILL)
    own(*arguments)

writer.TrajectoryWriter.write, writer.RECORD_SECONDS = write, 0.0
config = validate(json.loads(sys.argv[1]), "here")
generation.generate(config, Grid(config.grid.shape), sys.argv[2])
"""


def config_of(tmp_path, **changes):
    content = tiny.emulator(tmp_path, data={"train": 18, "test": 3, **changes})
    return content, validate(content, "here")


def generate(config, path):
    generation.generate(config, Grid(config.grid.shape), path)
    return path.read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def computed(monkeypatch):
    """The batches that are computed; the entry `hook` is called after each of them."""
    found = {"batches": [], "hook": lambda: None}

    def compute(batch, *arguments, own=generation._compute):
        found["batches"].append(batch)
        own(batch, *arguments)
        found["hook"]()

    monkeypatch.setattr(generation, "_compute", compute)
    monkeypatch.setattr(writer, "RECORD_SECONDS", 0.0)
    return found


def test_a_killed_generation_continues(tmp_path, computed, capsys):
    content, config = config_of(tmp_path)
    whole = generate(config, tmp_path / "whole.h5")
    every = computed["batches"].copy()
    path = tmp_path / "killed" / "a.h5"
    words = [sys.executable, "-c", KILLED, json.dumps(content), str(path)]
    assert subprocess.run(words, env=tiny.environment(), timeout=60).returncode == -signal.SIGKILL
    assert names(path.parent) == [".a.h5.finished", ".a.h5.lock", ".a.h5.unfinished"]
    # A kill in the middle of a line.
    with (path.parent / ".a.h5.finished").open("a") as file:
        file.write('["train", 10')
    computed["batches"].clear()
    assert generate(config, path) == whole
    assert computed["batches"] == every[2:]
    assert names(path.parent) == ["a.h5"]
    assert "10 of 24 trajectories of" in capsys.readouterr().err


def test_a_signal_is_heard_between_batches(tmp_path, computed, capsys):
    _, config = config_of(tmp_path)
    whole = generate(config, tmp_path / "whole.h5")
    path = tmp_path / "stopped.h5"
    for done in (1, 2):
        computed["hook"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted) as raised:
            generate(config, path)
        assert raised.value.code == 85
        assert f"{5 * done} of 24 trajectories" in capsys.readouterr().err
        assert not path.exists()
    computed["hook"] = lambda: None
    assert generate(config, path) == whole


def test_samples_of_another_config_or_damaged_lists_are_not_kept(tmp_path, computed):
    _, config = config_of(tmp_path)
    whole = generate(config, tmp_path / "whole.h5")
    path = tmp_path / "a.h5"

    def stop():
        raise KeyboardInterrupt

    for damage in ("config", "list", "data"):
        computed["hook"] = stop if damage == "config" else lambda: None
        _, other = config_of(tmp_path, seed=4)
        computed["hook"] = stop
        with pytest.raises(KeyboardInterrupt):
            generate(other if damage == "config" else config, path)
        if damage == "list":
            (tmp_path / ".a.h5.finished").write_bytes(b"\0" * 100)
        if damage == "data":
            (tmp_path / ".a.h5.unfinished").unlink()
        computed["hook"] = lambda: None
        assert generate(config, path) == whole
        path.unlink()


def test_an_earlier_file_is_replaced_only_at_the_end(tmp_path, computed):
    _, config = config_of(tmp_path)
    _, other = config_of(tmp_path, seed=4)
    path = tmp_path / "a.h5"
    before = generate(other, path)

    def fail():
        raise OSError(28, "No space left on device")

    computed["hook"] = fail
    with pytest.raises(OSError, match="No space"):
        generate(config, path)
    assert path.read_bytes() == before
    computed["hook"] = lambda: None
    assert generate(config, path) != before


def test_a_full_disk_is_an_error_of_the_file(tmp_path, monkeypatch):
    _, config = config_of(tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"a\.h5: cannot be written \(No space left on device\)"):
        generate(config, tmp_path / "a.h5")


def test_every_state_is_a_chunk(tmp_path):
    import h5py

    _, config = config_of(tmp_path)
    generate(config, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["train/trajectories"].chunks == (1, 1, 1, 8)
    data = TrajectoryFile(tmp_path / "a.h5")
    assert np.isfinite(data.read("test")).all()
