"""A SLURM for these tests: one controller and two virtual nodes on this machine."""

import getpass
import re
import subprocess
import tempfile
from pathlib import Path

import cluster
import pytest


class Slurm:
    """The commands that tests give to SLURM."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = cluster.environment_of(folder)

    def said(self, *words):
        """What a command says; it must succeed."""
        ended = subprocess.run([*map(str, words)], env=self.environment, capture_output=True, text=True, timeout=90, check=False)
        assert ended.returncode == 0, f"{words}: {ended.stderr}"
        return ended.stdout.strip()

    def sbatch(self, *words, cwd):
        """Submit; the job's id."""
        return self.said("sbatch", "--parsable", f"--chdir={cwd}", *words)

    def shows(self, job):
        """What SLURM knows of a job, as `{"JobState": "RUNNING", "Restarts": "1", …}`."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.said("scontrol", "show", "job", "--oneliner", job)))

    def wait(self, job, log=None, seconds=60, **fields):
        """Wait until SLURM says these values of a job's fields."""
        self._wait_for(job, lambda shown: fields.items() <= shown.items(), f"{fields}", log, seconds)

    def preempt(self, job):
        """Have a job of a higher partition take both nodes, for a moment."""
        self.said("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")

    def release(self, job, restart, log=None):
        """Start a job that was queued again now, not in the two minutes that SLURM gives its nodes."""

        def runs(shown):
            if shown["JobState"] == "PENDING" and shown["Reason"] == "BeginTime":
                self.said("scontrol", "update", f"jobid={job}", "starttime=now")
            return shown["JobState"] == "RUNNING" and shown["Restarts"] == str(restart)

        self._wait_for(job, runs, f"restart {restart}", log, seconds=60)

    def _wait_for(self, job, condition, what, log, seconds):
        try:
            cluster.wait_for(lambda: condition(self.shows(job)), f"job {job}: {what}", log, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.shows(job)}") from None

    def kill_node(self, node):
        cluster.kill_node(self.folder, node)

    def kill_daemon(self, node):
        cluster.kill_daemon(self.folder, node)

    def start_node(self, node):
        cluster.start_node(self.folder, node)


@pytest.fixture(scope="session")
def slurm():
    # Not in pytest's folder: the path of a socket may have 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="prdp-")) / "slurm"
    try:
        cluster.up(folder)
        yield Slurm(folder)
    except cluster.UnavailableError as reason:
        pytest.skip(str(reason))
    finally:
        cluster.down(folder)
        folder.parent.rmdir()


@pytest.fixture(autouse=True)
def _no_jobs_left(slurm):
    yield
    slurm.said("scancel", "--user", getpass.getuser())
