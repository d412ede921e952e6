"""Reliability: a job on four ranks that is killed in the middle of an epoch continues on two with
the samples of a job that was not, also if its data were moved; a second job on its folder is
refused.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import tiny

STEPS, EVERY, KILL, HOLD = 60, 4, 22, 40
"""Steps of 4 epochs, steps between checkpoints, a step in the middle of the second epoch, and the
step at which jobs wait while there is a file `hold`.
"""
TRAIN = """
import json, os, sys, time
from prdp_hpc.cli import main
from prdp_hpc.data import share
from prdp_hpc.tasks.supervised import SupervisedTask

own, (path, pause, hold, *words) = SupervisedTask._batches, sys.argv[1:]


def batches(self, first, last):
    for step, batch in enumerate(own(self, first, last), first):
        mine = share(batch, self.mesh.replica, self.mesh.replicas).tolist()
        with open(f"{path}.{self.mesh.replica}", "a") as file:
            file.write(json.dumps([step, mine, os.getpid()]) + "\\n")
        time.sleep(float(pause))
        while step == int(hold) and os.path.exists("hold"):
            time.sleep(0.05)
        yield batch


SupervisedTask._batches = batches
main(words)
"""


class Job:
    """`prdp-hpc run` on some ranks, each of which writes its samples to a file."""

    def __init__(self, folder, ranks, name, *words, pause=0.0):
        self._path = folder / f"samples_{time.monotonic_ns()}"
        script = folder / "train.py"
        script.write_text(TRAIN)
        train = [sys.executable, script, self._path, pause, HOLD, "run", folder / "a.yaml"]
        command = [tiny.BIN / "mpiexec", "-n", ranks, *train, f"name={name}", *words]
        self._process = subprocess.Popen(
            list(map(str, command)),
            stderr=subprocess.PIPE,
            text=True,
            env=tiny.environment(),
            cwd=folder,
        )

    def samples(self):
        """The numbers of the samples of each step, in the order of the replicas."""
        found = {}
        for step, mine, _ in self._lines():
            found.setdefault(step, []).extend(mine)
        return found

    def wait_for(self, step):
        while self._process.poll() is None and step not in self.samples():
            time.sleep(0.05)

    def kill(self):
        """Kill all ranks."""
        for process in {process for _, _, process in self._lines()}:
            os.kill(process, signal.SIGKILL)
        self._process.communicate()

    def end(self):
        """Wait for the end; the exit code and the messages."""
        messages = self._process.communicate()[1]
        return self._process.returncode, messages

    def _lines(self):
        for path in sorted(self._path.parent.glob(f"{self._path.name}.*")):
            yield from map(json.loads, path.read_text().rpartition("\n")[0].splitlines())


@pytest.mark.long
def test_a_killed_job_of_four_ranks_continues_on_two_with_the_same_samples(tmp_path):
    states = np.random.default_rng(0).standard_normal((24, 8, 1, 8))
    data = tmp_path / "states.h5"
    with h5py.File(data, "w") as file:
        file["train/trajectories"], file["validation/trajectories"] = states[:20], states[20:]
    training = {"epochs": 4, "batch_size": 8, "checkpoint_every": f"{EVERY} steps"}
    content = tiny.emulator(
        tmp_path, training=training, data={"file": str(data), "in_memory": False}
    )
    tiny.write(tmp_path / "a.yaml", content)
    whole = Job(tmp_path, 4, "whole")
    assert whole.end()[0] == 0
    assert sorted(whole.samples()) == list(range(STEPS))
    killed = Job(tmp_path, 4, "killed", pause=0.1)
    killed.wait_for(KILL)
    killed.kill()
    shutil.copytree(tmp_path / "killed", tmp_path / "moved")
    (tmp_path / "hold").touch()
    resumed = Job(tmp_path, 2, "killed", "--resume")
    resumed.wait_for(HOLD)
    second = Job(tmp_path, 1, "killed", "--resume")
    code, message = second.end()
    assert code == 2
    assert "is being written by process" in message
    assert not second.samples()
    (tmp_path / "hold").unlink()
    assert resumed.end()[0] == 0
    data.rename(tmp_path / "elsewhere.h5")
    moved = Job(tmp_path, 2, "moved", "--resume", f"data.file={tmp_path / 'elsewhere.h5'}")
    assert moved.end()[0] == 0
    for job in (resumed, moved):
        first = min(job.samples())
        assert 0 < first <= max(killed.samples())
        assert killed.samples() | job.samples() == whole.samples()
    assert tiny.rows(tmp_path / "killed") == tiny.rows(tmp_path / "moved")
    errors = [[row["error"] for row in tiny.rows(tmp_path / n)] for n in ("killed", "whole")]
    assert errors[0] == pytest.approx(errors[1], rel=1e-9)
