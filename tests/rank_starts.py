"""Tests on several ranks: one start of mpiexec for all tests on the same number of ranks.

mpi-pytest starts one per test, and importing torch on every rank takes longer than most tests.
Here the first test of a session on N ranks starts `mpiexec -n N pytest` for all of them, and each
test waits for its result. The ranks abort if a test fails; another start then runs the remaining
tests.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

REPORTS = "PRDP_RANK_REPORTS"
"""The variable with the file for the reports of rank 0."""

# The variable of mpi-pytest for ranks that pytest itself has started.
_CHILD = "_PYTEST_MPI_CHILD_PROCESS"
_QUIET = ("--tb=no", "--no-summary", "--no-header", "--disable-warnings", "--show-capture=no")
_LINES = 200


def ranks_of(item):
    """The number of ranks of a test."""
    marker = item.get_closest_marker("parallel")
    if marker is None:
        return 1
    if "_nprocs" in getattr(getattr(item, "callspec", None), "params", {}):
        return item.callspec.params["_nprocs"]
    (ranks,) = marker.args or marker.kwargs.values()
    return ranks


def test_id(item):
    """The name of a test for pytest's command line; xdist adds the group to `item.nodeid`."""
    return f"{item.path}::{item.name}"


def write_report(item, report):
    """On rank 0: send the outcome of a test to the session that waits."""
    line = {"test": test_id(item), "when": report.when, "outcome": report.outcome}
    if report.skipped:
        line["reason"] = report.longrepr[2]
    with open(os.environ[REPORTS], "a") as file:
        file.write(json.dumps(line) + "\n")


class Start:
    """One mpiexec that runs several tests in sequence."""

    def __init__(self, ranks, tests, folder):
        self._log, path = folder / "log", folder / "reports"
        path.touch()
        # The reports are read as they grow: there are thousands of looks at them.
        self._file, self._rest, self._reports = path.open(), "", []
        pytest_words = [sys.executable, "-m", "pytest", "--runxfail", "-s", "-q"]
        first = ["mpiexec", "-n", "1", *pytest_words, *tests]
        others = ["-n", str(ranks - 1), *pytest_words, *_QUIET, *tests]
        with self._log.open("wb") as log:
            self._job = subprocess.Popen(
                [*first, ":", *others],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, _CHILD: "1", REPORTS: str(path)},
            )

    def wait(self, test):
        """Wait until a test has finished on all ranks; return its reports, fewer than three if it
        failed.
        """
        while True:
            ended = self._job.poll() is not None
            self._read()
            mine = [report for report in self._reports if report["test"] == test]
            if ended or any(line["when"] == "teardown" for line in mine):
                return mine
            time.sleep(0.02)

    def end(self):
        """Wait until all ranks have exited; return their exit code."""
        return self._job.wait()

    def kill(self):
        """End the remaining processes."""
        self._file.close()
        self._job.terminate()
        try:
            self._job.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._job.kill()

    def output(self):
        """The end of the output of all ranks."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LINES:])

    def _read(self):
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        self._reports += map(json.loads, lines)


class RankStarts:
    """The starts of a session, at most one at a time."""

    def __init__(self, items):
        self._left = {}
        for item in items:
            self._left.setdefault(ranks_of(item), []).append(test_id(item))
        self._folder = tempfile.TemporaryDirectory()
        self._start = self._ranks = None
        self._count = 0

    def run(self, item):
        """The result of a test on several ranks: returns, skips or fails."""
        ranks, test = ranks_of(item), test_id(item)
        if self._ranks != ranks or self._start is None:
            self._begin(ranks)
        self._left[ranks].remove(test)
        try:
            reports = self._start.wait(test)
            code = None if self._left[ranks] else self._start.end()
        except BaseException:  # a timeout too
            self.close()
            raise
        skipped = [report["reason"] for report in reports if report["outcome"] == "skipped"]
        whole = [report["when"] for report in reports] == ["setup", "call", "teardown"]
        if (not whole and not skipped) or code:
            output = self._start.output()
            self.close()
            pytest.fail(f"on {ranks} ranks:\n{output}", pytrace=False)
        if skipped:
            pytest.skip(skipped[0])

    def close(self):
        """End the remaining ranks."""
        if self._start is not None:
            self._start.kill()
        self._start = None

    def _begin(self, ranks):
        self.close()
        self._count += 1
        folder = Path(self._folder.name) / str(self._count)
        folder.mkdir()
        self._start, self._ranks = Start(ranks, self._left[ranks], folder), ranks
