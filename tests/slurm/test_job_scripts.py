"""Reliability: how a job of `jobs/` ends, and when it is requeued. A script replaces training, so
that only the job script is tested.
"""

import re
import sys

import pytest
import tiny

pytestmark = pytest.mark.timeout(600)

STAND_IN = f"""\
#!{sys.executable}
import os, signal, sys, time

def save(number, frame):
    for each in (signal.SIGUSR1, signal.SIGTERM):  # a second one may come before the exit
        signal.signal(each, signal.SIG_IGN)
    print("rank", rank, "saves")
    os._exit(85)

rank = os.environ["SLURM_PROCID"]
sys.stdout.reconfigure(line_buffering=True)
print("rank", rank, "of", os.environ["SLURM_NTASKS"] + ":", *sys.argv[1:])
time.sleep(3 if sys.argv[1] == "slow" else 0)  # the time that libraries take to load
if sys.argv[1] != "generate":
    signal.signal(signal.SIGUSR1, save)
    signal.signal(signal.SIGTERM, save)
match sys.argv[1:]:
    case ["end", code]:
        sys.exit(int(code))
    case ["fail-when", file]:
        while not os.path.exists(file):
            time.sleep(0.1)
        sys.exit(3)
    case ["crash"] if rank != "0":
        os.kill(os.getpid(), signal.SIGKILL)
time.sleep(120)
"""


@pytest.fixture
def clone(tmp_path):
    """A folder from which to submit, with a replacement of `prdp-hpc`."""
    program = tmp_path / ".venv" / "bin" / "prdp-hpc"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    program.chmod(0o755)
    (tmp_path / "prdp_hpc").symlink_to(tiny.REPOSITORY / "prdp_hpc")
    return tmp_path


@pytest.fixture
def start(slurm, clone):
    """Submit one of `jobs/` on both nodes; return the job and its log."""

    def submit(*words, options=(), script="cpu_nodes.sh"):
        both = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
        job = slurm.sbatch(*both, *options, tiny.REPOSITORY / "jobs" / script, *words, cwd=clone)
        return job, clone / f"{script.removesuffix('.sh')}-{job}.log"

    return submit


def test_a_finished_job_is_not_requeued(slurm, start):
    (good, good_log), (bad, bad_log) = start("end", 0), start("end", 3)
    slurm.wait(good, good_log, JobState="COMPLETED", ExitCode="0:0", Restarts="0")
    slurm.wait(bad, bad_log, JobState="FAILED", ExitCode="3:0", Restarts="0")
    assert "exited with code 3" in bad_log.read_text()


def test_a_cancelled_job_stays_cancelled(slurm, start):
    job, log = start("train")
    slurm.started(log)
    slurm.output("scancel", job)
    slurm.wait(job, log, JobState="CANCELLED")
    assert log.read_text().count("saves") == 2
    assert "requeued" not in log.read_text()


@pytest.mark.parametrize("begun", [False, True], ids=["from-the-start", "while-loading"])
def test_a_job_signalled_during_start_up_is_requeued(begun, slurm, start):
    job, log = start("slow")
    if begun:
        slurm.started(log)
    else:
        slurm.wait_for(
            lambda: log.exists() and "restart 0" in log.read_text(), "the job script", log
        )
    slurm.output("scancel", "--batch", "--signal=USR1", job)
    slurm.release(job, restart=1, log=log)
    if begun:
        assert log.read_text().count("saves") == 2
        assert "stopped early with a checkpoint, requeued" in log.read_text()
    else:  # a rank may not ignore the signal yet: then it is killed without a checkpoint
        assert re.search(r"(with a checkpoint|during start-up), requeued", log.read_text())


@pytest.mark.parametrize("partition", ["normal", "graceless"])
def test_a_preempted_job_is_requeued(partition, slurm, start):
    job, log = start("train", options=[f"--partition={partition}"])
    slurm.started(log)
    slurm.preempt(job)
    slurm.release(job, restart=1, log=log)
    slurm.started(log, restart=1)
    assert log.read_text().count("saves") == 2


def test_a_manually_requeued_job_runs_again(slurm, start):
    job, log = start("train")
    slurm.started(log)
    slurm.output("scontrol", "requeue", job)
    slurm.release(job, restart=1, log=log)
    slurm.started(log, restart=1)
    assert log.read_text().count("saves") == 2


def test_a_preempted_job_without_checkpoint_is_requeued(slurm, start):
    job, log = start("generate")
    slurm.started(log)
    slurm.preempt(job)
    slurm.release(job, restart=1, log=log)
    assert "ended with" not in log.read_text()


def test_a_job_is_requeued_at_its_time_limit_but_not_after_a_failed_rank(slurm, start):
    """Both take long and run at the same time."""
    job, log = start("train", options=["--time=1", "--signal=B:USR1@55"])
    crashed, crashed_log = start("crash")
    slurm.started(log)
    slurm.started(crashed_log)
    slurm.wait(crashed, crashed_log, JobState="FAILED", ExitCode="137:0", Restarts="0")
    slurm.release(job, restart=1, log=log)
    slurm.started(log, restart=1)
    assert log.read_text().count("saves") == 2
    assert "stopped early with a checkpoint, requeued" in log.read_text()


def test_a_job_that_lost_a_node_is_requeued(slurm, start):
    job, log = start("train")
    slurm.started(log)
    slurm.kill_node("n2")
    slurm.wait(job, log, JobState="PENDING")
    slurm.start_node("n2")
    slurm.release(job, restart=1, log=log)
    slurm.started(log, restart=1)


def test_a_failure_with_a_node_that_does_not_respond_is_requeued(slurm, start, clone):
    """The other ranks may fail long before SLURM marks the node as down."""
    job, log = start("fail-when", clone / "now")
    slurm.started(log)
    slurm.kill_daemon("n2")
    (clone / "now").touch()
    slurm.wait_for(
        lambda: "a node does not respond, requeued" in log.read_text(), "the job script", log
    )
    slurm.start_node("n2")
    slurm.wait(job, log, JobState="PENDING", Restarts="1")


def test_only_the_stopped_task_of_an_array_is_requeued(slurm, start, clone):
    job, _ = start(options=["--array=1-2"], script="seeds.sh")
    logs = {task: clone / f"seeds-{job}_{task}.log" for task in (1, 2)}
    for task, log in logs.items():
        slurm.started(log)
        assert f"seed={task} name=heat_1d-seed-{task} --resume" in log.read_text()
    slurm.output("scancel", "--batch", "--signal=USR1", f"{job}_2")
    slurm.release(f"{job}_2", restart=1)
    slurm.started(logs[2], restart=1)
    slurm.wait(f"{job}_1", logs[1], JobState="RUNNING", Restarts="0")


def test_each_step_of_the_pipeline_waits_for_the_one_before(slurm, clone):
    (clone / "jobs").symlink_to(tiny.REPOSITORY / "jobs")
    reported = slurm.output("bash", clone / "jobs" / "pipeline.sh", "config.yaml")
    generate, train, compare = re.findall(r"job (\d+)", reported)
    slurm.started(clone / f"generate-{generate}.log", ranks=4)
    slurm.wait(train, JobState="PENDING", Reason="Dependency")
    slurm.wait(compare, JobState="PENDING", Reason="Dependency")


def test_one_rank_for_each_gpu(slurm, clone):
    job = slurm.sbatch(tiny.REPOSITORY / "jobs" / "gpu_nodes.sh", "end", 0, cwd=clone)
    slurm.wait(job, JobState="COMPLETED")
    assert slurm.shows(job)["NumCPUs"] == "64"
    assert len(re.findall(r"rank \d of 8", (clone / f"gpu_nodes-{job}.log").read_text())) == 8
