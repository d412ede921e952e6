"""Some of the faults of `make test-faults`: the job ends on all ranks, and the resumed run equals
the undisturbed one.
"""

import signal

import pytest
from harness import Bench, Case, cases, table

KILL, USR1 = signal.SIGKILL, signal.SIGUSR1
CHOSEN = [
    Case(2, 2, "node", KILL, "saving", 0.3),
    Case(2, 1, "launcher", USR1, "first step", 0.5),
]
FULL_DISK = [Case(1, 1, "disk", None, "any", 0.4)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "faults", [CHOSEN, pytest.param(FULL_DISK, marks=pytest.mark.long)], ids=["killed", "full disk"]
)
def test_jobs_end_and_resume_to_the_same_numbers(faults, tmp_path):
    bench = Bench(tmp_path, epochs=12)
    results = [bench.run(case, f"fault_{number}") for number, case in enumerate(faults)]
    assert not any(case.problems for case in results), table(results)


def test_the_seed_decides():
    assert cases(30, 4) == cases(30, 4)
    assert cases(30, 4) != cases(30, 5)
    assert {case.victim for case in cases(50, 1)} == {"rank", "launcher", "node", "disk"}
