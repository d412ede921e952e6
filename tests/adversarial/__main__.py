"""A long search from the command line: `python -m tests.adversarial --seed 7 --cases 100000`.

Batches of cases run in separate processes, so that a case that ends its process, or never ends, is
an ordinary fault. Each distinct fault is printed once, as a script. The exit code is 1 if there is
any fault.
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
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.fx.experimental.symbolic_shapes  # noqa: F401 - before forks, since torch loads it late

from . import worker
from .cases import script
from .simplify import simplified

ROOT = Path(__file__).parents[2]
BATCH = 2000
SILENT_SECONDS = 900.0
"""A rank that sleeps this long waits for a message that never arrives."""
LOOP_SECONDS = 60.0
"""A case takes milliseconds; ranks that take this much processor time each are in a loop, or wait
for a message that never arrives. It does not depend on what else the machine does.
"""
MOST_LEFT_OUT = 0.1
"""Largest share of a batch that may be left out."""
ATTEMPTS = 9
"""Runs of a batch, with other seeds, before the search gives up."""
PROOFS = 3
"""Cases with one pair of KSP and PC that have to end their process before the pair is left out."""
TRIES, TRIES_ON_RANKS = 30, 5
"""Simpler cases that are tried for a case that ends its process, each in separate processes."""


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), arguments.ranks, set(arguments.leave_out))
        end = time.monotonic() + 60.0 * arguments.minutes
        # After Ctrl-C, the faults so far are printed.
        with suppress(KeyboardInterrupt):
            for seed, count in _batches(arguments.seed, arguments.cases):
                if time.monotonic() > end:
                    break
                search.batch(seed, count)
                if arguments.verbose:
                    print(f"after the batch of seed {seed}: {dict(search.counts)}", flush=True)
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
    parser.add_argument("--leave-out", nargs="*", default=[], help="names of KSPs and PCs")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def _batches(seed: int, cases: int) -> Any:
    """Seeds and sizes of the batches."""
    for number, start in enumerate(range(0, cases, BATCH)):
        yield seed * 1_000_003 + number, min(BATCH, cases - start)


class Search:
    """All batches of one run, and what they found."""

    def __init__(self, folder: Path, ranks: int, left_out: set[str]) -> None:
        self._folder, self._ranks = folder, ranks
        self.counts: Counter[str] = Counter()
        self.unclear: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.faults: set[str] = set()
        self._left_out = left_out
        self._ends_of: Counter[str] = Counter()

    def batch(self, seed: int, count: int) -> None:
        """Run a batch; again with another seed as long as cases end it."""
        for attempt in range(ATTEMPTS):
            if self._run(seed + 1009 * attempt, count):
                return
        raise SystemExit(
            f"each of {ATTEMPTS} runs of a batch was ended by a case: is the installation whole?"
        )

    def _tell(self, fault: str, detail: str, text: str) -> None:
        if fault in self.faults:
            self.seen[fault] += 1
            return
        self.faults.add(fault)
        print(f"FAULT {fault}\n{detail}\n{text}", flush=True)

    def _run(self, seed: int, count: int) -> bool:
        """Whether the batch finished."""
        known = sorted(self.faults), sorted(self._left_out)
        (self._folder / "known.json").write_text(json.dumps(known))
        report = self._folder / "report.json"
        report.unlink(missing_ok=True)
        output, how = self._worker(self._ranks, "--seed", str(seed), "--cases", str(count))
        if report.exists():
            found = json.loads(report.read_text())
            for name in ("counts", "unclear", "seen"):
                getattr(self, name).update(found[name])
            for fault in found["faults"]:
                self._tell(*fault)
            if found["done"]:
                self._require_tried(found["counts"])
                return True
        current = self._folder / "case.pickle"
        if not current.exists():
            raise SystemExit(f"no worker can be started:\n{output}")
        self._look_at_end(pickle.loads(current.read_bytes()), output, how)
        return False

    def _require_tried(self, counts: dict[str, int]) -> None:
        """End the search if it leaves out most cases, e.g. since an installation is broken."""
        left_out = counts.get("left out", 0)
        if left_out > MOST_LEFT_OUT * sum(counts.values()):
            raise SystemExit(
                f"{left_out} of {sum(counts.values())} cases are left out, since others with their "
                f"methods ended their processes: {', '.join(sorted(self._left_out))}"
            )

    def _look_at_end(self, case: Any, output: str, how: str) -> None:
        """Report a case that ended its process, unless the reference did."""
        what = f"{how}: {case.ksp}, {case.pc}, {case.differentiation}"
        if not self._ends(case, "all"):
            self._tell(f"only after others, {what}", output, script(case))
            return
        if self._ends(case, "package"):
            self._count_end(case)
            most = TRIES if case.ranks == 1 else TRIES_ON_RANKS
            smaller = simplified(case, lambda one: self._ends(one, "package"), most)
            self._tell(what, output, script(smaller))
        else:
            remark = f"the reference ends its process: {case.ksp}, {case.pc}"
            self.unclear[remark] += 1
            print(f"{remark}\n{script(case)}", flush=True)

    def _count_end(self, case: Any) -> None:
        """Exclude the pair of KSP and PC if several cases with it ended their process; not by what
        happened once, e.g. a signal of somebody else, and never all cases with one of the names.
        """
        pair = f"{case.ksp} {case.pc}"
        self._ends_of[pair] += 1
        if self._ends_of[pair] >= PROOFS:
            self._left_out.add(pair)
            print(f"left out from now on: {pair}", flush=True)

    def _ends(self, case: Any, only: str) -> bool:
        """Whether a case alone ends its process, or does not end."""
        (self._folder / "case.pickle").write_bytes(pickle.dumps(case))
        return bool(self._worker(case.ranks, "--only", only)[1])

    def _worker(self, ranks: int, *arguments: str) -> tuple[str, str]:
        """The output of a worker at its end, and the reason if it failed."""
        words = [str(self._folder), *arguments]
        log = self._folder / "output"
        with log.open("w") as output:
            pid = _forked(words, output) if ranks == 1 else _started(ranks, words, output)
            code = self._wait(pid, ranks)
        text = log.read_text()[-3000:]
        if code is None:
            return text, "a case does not end"
        return text, f"a case ends its process ({code})" if code else ""

    def _wait(self, pid: int, ranks: int) -> int | None:
        """Wait until a process has exited; return its code, or None if it was killed because a case
        took too long.
        """
        current = self._folder / "case.pickle"
        since, used, ended, looked = time.time(), 0.0, 0, 0.0
        try:
            while not ended:
                time.sleep(0.01)
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended or time.time() < looked + 1.0:
                    continue
                looked, now = time.time(), _processor_seconds(pid)
                if current.exists() and current.stat().st_mtime > since:
                    since, used = current.stat().st_mtime, now
                if now - used > ranks * LOOP_SECONDS or looked - since > SILENT_SECONDS:
                    return None
            return os.waitstatus_to_exitcode(status)
        finally:
            # Also if this search is killed, because a worker has a separate session.
            if not ended:
                # The first prints where the process is.
                os.killpg(pid, signal.SIGABRT)
                time.sleep(1.0)
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _processor_seconds(leader: int) -> float:
    """What all processes of a group, or of a session, have taken so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name before the last bracket may have spaces.
            fields = path.read_text().rpartition(")")[2].split()
            if str(leader) in fields[2:4]:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _forked(words: list[str], output: Any) -> int:
    """A worker on one rank: a fork starts immediately, with all modules loaded."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        worker.main(words)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _started(ranks: int, words: list[str], output: Any) -> int:
    mpiexec = Path(sys.executable).parent / "mpiexec"
    command = [str(mpiexec), "-n", str(ranks), sys.executable, "-m", worker.__name__, *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
    ).pid


if __name__ == "__main__":
    sys.exit(main())
