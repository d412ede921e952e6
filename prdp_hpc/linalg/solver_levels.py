"""The levels of all solvers at a moment, for what is computed again later."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Levelled(Protocol):
    """A solver: what `refine` changes can be read, and set again."""

    @property
    def own_levels(self) -> tuple[Any, ...]:
        """What `refine` changes."""
        ...

    def set_levels(self, *levels: Any) -> None:
        """Set what `own_levels` was."""
        ...


Levels = list[tuple[weakref.ref[Any], tuple[Any, ...]]]

_SOLVERS: weakref.WeakSet[Any] = weakref.WeakSet()


def register(solver: Levelled) -> None:
    """Add a new solver; it is forgotten when nothing else refers to it."""
    _SOLVERS.add(solver)


def current_levels() -> Levels:
    """Those of each solver there is."""
    return [(weakref.ref(solver), solver.own_levels) for solver in list(_SOLVERS)]


@contextmanager
def at_levels(levels: Levels) -> Iterator[None]:
    """Solve at these levels while the block runs; afterwards each solver has its own again."""
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
