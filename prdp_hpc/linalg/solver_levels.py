"""The levels of all solvers at one time, for steps that are recomputed later."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Levelled(Protocol):
    """A solver whose levels can be read and set."""

    @property
    def own_levels(self) -> tuple[Any, ...]:
        """The levels that `refine` changes."""
        ...

    def set_levels(self, *levels: Any) -> None:
        """Set the levels that `own_levels` returned."""
        ...


Levels = list[tuple[weakref.ref[Any], tuple[Any, ...]]]

_SOLVERS: weakref.WeakSet[Any] = weakref.WeakSet()


def register(solver: Levelled) -> None:
    """Add a new solver, by a weak reference."""
    _SOLVERS.add(solver)


def current_levels() -> Levels:
    """The levels of all existing solvers."""
    return [(weakref.ref(solver), solver.own_levels) for solver in list(_SOLVERS)]


@contextmanager
def at_levels(levels: Levels) -> Iterator[None]:
    """Set these levels during a block; afterwards each solver has its earlier levels."""
    changed = [
        (solver, then, now)
        for reference, then in levels
        if (solver := reference()) is not None and (now := solver.own_levels) != then
    ]
    for solver, then, _ in changed:
        solver.set_levels(*then)
    try:
        yield
    finally:
        for solver, _, now in changed:
            solver.set_levels(*now)
