"""The levels of all solvers at a moment, for what is computed again later."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prdp_hpc.linalg.refinement_level import Refinement

if TYPE_CHECKING:
    from prdp_hpc.linalg.solver import Solver

Levels = Mapping["Solver", tuple[Refinement, Refinement]]

_SOLVERS: weakref.WeakSet[Solver] = weakref.WeakSet()


def register(solver: Solver) -> None:
    """Add a new solver; it is forgotten when nothing else refers to it."""
    _SOLVERS.add(solver)


def current_levels() -> Levels:
    """Forward and adjoint level of each solver there is."""
    levels: weakref.WeakKeyDictionary[Solver, tuple[Refinement, Refinement]]
    levels = weakref.WeakKeyDictionary()
    for solver in list(_SOLVERS):
        levels[solver] = (solver.refinement, solver.adjoint)
    return levels


@contextmanager
def at_levels(levels: Levels) -> Iterator[None]:
    """Solve at these levels while the block runs; afterwards each solver has its own again."""
    changed = [
        (solver, then, now)
        for solver, then in list(levels.items())
        if (now := (solver.refinement, solver.adjoint)) != then
    ]
    for solver, then, _ in changed:
        solver.set_levels(*then)
    try:
        yield
    finally:
        for solver, _, now in changed:
            solver.set_levels(*now)
