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

pytestmark = pytest.mark.timeout(900)


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

    assert alone.wait(timeout=180) == 0
    assert [f"restart {count}, on n[1-2]" in log.read_text() for count in range(4)] == [True] * 4
    assert tiny.rows(folder) == tiny.rows(tmp_path / "alone" / "alone")
    networks = [
        Checkpoints(run / "checkpoints").load_latest()["task"]["network"]
        for run in (folder, tmp_path / "alone" / "alone")
    ]
    torch.testing.assert_close(*networks, rtol=0, atol=0)


CONTAINER = """#!/bin/sh
echo "container $3 $4:" "$@"
"""


def test_a_comparison_is_fanned_out_and_collected(slurm, submit, tmp_path):
    """A script in place of the container runtime prints what each rank would run."""
    runtime = tmp_path / "bin" / "apptainer"
    runtime.parent.mkdir()
    runtime.write_text(CONTAINER)
    runtime.chmod(0o755)
    slurm.environment["PATH"] = f"{runtime.parent}:{slurm.environment['PATH']}"
    image = tmp_path / "image.sif"
    image.touch()
    options = [f"--container={image}", "--fan-out=1", "comparison.seeds=2", "--replicas=2"]
    reported = submit(*options, "--sbatch=comment=mine", "--exclusive", "--constraint=fast")
    assert "Invalid feature specification. Give another --constraint" in reported.stderr
    reported = submit(*options, "--sbatch=comment=mine", "--exclusive")
    assert reported.returncode == 0, reported.stderr
    array, collect = re.findall(r"job: +(\d+)", reported.stdout)
    queued = submit_status(slurm, tmp_path)
    assert "tiny-compare-collect" in queued
    assert "PENDING (Dependency)" in queued
    slurm.wait(collect, JobState="COMPLETED")
    folder = tmp_path / "runs" / "slurm"
    logs = [folder / f"tiny-compare-{array}_{task}.log" for task in range(4)]
    for task, log in enumerate(logs):
        ranks = re.findall(r"container .*: (.*)", log.read_text())
        assert len(ranks) == 2
        words = f"compare {folder / 'tiny-compare.yaml'} --only={task} --resume"
        assert all(rank.endswith(f"image.sif prdp-hpc {words}") for rank in ranks)
    log = folder / f"tiny-compare-collect-{collect}.log"
    assert f"prdp-hpc compare {folder / 'tiny-compare.yaml'} --resume" in log.read_text()
    ended = max(log.stat().st_mtime for log in logs)
    assert log.stat().st_mtime >= ended
    assert slurm.shows(collect)["Comment"] == "mine"


def submit_status(slurm, folder):
    words = [str(tiny.BIN / "prdp-hpc"), "status"]
    ended = subprocess.run(
        words, env=slurm.environment, capture_output=True, text=True, cwd=folder, check=True
    )
    return ended.stdout


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
        (["--mem=99T"], "Give another --mem"),
        (["--dependency=afterok:x"], "Give --dependency as TYPE:JOB"),
        (["--array=3-1"], "Give --array as numbers and ranges"),
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
        r"prdp-hpc: error: sbatch rejected \S+/runs/slurm/tiny(-seeds)?\.sh: .*\n", reported.stderr
    )
