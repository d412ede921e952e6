"""Reliability: two jobs never write to the same path, and a killed job blocks no other."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
from mpi4py import MPI

from prdp_hpc import cli, lock_files, locks
from prdp_hpc.config import load_config
from prdp_hpc.generation.generate import generated_path

ALONE = MPI.COMM_SELF
HOLD = """
import os, sys, time
from mpi4py import MPI
from prdp_hpc.locks import locked
folder, shared = sys.argv[2] != "file", sys.argv[2] == "shared"
with locked(MPI.COMM_SELF, sys.argv[1], "wait", folder=folder, shared=shared):
    if os.fork() == 0:
        time.sleep(60)  # a child that outlives its parent
        os._exit(0)
    print("held", flush=True)
    exec(sys.stdin.read())
"""
COUNT = """
import sys, time
from pathlib import Path
from mpi4py import MPI
from prdp_hpc import lock_files, locks
lock_files.POLL = 0.001
place = Path(sys.argv[1])
for _ in range(60):
    with locks.locked(MPI.COMM_SELF, place, "wait", wait=True):
        number = int(place.read_text())
        time.sleep(0.002)
        place.write_text(str(number + 1))
"""


class Holder:
    """Another process that holds a lock until it is killed or has finished its task."""

    def __init__(self, path, kind="folder", **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=tiny.environment() | environment,
            start_new_session=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock_files, "PATIENCE", 0.0)


@pytest.fixture
def config(tmp_path):
    return tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))


def content(folder):
    """The content of a folder in bytes, without the locks."""
    return {
        str(path): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


def refused(capsys, holder, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    reported = capsys.readouterr().err
    assert ended.value.code == 2
    assert reported.count("prdp-hpc: error: ") == reported.count("\n") == 1
    if holder is not None:
        assert f"is being written by process {holder.process.pid} on " in reported
        assert time.strftime("since %Y-%m-") in reported
    return reported


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_ends_with_its_process(kind, tmp_path):
    place = tmp_path / "new" / "place"
    with Holder(place, kind, SLURM_JOB_ID="4711") as holder:
        printed = r"process \d+ on .* \(SLURM job 4711, user .*"
        second = locks.locked(ALONE, place, "wait", folder=kind == "folder")
        with pytest.raises(locks.LockedError, match=printed), second:
            pass
        holder.kill()  # the child continues to run
        with locks.locked(ALONE, place, "wait", folder=kind == "folder"):
            pass
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["place"] * (kind == "folder")


def test_one_job_may_hold_a_lock_several_times(tmp_path):
    check = (
        "import sys; from pathlib import Path; from prdp_hpc.lock_files import is_locked; "
        "print(is_locked(Path(sys.argv[1])))"
    )

    def seen_by_others():
        words = [sys.executable, "-c", check, str(tmp_path / ".lock")]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    with locks.locked(ALONE, tmp_path, "wait", folder=True):
        with locks.locked(ALONE, tmp_path, "wait", folder=True):
            assert not locks.is_locked(tmp_path / ".lock")  # not by another process
        assert seen_by_others() == "True"
    assert list(tmp_path.iterdir()) == []
    with locks.locked(ALONE, tmp_path, "wait", folder=True):
        pass


def test_never_two_at_once(tmp_path):
    """Although each holder removes the file of the lock when it exits."""
    place = tmp_path / "number"
    place.write_text("0")
    words = [sys.executable, "-c", COUNT, str(place)]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(subprocess.run, words, check=True) for _ in range(3)]
        assert [run.result().returncode for run in runs] == [0, 0, 0]
    assert place.read_text() == "180"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_an_earlier_start_of_the_same_job_is_waited_for(tmp_path, monkeypatch):
    """As after the failure of a node, whose locks a file server keeps for some time."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with Holder(tmp_path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="0") as holder:
        holder.process.stdin.write("time.sleep(0.5)")
        holder.process.stdin.close()
        with locks.locked(ALONE, tmp_path, "wait", folder=True):
            pass


def test_a_shared_lock_excludes_only_the_others(tmp_path):
    """Until the last process that shares it has released it."""
    place = tmp_path / ".lock"
    with Holder(tmp_path, "shared") as holder:
        with locks.locked(ALONE, tmp_path, "wait", folder=True, shared=True):
            pass
        assert place.exists()
        assert lock_files.holder(place) is not None
        alone = locks.locked(ALONE, tmp_path, "wait", folder=True, patience=0)
        with pytest.raises(locks.LockedError), alone:
            pass
        holder.process.stdin.close()
        holder.process.wait(timeout=10)
    assert not place.exists()
    with locks.locked(ALONE, tmp_path, "wait", folder=True):
        pass


@pytest.mark.parametrize("number", lock_files._NO_LOCKS)
def test_a_file_system_without_locks(number, tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock_files.fcntl, "lockf", lockf)
    reported = pytest.warns(RuntimeWarning, match="this file system has no locks")
    with reported, locks.locked(ALONE, tmp_path, "wait", folder=True):
        pass


def test_a_second_training(config, tmp_path, capsys, two_ranks):
    cli.main(["run", config, "training.epochs=1"])
    folder = tmp_path / "runs" / "tiny"
    before = content(tmp_path / "runs")
    capsys.readouterr()
    with Holder(folder) as holder:
        for option in ([], ["--resume"], ["--overwrite"]):
            reported = refused(capsys, holder, "run", config, *option)
            assert f"{folder} is being written by" in reported
            assert "wait until it ends or end it, or choose another name=… or output=…" in reported
        (done,) = two_ranks([["run", config, "--resume"]])
        assert done.codes == [2, 2]
        assert done.stderr.count("prdp-hpc: error: ") == done.stderr.count("\n") == 1
        assert content(tmp_path / "runs") == before
        holder.kill()
        cli.main(["run", config, "--resume", "training.epochs=2"])
    cli.main(["run", config, "--overwrite", "training.epochs=1"])
    assert not list(folder.rglob("*.lock"))


def test_a_second_comparison(config, tmp_path, capsys):
    words = ["training.epochs=1", "comparison.seeds=1"]
    cli.main(["compare", config, *words])
    folder = tmp_path / "runs" / "tiny-compare"
    before = content(tmp_path / "runs")
    capsys.readouterr()
    with Holder(folder) as holder:
        for option in ([], ["--resume"], ["--overwrite"]):
            refused(capsys, holder, "compare", config, *words, *option)
    # One of its runs, continued with `prdp-hpc run`.
    with Holder(folder / "prdp"):
        reported = refused(capsys, None, "compare", config, *words, "--overwrite")
        assert f"{folder / 'prdp'} is being written by another job" in reported
    assert content(tmp_path / "runs") == before


def test_a_second_paper(tmp_path, capsys):
    with Holder(tmp_path / "paper") as holder:
        reported = refused(capsys, holder, "paper", "--quick", "--out", tmp_path / "paper")
        assert "or choose another --out" in reported
    assert content(tmp_path) == {}


def test_a_second_generation(config, tmp_path, capsys):
    cli.main(["generate", config])
    made = generated_path(load_config(config))
    before = content(tmp_path / "runs")
    capsys.readouterr()
    with Holder(made, "file") as holder:
        refused(capsys, holder, "generate", config)
        # Existing data are read.
        cli.main(["run", config, "training.epochs=1"])
    assert content(made.parent) == before
    # The job waits for data that another job is writing.
    made.rename(tmp_path / "aside.h5")
    with Holder(made, "file") as holder:
        move = f"time.sleep(1); os.rename({str(tmp_path / 'aside.h5')!r}, {str(made)!r})"
        holder.process.stdin.write(move)
        holder.process.stdin.close()
        capsys.readouterr()
        cli.main(["run", config, "training.epochs=1", "--overwrite"])
        reported = capsys.readouterr().err
        assert f"prdp-hpc: waiting for {made}, which is being written by process" in reported
    assert content(made.parent) == before


def test_generating_leaves_the_parts_of_other_files(config, tmp_path):
    parts = [f"{name}.0123abcd.parts" for name in ("a.h5", "a.b.h5", "a.hdf5", "a", "aXh5")]
    for name in parts:
        (tmp_path / name).mkdir()
    cli.main(["generate", config, "--out", str(tmp_path / "a.h5")])
    assert sorted(path.name for path in tmp_path.glob("*.parts")) == sorted(parts[1:])
