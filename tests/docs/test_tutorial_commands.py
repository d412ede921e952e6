"""Usability: a reader who types the commands of a tutorial, in its order, gets no error."""

import os
import shlex
import subprocess

import pytest
import run_tutorials
import tiny

TUTORIALS = sorted(run_tutorials.TUTORIALS.glob("*.md"))
# What needs a cluster, a GPU, files of the reader, minutes, or another environment.
ELSEWHERE = ("pip ", "venv", "module ", "held_out.h5", "scancel", "navier_stokes", "runs/heat_2d")


def is_elsewhere(line):
    needs_slurm = " submit " in line and "--dry-run" not in line
    return needs_slurm or any(word in line for word in ELSEWHERE)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_commands_of_a_tutorial_run_between_its_python_blocks(path):
    environment = tiny.environment()
    environment["PATH"] = f"{tiny.BIN}{os.pathsep}{environment['PATH']}"

    def shell(line):
        words = shlex.split(line, comments=True)
        if words and not is_elsewhere(line):
            done = subprocess.run(
                words, capture_output=True, text=True, env=environment, timeout=900, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"

    with run_tutorials.scratch_folder():
        results = run_tutorials.execute(path, shell)
    assert not list(run_tutorials.differences(results))
