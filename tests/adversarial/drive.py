"""Hypothesis on rank 0 of a job; the other ranks run the cases that it sends them.

Every case is written to a file before it runs, so that one that ends the process, or never ends, is
known.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from mpi4py import MPI
from petsc4py import PETSc

from .check import Outcome, run
from .simplify import simplified


class Found(Exception):  # noqa: N818 - carries a fault out of hypothesis
    """A fault, shrunk as far as hypothesis could."""


class Crew:
    """The ranks of a job: `run` on rank 0 sends a case to as many as it needs, `serve` on the
    others receives them.

    Parameters
    ----------
    log : file for the case that runs now; None: nothing is written.
    """

    def __init__(self, world: MPI.Comm, log: Path | None = None) -> None:
        self.world, self._log = world, log
        self._comms = {
            r: world.Split(world.rank >= r, world.rank) for r in range(1, world.size + 1)
        }
        self._cases = 0

    def run(self, case: Any) -> Outcome:
        """The outcome of a case; on rank 0."""
        if self._log is not None:
            self._log.write_bytes(pickle.dumps(case))
        for rank in range(1, self.world.size):
            self.world.send(case, rank)
        return self._run(case)

    def serve(self) -> None:
        """Run what rank 0 sends until it sends None."""
        while True:
            # A blocking receive would take a core from the ranks that work.
            while not self.world.iprobe(0):
                time.sleep(0.0005)
            case = self.world.recv(source=0)
            if case is None:
                return
            if self.world.rank < case.ranks:
                self._run(case)

    def dismiss(self) -> None:
        """End the others' `serve`."""
        for rank in range(1, self.world.size):
            self.world.send(None, rank)

    def _run(self, case: Any) -> Outcome:
        comm = self._comms[case.ranks]
        outcome = run(case, comm)
        self._cases += 1
        if self._cases % 50 == 0:
            gc.collect()
        if comm.size > 1:
            PETSc.garbage_cleanup(comm)
        return outcome


class Hunt:
    """Runs cases; each distinct fault is shrunk and kept.

    Parameters
    ----------
    crew : runs them.
    known : faults that are not to be kept again.
    left_out : names of KSPs and PCs that end the process, and are not run.

    Attributes
    ----------
    counts : outcomes so far, by kind; `unclear`: why.
    seen : how often a fault turned up that was known already.
    faults : the simplest case of each new fault, and its outcome.
    """

    def __init__(self, crew: Crew, known: set[str], left_out: set[str]) -> None:
        self._crew, self._known, self._left_out = crew, known, left_out
        self.counts: Counter[str] = Counter()
        self.unclear: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.faults: list[tuple[Any, Outcome]] = []
        self._found: tuple[Any, Outcome] | None = None

    def until_clean(self, strategy: Any, count: int, seed: int) -> Iterator[Outcome]:
        """Run `count` cases in total; yield each new fault, and continue with another seed."""
        while (left := count - sum(self.counts.values())) > 0:
            self._search(strategy, left, seed)
            if self._found is None:
                return
            case, outcome = self._found
            case = simplified(case, lambda one, what=outcome.what: self._crew.run(one).what == what)
            self.faults.append((case, self._crew.run(case)))
            self._known.add(outcome.what)
            self._found, seed = None, seed + 1
            yield outcome

    def _search(self, strategy: Any, count: int, seed: int) -> None:
        @with_seed(seed)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )
        @given(strategy)
        def search(case: Any) -> None:
            self._look_at(case)

        with contextlib.suppress(Found), _quiet():
            search()

    def _look_at(self, case: Any) -> None:
        if self._left_out & {case.ksp, case.pc, f"{case.ksp} {case.pc}"}:
            outcome = Outcome("left out")
        else:
            outcome = self._crew.run(case)
        if self._found is None:
            self.counts[outcome.kind] += 1
            if outcome.kind == "unclear":
                self.unclear[outcome.what] += 1
        if outcome.kind != "fault":
            return
        first = outcome.what if self._found is None else self._found[1].what
        if outcome.what in self._known or outcome.what != first:
            self.seen[outcome.what] += 1
            return
        self._found = case, outcome
        raise Found(outcome.what)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hypothesis prints the failing example; here it is printed as a script."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        yield
