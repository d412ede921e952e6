"""A failure of one rank ends a job of torchrun too, where `MPI_Abort` may return: the end of the
process tells the process manager.
"""

import subprocess

import pytest
import tiny
from launches import TORCHRUN

SCRIPT = """
import sys, torch
import prdp_hpc
from mpi4py import MPI
from prdp_hpc import Grid, Heat, Solver
grid = Grid((8,))
heat = Heat(grid, 1.0, 0.1, Solver("cg", "jacobi", 1e-8))
step = lambda: heat(torch.ones(1, 1, *grid.local_shape).double())
step()
if MPI.COMM_WORLD.rank == 1:
    {}
step()
"""


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("raise ArithmeticError('it fell')", "rank 1 failed"),
        pytest.param("sys.exit(3)", "rank 1 exited with code 3", marks=pytest.mark.long),
        pytest.param("raise KeyboardInterrupt", "rank 1 failed", marks=pytest.mark.long),
    ],
)
def test_a_failure_of_one_rank_ends_the_job(tmp_path, fails, said):
    script = tmp_path / "fails.py"
    script.write_text(SCRIPT.format(fails))
    job = subprocess.run(
        [*TORCHRUN, "2", script],
        capture_output=True,
        text=True,
        timeout=90,
        env=tiny.environment(),
        check=False,
    )
    assert job.returncode != 0
    assert job.stderr.count(said) == 1, job.stderr
    assert job.stderr.count("ending the job") >= 1
