"""A long search from the command line: `python -m tests.adversarial --seed 7 --cases 100000`.

Batches of cases run in processes of their own, so that one that ends its process, or waits for
ever, is a fault among others. Each distinct fault is printed once, as a script. Ends with code 1 if
there was one.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .cases import script
from .simplify import simplified

ROOT = Path(__file__).parents[2]
BATCH = 1000
SILENT_SECONDS = 60.0
"""A case takes milliseconds; a rank that takes this long waits for what never comes."""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), arguments.ranks)
        end = time.monotonic() + 60.0 * arguments.minutes
        for seed, count in _batches(arguments.seed, arguments.cases):
            if time.monotonic() > end:
                break
            search.batch(seed, count)
    print(f"{sum(search.counts.values())} cases: {dict(search.counts)}")
    if arguments.verbose:
        print(f"unclear: {dict(search.unclear)}\nfaults again: {dict(search.seen)}")
    print(f"{len(search.faults)} distinct faults")
    return 1 if search.faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--ranks", type=int, default=1, help="cases take 1 to this many ranks")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def _batches(seed: int, cases: int) -> Any:
    """Seeds and sizes of the batches."""
    for number, start in enumerate(range(0, cases, BATCH)):
        yield seed * 1_000_003 + number, min(BATCH, cases - start)


class Search:
    """All batches of one run, and what they found."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks = folder, ranks
        self.counts: Counter[str] = Counter()
        self.unclear: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.faults: set[str] = set()

    def batch(self, seed: int, count: int) -> None:
        """Run a batch; again with another seed while cases end it."""
        for attempt in range(5):
            if self._run(seed + 1009 * attempt, count):
                return

    def _tell(self, fault: str, detail: str, text: str) -> None:
        if fault in self.faults:
            self.seen[fault] += 1
            return
        self.faults.add(fault)
        print(f"FAULT {fault}\n{detail}\n{text}", flush=True)

    def _run(self, seed: int, count: int) -> bool:
        """Whether the batch came to its end."""
        (self._folder / "known.json").write_text(json.dumps(sorted(self.faults)))
        report = self._folder / "report.json"
        report.unlink(missing_ok=True)
        output, how = self._worker(self._ranks, "--seed", str(seed), "--cases", str(count))
        if report.exists():
            found = json.loads(report.read_text())
            for name in ("counts", "unclear", "seen"):
                getattr(self, name).update(found[name])
            for fault in found["faults"]:
                self._tell(*fault)
            return True
        current = self._folder / "case.pickle"
        if not current.exists():
            raise SystemExit(f"no worker can be started:\n{output}")
        self._look_at_end(pickle.loads(current.read_bytes()), output, how)
        return False

    def _look_at_end(self, case: Any, output: str, how: str) -> None:
        """Tell of a case that ended its process, unless it was the reference that did."""
        what = f"{how}: {case.ksp}, {case.pc}, {case.differentiation}"
        if what in self.faults:
            self.seen[what] += 1
            return
        if not self._ends(case, "all"):
            self._tell(f"only after others, {what}", output, script(case))
        elif self._ends(case, "package"):
            smaller = simplified(case, lambda one: self._ends(one, "package"), most=40)
            self._tell(what, output, script(smaller))
        else:
            self.unclear[f"the reference ends its process: {case.pc}"] += 1

    def _ends(self, case: Any, only: str) -> bool:
        """Whether a case alone ends its process, or does not end."""
        (self._folder / "case.pickle").write_bytes(pickle.dumps(case))
        return bool(self._worker(case.ranks, "--only", only)[1])

    def _worker(self, ranks: int, *arguments: str) -> tuple[str, str]:
        """What a worker prints at its end, and how it ended if not well."""
        command = [sys.executable, "-m", "tests.adversarial.worker", str(self._folder), *arguments]
        if ranks > 1:
            mpiexec = Path(sys.executable).parent / "mpiexec"
            command = [str(mpiexec), "-n", str(ranks), *command]
        log = self._folder / "output"
        with log.open("w") as output:
            job = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
            hangs = self._wait(job)
        text = log.read_text()[-3000:]
        if hangs:
            return text, "a case does not end"
        return text, f"a case ends its process ({job.returncode})" if job.returncode else ""

    def _wait(self, job: subprocess.Popen[bytes]) -> bool:
        """Wait until a job has ended; whether it had to be ended since a case took too long."""
        current = self._folder / "case.pickle"
        started = time.time()
        while job.poll() is None:
            time.sleep(0.05)
            since = max(started, current.stat().st_mtime if current.exists() else 0.0)
            if time.time() - since > SILENT_SECONDS:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
                return True
        return False


if __name__ == "__main__":
    sys.exit(main())
