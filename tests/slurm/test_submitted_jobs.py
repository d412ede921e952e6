"""Reliability: `prdp-hpc submit` with SLURM; a job that is stopped three times ends with the
numbers of an uninterrupted one.
"""

import re
import subprocess

import cluster
import pytest
import tiny
import torch

from prdp_hpc.training.checkpoint import Checkpoints

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def submit(slurm, tmp_path):
    """`prdp-hpc submit` of a config with run folders in `tmp_path / "runs"`."""
    content = tiny.emulator(tmp_path / "runs", training={"epochs": 16}, data={"train": 200})
    config = tiny.write(tmp_path / "config.yaml", content)

    def run(*options):
        words = [str(tiny.BIN / "prdp-hpc"), "submit", config, *options]
        return subprocess.run(
            words,
            env=slurm.environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )

    return run


def test_three_stops_change_no_number(slurm, submit, tmp_path):
    alone_command = tiny.command(
        2, "run", tmp_path / "config.yaml", "name=alone", f"output={tmp_path / 'alone'}"
    )
    alone = subprocess.Popen(
        alone_command, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    reported = submit("--nodes", "2", "--replicas", "2", "--time", "10")
    assert reported.returncode == 0, reported.stderr
    job, log, folder = re.search(
        r"job: +(\d+)\nlog: +(.*)\nrun folder: (.*)\n", reported.stdout
    ).groups()
    log, folder = tmp_path / log, tmp_path / folder

    def epochs(count, restart):
        metrics = folder / "metrics.jsonl"
        cluster.wait_for(
            lambda: metrics.exists() and metrics.read_text().count("\n") > count,
            f"epoch {count}",
            log,
        )
        # The job may have reached this state before it was stopped.
        cluster.wait_for(
            lambda: f"restart {restart}, on" in log.read_text(), f"restart {restart}", log
        )

    epochs(2, restart=0)
    slurm.preempt(job)
    slurm.release(job, restart=1, log=log)
    epochs(6, restart=1)
    slurm.output("scancel", "--batch", "--signal=USR1", job)  # as SLURM does before the time limit
    slurm.wait(job, log, JobState="PENDING")
    slurm.output("scontrol", "update", f"jobid={job}", "partition=graceless")
    slurm.release(job, restart=2, log=log)
    epochs(10, restart=2)
    slurm.preempt(job)
    slurm.release(job, restart=3, log=log)
    slurm.wait(job, log, JobState="COMPLETED", Restarts="3")

    assert alone.wait(timeout=60) == 0
    assert [f"restart {count}, on n[1-2]" in log.read_text() for count in range(4)] == [True] * 4
    assert tiny.rows(folder) == tiny.rows(tmp_path / "alone" / "alone")
    networks = [
        Checkpoints(run / "checkpoints").load_latest()["task"]["network"]
        for run in (folder, tmp_path / "alone" / "alone")
    ]
    torch.testing.assert_close(*networks, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--account=nobodys"],
            "Invalid account or account/partition combination specified. Give --account",
        ),
        (["--partition=nowhere"], "Give one of these with --partition: graceless, normal, urgent"),
        (
            ["--time=30-0"],
            "Requested time limit is invalid (missing or exceeds some limit). Give a shorter "
            "--time",
        ),
        (
            ["--time=soon"],
            "Invalid --time specification. Give --time as minutes, hours:minutes:seconds",
        ),
        (["--nodes=3", "--replicas=3"], "Node count specification invalid. Give other --nodes"),
        (["--cpus-per-task=500"], "More processors requested than permitted. Give other --nodes"),
        (
            ["--gpus-per-node=9"],
            "Requested node configuration is not available. Give other --nodes",
        ),
    ],
)
def test_jobs_that_sbatch_rejects(options, message, submit):
    reported = submit(*options)
    assert reported.returncode == 2
    assert message in reported.stderr
    assert re.fullmatch(
        r"prdp-hpc: error: sbatch rejected \S+/runs/slurm/tiny\.sh: .*\n", reported.stderr
    )
