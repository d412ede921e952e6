"""Usability: the state and the progress of each run and job, from files and SLURM alone."""

import json
import os
import subprocess
import sys
import time

import pytest
import tiny
from test_locks import Holder

from prdp_hpc import cli

SQUEUE = "printf '%s\\n' '7|PENDING|Resources|0:00' '8_3|RUNNING|None|1:02:03' '9|RUNNING|None|1'"


def run(folder, epochs=4, done=None, summary=False):
    """A run folder whose metrics have lines up to an epoch; None: without metrics."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"training: {{epochs: {epochs}}}\n")
    if done is not None:
        lines = [
            {"epoch": n, "error": 10.0**-n, "level": n + 1, "total_seconds": 60.0 * n}
            for n in range(done + 1)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text + '{"epoch": 9')  # a line being written
        then = time.time() - 7200
        os.utime(folder / "metrics.jsonl", (then, then))
    if summary:
        (folder / "summary.json").write_text("{}")
    return folder


def rows(capsys, *words):
    """The cells of the tables, by their first one."""
    cli.main(["status", *map(str, words)])
    lines = capsys.readouterr().out.splitlines()
    return {line.split("  ")[0]: line for line in lines}


def test_states_and_progress(tmp_path, capsys):
    run(tmp_path / "good", done=4, summary=True)
    run(tmp_path / "late", done=2)
    active = run(tmp_path / "sweep" / "active", done=2)
    (tmp_path / "loading").mkdir()
    (active / "checkpoints").mkdir()
    run(active / "figures" / "ignored")
    array = {"SLURM_JOB_ID": "4713", "SLURM_ARRAY_JOB_ID": "4711", "SLURM_ARRAY_TASK_ID": "2"}
    with Holder(active, **array), Holder(tmp_path / "loading"):
        shown = rows(capsys, tmp_path)
        single = rows(capsys, active)
    assert "finished" in shown["good"]
    assert "epoch 4/4" in shown["good"]
    assert "stopped" in shown["late"]
    assert "2 h 00 min ago" in shown["late"]
    line = shown["sweep/active"]
    for part in ("running", "epoch 2/4", "1.00e-02", "  3  ", "2 min", "job 4711_2 on ", " s ago"):
        assert part in line
    assert "starting" in shown["loading"]
    assert "process " in shown["loading"]
    assert not any("ignored" in name for name in shown)
    assert "running" in single["active"]
    assert "stopped" in rows(capsys, tmp_path)["sweep/active"]


def test_steps_between_two_validations(tmp_path, capsys):
    folder = run(tmp_path / "steps", done=1)
    (folder / "steps.jsonl").write_text('{"epoch": 1.5, "step": 30, "total_seconds": 90.0}\n')
    with Holder(folder):
        assert "epoch 1.5/4" in rows(capsys, tmp_path)["steps"]
        (folder / "config.yaml").write_text(
            "training: {epochs: 100, steps: 60, validate_every: 1}\n"
        )
        line = rows(capsys, tmp_path)["steps"]
    assert "step 30/60" in line
    assert "  1 min  " in line


def test_jobs_in_the_queue(tmp_path, capsys, monkeypatch):
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{SQUEUE}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    jobs = tmp_path / "runs" / "slurm" / "jobs.jsonl"
    jobs.parent.mkdir(parents=True)
    lines = [{"job": "7", "name": "a", "results": "runs/a"}, {"job": "8", "name": "b"}]
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = rows(capsys, tmp_path / "runs")
    assert "PENDING (Resources)" in shown["7"]
    assert shown["7"].endswith("runs/a")
    assert "1:02:03" in shown["8_3"]
    assert "9" not in shown  # a job of another folder
    monkeypatch.setenv("PATH", "/nowhere")
    assert list(rows(capsys, tmp_path / "runs")) == [f"no runs in {tmp_path / 'runs'}"]


def test_a_folder_that_does_not_exist(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["status", str(tmp_path / "none")])
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_a_real_run_without_loading_mpi(tmp_path):
    config = tiny.write(tmp_path / "tiny.yaml", tiny.emulator(tmp_path / "runs"))
    cli.main(["run", config])
    words = ["status", str(tmp_path / "runs")]
    code = (
        f"import sys; from prdp_hpc import cli; cli.main({words!r}); "
        "print(sorted({'mpi4py', 'torch'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown = ended.stdout.splitlines()
    assert shown[-1] == "[]"
    assert any("tiny" in line and "finished" in line and "epoch 3/3" in line for line in shown)
