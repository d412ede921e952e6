"""Some of the faults of `make test-faults`: the job ends on all ranks, and the resumed run equals
the undisturbed one.
"""

import signal

import pytest
from harness import Bench, Case, cases, table

KILL, USR1 = signal.SIGKILL, signal.SIGUSR1
CHOSEN = [
    Case(2, 2, "node", KILL, "saving", 0.3),
    Case(2, 2, "launcher", USR1, "first step", 0.5),
    Case(2, 1, "rank", KILL, "any", 0.6),
]
FULL_DISK = [Case(1, 1, "disk", None, "any", 0.4)]


class SharedBench(Bench):
    """A bench that starts only the runs with a fault in separate processes."""

    def __init__(self, folder, two_ranks):
        super().__init__(folder, epochs=12)
        self._two_ranks = two_ranks

    def complete(self, case, name, resume):
        (done,) = self._two_ranks([self.words(case, name, resume)])
        return max(done.codes), done.stderr


@pytest.mark.timeout(300)
def test_jobs_end_and_resume_to_the_same_numbers(tmp_path, two_ranks):
    check(SharedBench(tmp_path, two_ranks), CHOSEN)


@pytest.mark.long
def test_a_full_disk(tmp_path):
    check(Bench(tmp_path, epochs=12), FULL_DISK)


def check(bench, faults):
    results = [bench.run(case, f"fault_{number}") for number, case in enumerate(faults)]
    assert not any(case.problems for case in results), table(results)
    assert all(case.struck for case in results), table(results)


def test_the_seed_decides():
    assert cases(30, 4) == cases(30, 4)
    assert cases(30, 4) != cases(30, 5)
    assert {case.victim for case in cases(50, 1)} == {"rank", "launcher", "node", "disk"}
