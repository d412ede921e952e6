"""A minute of random cases: each result is correct to tolerance, or raises an error of ours.

`make test-adversarial CASES=… SEED=…` runs more cases and reports the faults.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from mpi4py import MPI

from .cases import Case, script
from .check import run
from .drive import Crew, Hunt
from .strategies import cases, seeded_cases

WORLD = MPI.COMM_WORLD
ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("PRDP_ADVERSARIAL_SEED", "1"))
MINUTES = os.environ.get("PRDP_ADVERSARIAL_MINUTES", "60")


# PETSc makes this preconditioner for all ranks of the job only.
FOR_ALL_RANKS = Case(
    ranks=2,
    n=2,
    rows=(0, 1),
    cols=(0, 1),
    holders=(0, 1),
    values=((2.0, 3.0),),
    b=((1.0, 1.0),),
    grad=((1.0, 1.0),),
    pc="tfs",
)


@seed(SEED)
@settings(max_examples=300, database=None)
@given(case=cases())
def test_one_rank(case):
    outcome = run(case, MPI.COMM_SELF)
    assert outcome.kind != "fault", f"{outcome}\n{script(case)}"


@pytest.mark.parallel(nprocs=4)
def test_several_ranks():
    crew = Crew(WORLD)
    if WORLD.rank:
        crew.serve()
        return
    hunt = Hunt(crew, known=set(), left_out=set())
    outcomes = list(hunt.run([FOR_ALL_RANKS, *seeded_cases(SEED, 150, (2, 3, 4))]))
    crew.dismiss()
    assert not outcomes, "\n".join(f"{o}\n{script(case)}" for case, o in hunt.faults)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("ranks", [1, 4])
def test_half_an_hour(ranks):
    command = [
        sys.executable,
        "-m",
        "tests.adversarial",
        "--seed",
        str(SEED),
        "--ranks",
        str(ranks),
    ]
    command += ["--cases", "1000000000", "--minutes", str(float(MINUTES) / 2)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
