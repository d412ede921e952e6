"""Property: after any failure of one rank the job ends on all ranks, and reports the reason once,
with the rank.

Each case is a separate script, started by mpiexec; two run at a time.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import tiny

# One worker has all: it starts the jobs together.
pytestmark = [pytest.mark.xdist_group("failures"), pytest.mark.timeout(400)]

SECONDS = 100
"""More than any failure may take, on a machine that is busy with other work."""

SOLVES = """
import sys
import numpy as np, torch
from mpi4py import MPI
from prdp_hpc import FunctionOperator, Grid, Solver, SparseOperator, solve
rank = MPI.COMM_WORLD.rank
def fall():
    if rank == 1:
        raise ArithmeticError("it fell")
n, first = 4, 4 * rank
rows = np.arange(first, first + n)
operator = SparseOperator(rows, rows, (4 * MPI.COMM_WORLD.size,) * 2)
values, b = torch.ones(n, dtype=torch.float64, requires_grad=True), torch.ones(n).double()
again = lambda: solve(operator, values, b, Solver("cg", "jacobi", 1e-8))
again()
"""

FUNCTION = """
def apply(values, x):
    x[0] == FORWARD and fall()
    return values * x
def transposed(values, x):
    fall()
    return values * x
given = FunctionOperator(apply, n, apply_transpose=transposed)
solve(given, values, b, Solver("gmres", "none", 1e-8)).sum().backward()
"""

MISSING_DIAGONAL = """
other = SparseOperator(rows, rows - rank, operator.shape)
solve(other, values, b, Solver("gmres", "bjacobi", 1e-8))
"""

PYTHON_PC = """
class Broken:
    def apply(self, pc, x, y):
        fall()
        x.copy(y)
options = {"pc_python_type": "__main__.Broken"}
solve(operator, values, b, Solver("gmres", "python", 1e-8, petsc_options=options))
"""

THREAD = """
import threading
thread = threading.Thread(target=lambda: (again(), fall(), again()))
thread.start()
thread.join()
rank == 0 or again()
"""

HOOK = """
x = again()
x.register_hook(lambda _: fall())
x.sum().backward()
again()
"""


@dataclass(frozen=True)
class Case:
    """A script, and its end: the message that it prints once, the rank in it, and the exit code."""

    script: str
    said: str = "ArithmeticError: it fell"
    rank: str = "rank 1 failed"
    code: int = 1
    ranks: int = 2
    watchdog: str = "600"


CASES = {
    "between solves": Case("fall()\nagain()", ranks=3),
    "on all ranks": Case(
        "raise LookupError('all of us')", "LookupError: all of us", "ranks 0, 1 failed"
    ),
    "sys.exit": Case("rank == 1 and sys.exit(3)\nagain()", "rank 1 exited", "with code 3", 3),
    "SystemExit": Case(
        "if rank == 1: raise SystemExit('bye')\nagain()", "bye", "rank 1 exited with code 1"
    ),
    "another hook": Case(
        "sys.excepthook = sys.__excepthook__\nfall()\nagain()", rank="rank 1 exited with code 1"
    ),
    "an interrupt": Case(
        "if rank == 1: raise KeyboardInterrupt\nagain()", "KeyboardInterrupt", code=130
    ),
    "apply": Case(FUNCTION.replace("FORWARD", "1.0")),
    "apply_transpose": Case(FUNCTION.replace("FORWARD", "-1.0")),
    "a preconditioner": Case(PYTHON_PC),
    "a set-up": Case(MISSING_DIAGONAL, "SolveError: forward solve with ksp='gmres', pc='bjacobi'"),
    "gather": Case("Grid((6,)).gather(torch.ones(3 + rank))", "InputError: a field on this rank"),
    "halo": Case("Grid((6,)).halo(torch.ones(3 + rank))", "InputError: a field on this rank"),
    "a hook of autograd": Case(HOOK),
    "a thread": Case(THREAD, rank="rank 1 failed in a thread"),
    "a local condition": Case(
        "from prdp_hpc.distributed.collective import raise_together\nx = again()\n"
        "if rank == 1: x.sum().backward()\nelse: raise_together(MPI.COMM_WORLD, None)",
        "rank 0 of 2 has been in one call since",
        "rank 1 of 2 has been in one call since",
        watchdog="3",
    ),
    "a rank that has ended": Case(
        "x = again()\nif rank == 1: x.sum().backward()",
        "rank 0 has reached the end of its program",
        "rank 1 of 2 has been in one call since",
        watchdog="3",
    ),
}

WELL = {
    "all leave with a code": ("sys.exit(85)", 85),
    "each leaves with another": ("sys.exit(rank)", 1),
    "one comes late": ("import time\nrank == 1 and time.sleep(3)\nagain()", 0),
    "one ends early": ("import time\nrank == 1 and time.sleep(3)", 0),
}


# Other cases end in the same way: another callback of PETSc, an error of ours between collective
# calls, another way of backward, another way to exit (see tests/distributed/test_exit_code.py).
LONG = {"SystemExit", "apply", "a preconditioner", "a hook of autograd", "one comes late"}
LONG |= {"gather", "halo"}


def names(cases):
    """The names of cases, those of `LONG` with their mark."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in cases]


def start(script, ranks=2, watchdog="600"):
    return subprocess.run(
        [tiny.BIN / "mpiexec", "-n", str(ranks), sys.executable, "-c", SOLVES + script],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**tiny.environment(), "PRDP_WATCHDOG_SECONDS": watchdog},
        check=False,
    )


@pytest.fixture(scope="module")
def jobs(request):
    """The results of the jobs that tests of this run need."""
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if item.module is request.module and hasattr(item, "callspec")
    }
    with ThreadPoolExecutor(3) as pool:
        failing = {
            name: pool.submit(start, case.script, case.ranks, case.watchdog)
            for name, case in CASES.items()
            if name in wanted
        }
        well = {
            name: pool.submit(start, script) for name, (script, _) in WELL.items() if name in wanted
        }
        yield failing | well


@pytest.mark.parametrize("name", names(CASES))
def test_a_failure_ends_all_ranks_and_is_told_once(jobs, name):
    job, case = jobs[name].result(), CASES[name]
    assert job.returncode == case.code, job.stderr
    assert job.stderr.count(case.said) == 1, job.stderr
    assert case.rank in job.stderr, job.stderr
    assert job.stderr.count("Traceback (most recent call last)") <= 2, job.stderr


@pytest.mark.parametrize("name", names(WELL))
def test_ranks_that_leave_in_order_say_nothing(jobs, name):
    job = jobs[name].result()
    assert (job.returncode, job.stderr) == (WELL[name][1], "")
