"""Rules for setting up a preconditioner again after its matrix has changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prdp_hpc.linalg.refinement_level import Refinement

GROWTH = 1.5
"""Growth of the number of iterations, compared to a new preconditioner, that causes a set-up."""
FLOOR = 2.0
"""Additional iterations that never cause a set-up, for solves of few iterations."""


@dataclass(frozen=True)
class _Reference:
    """The cost of solves of one direction, with a new preconditioner and in the last solve.

    Attributes
    ----------
    level : the level of these solves; the cost depends on it.
    cost : the cost with a new preconditioner.
    latest : the cost of the last solve.
    """

    level: tuple[int | None, float | None]
    cost: float
    latest: float

    @property
    def growth(self) -> float:
        """The growth of the cost since the set-up."""
        return max(1.0, self.latest / self.cost)


class LagRule:
    """Decides, from numbers that are equal on all ranks, whether new values need a set-up.

    With a number n, every n-th change of the values causes a set-up. Without a number, a set-up is
    due when solves cost `GROWTH` times as much as with a new preconditioner. For solves with a
    tolerance, the cost is the number of iterations per factor of ten by which the residual falls,
    which does not depend on warm starts; for solves with a fixed number of iterations, it is the
    remaining residual.

    The cost also depends on the right-hand side. The reference is therefore the largest cost with a
    new preconditioner, and a right-hand side that costs as much directly after a set-up raises the
    reference, so that slow right-hand sides cause only one set-up. After a change of the level the
    growth that was reached before is kept.

    Attributes
    ----------
    every : n, or None.
    changes : changes of the values since the last set-up; 0: the preconditioner is up to date.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.changes = 0
        self._has_grown = False
        self._references: dict[str, _Reference] = {}
        self._before: dict[str, _Reference] = {}

    @property
    def is_measured(self) -> bool:
        """Whether the rule depends on the cost of solves."""
        return self.every is None

    @property
    def is_stale(self) -> bool:
        """Whether the preconditioner was made from earlier values."""
        return self.changes > 0

    @property
    def is_due(self) -> bool:
        """Whether a set-up is due before the next solve."""
        too_many = self.every is not None and self.changes >= self.every
        return self.is_stale and (too_many or self._has_grown)

    def changed(self) -> None:
        """Count a change of the values."""
        self.changes += 1

    def was_set_up(self) -> None:
        """Register a set-up."""
        self.changes, self._has_grown = 0, False
        self._before, self._references = self._references, {}

    def measured(self, direction: str, level: Refinement, cost: float, slack: float = 0.0) -> None:
        """Register the cost of solves of a direction, a positive number; `slack`: an increase that
        never causes a set-up.
        """
        key = (level.max_it, level.rtol)
        known = self._references.get(direction)
        if known is None:
            known = self._first(direction, key, cost)
        elif known.level != key:
            known = _Reference(key, cost / known.growth, cost)
        elif not self.is_stale:
            known = replace(known, cost=max(known.cost, cost), latest=cost)
        else:
            known = replace(known, latest=cost)
            if cost > max(GROWTH * known.cost, known.cost + slack):
                self._has_grown = True
        self._references[direction] = known

    def _first(
        self, direction: str, level: tuple[int | None, float | None], cost: float
    ) -> _Reference:
        """The reference after a set-up. If the cost hardly fell, the cause was the right-hand side
        and not the old preconditioner.
        """
        before = self._before.get(direction)
        if before is not None and before.level == level and before.latest < GROWTH * cost:
            return _Reference(level, max(cost, before.cost, before.latest), cost)
        return _Reference(level, cost, cost)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "changes": self.changes,
            "has_grown": self._has_grown,
            "references": _plain(self._references),
            "before": _plain(self._before),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.changes, self._has_grown = state["changes"], state["has_grown"]
        self._references = _references(state["references"])
        self._before = _references(state["before"])


def _plain(references: dict[str, _Reference]) -> dict[str, list[Any]]:
    return {name: [*one.level, one.cost, one.latest] for name, one in references.items()}


def _references(plain: dict[str, list[Any]]) -> dict[str, _Reference]:
    return {name: _Reference((row[0], row[1]), row[2], row[3]) for name, row in plain.items()}
