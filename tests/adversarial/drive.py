"""Rank 0 of a job makes cases; the other ranks run the cases that it sends them.

Every case is written to a file before it runs, so that one that ends the process, or never ends, is
known.
"""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mpi4py import MPI
from petsc4py import PETSc

from .check import Outcome, run
from .simplify import simplified

TRIES = 150
"""Simpler cases that are tried for each fault."""


class Crew:
    """The ranks of a job: `run` on rank 0 sends a case to as many as it needs, `serve` on the
    others receives them.

    Parameters
    ----------
    log : file for the case that runs now; None: nothing is written.
    """

    def __init__(self, world: MPI.Comm, log: Path | None = None) -> None:
        self.world = world
        # Kept open, because opening a file takes as long as a case.
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT)
        self._comms = {
            r: world.Split(world.rank >= r, world.rank) for r in range(1, world.size + 1)
        }
        self._cases = 0

    def run(self, case: Any) -> Outcome:
        """The outcome of a case; on rank 0."""
        if self._log is not None:
            # A shorter pickle ends before what is left of a longer one.
            os.pwrite(self._log, pickle.dumps(case), 0)
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
        if self._cases == 10:
            # What is imported is not looked at again in every collection.
            gc.freeze()
        if self._cases % 200 == 0:
            gc.collect()
        if comm.size > 1:
            PETSc.garbage_cleanup(comm)
        return outcome


class Hunt:
    """Runs cases; each distinct fault is made simpler and kept.

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

    def run(self, cases: Iterable[Any]) -> Iterator[Outcome]:
        """Run all cases; yield each new fault."""
        for case in cases:
            outcome = self._outcome(case)
            self.counts[outcome.kind] += 1
            if outcome.kind == "unclear":
                self.unclear[outcome.what] += 1
            if outcome.kind != "fault":
                continue
            if outcome.what in self._known:
                self.seen[outcome.what] += 1
                continue
            self._known.add(outcome.what)
            simple = simplified(
                case, lambda one, what=outcome.what: self._crew.run(one).what == what, most=TRIES
            )
            self.faults.append((simple, self._crew.run(simple)))
            yield outcome

    def _outcome(self, case: Any) -> Outcome:
        if self._left_out & {case.ksp, case.pc, f"{case.ksp} {case.pc}"}:
            return Outcome("left out")
        return self._crew.run(case)
