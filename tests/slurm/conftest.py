"""A SLURM for these tests: one controller and two virtual nodes on this machine."""

import getpass
import re
import subprocess
import tempfile
import time
from pathlib import Path

import cluster
import pytest

# A node rejects the start of a job within a second of an end ("Job credential revoked"), and SLURM
# then starts the rejected job two minutes later.
_REVOKED = 2


class Slurm:
    """The commands that tests send to SLURM."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = cluster.environment_of(folder)

    def output(self, *words):
        """The output of a command, which must succeed."""
        ended = subprocess.run(
            [*map(str, words)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert ended.returncode == 0, f"{words}: {ended.stderr}"
        return ended.stdout.strip()

    def sbatch(self, *words, cwd):
        """Submit a job; return its id."""
        return self.output("sbatch", "--parsable", f"--chdir={cwd}", *words)

    def shows(self, job):
        """The attributes of a job in SLURM, e.g. `{"JobState": "RUNNING", "Restarts": "1", …}`."""
        return dict(
            re.findall(r"(\S+?)=(\S*)", self.output("scontrol", "show", "job", "--oneliner", job))
        )

    def wait_for(self, condition, what, log=None, seconds=180):
        """Wait until the condition holds; the error has what SLURM says about it."""
        try:
            cluster.wait_for(condition, what, log, seconds)
        except TimeoutError as error:
            daemons = "\n".join(
                f"{path.name}:\n{path.read_text()[-2000:]}"
                for path in sorted(self.folder.glob("slurm*.log"))
            )
            jobs, nodes = (self.output("scontrol", "show", kind) for kind in ("job", "node"))
            raise TimeoutError(f"{error}\n{jobs}\n{nodes}\n{daemons}") from None

    def wait(self, job, log=None, seconds=180, **fields):
        """Wait until SLURM reports these values of the attributes of a job."""
        self.wait_for(
            lambda: fields.items() <= self.shows(job).items(), f"job {job}: {fields}", log, seconds
        )

    def started(self, log, restart=0, ranks=2):
        """Wait until all ranks of this restart have written to the log that they run."""

        def begun():
            return (
                log.exists()
                and len(
                    re.findall(r"rank \d of", log.read_text().partition(f"restart {restart},")[2])
                )
                == ranks
            )

        self.wait_for(begun, f"restart {restart}", log)

    def preempt(self, job):
        """Preempt both nodes for a short time by a job of a higher partition."""
        self.output(
            "sbatch",
            "--partition=urgent",
            "--nodes=2",
            "--exclusive",
            "--output=/dev/null",
            "--wrap=true",
        )

    def release(self, job, restart, log=None):
        """Start a requeued job after two seconds, not after SLURM's two minutes."""
        self.wait(job, log, JobState="PENDING", Reason="BeginTime")
        time.sleep(_REVOKED)
        self.output("scontrol", "update", f"jobid={job}", "starttime=now")
        self.wait(job, log, JobState="RUNNING", Restarts=str(restart))

    def cancel_all(self):
        """Cancel all jobs and wait until their nodes take others."""
        self.output("scancel", "--user", getpass.getuser())
        if self.output("squeue", "--noheader"):
            self.wait_for(lambda: not self.output("squeue", "--noheader"), "the jobs' end")
            time.sleep(_REVOKED)

    def kill_node(self, node):
        cluster.kill_node(self.folder, node)

    def kill_daemon(self, node):
        cluster.kill_daemon(self.folder, node)

    def start_node(self, node):
        cluster.start_node(self.folder, node)


@pytest.fixture(scope="session")
def slurm():
    # Not in the folder of pytest, because the path of a socket has at most 107 characters.
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
    slurm.cancel_all()
