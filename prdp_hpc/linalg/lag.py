"""When a preconditioner is set up again for new values of its matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import BATCHED_KSPS, ONE_APPLICATION_KSPS
from prdp_hpc.linalg.refinement_level import Refinement

Lag = int | Literal["auto"] | None

GROWTH = 1.5
"""How much more iterations than with a new preconditioner an old one may cost."""
FLOOR = 2.0
"""More iterations than usual that are never too many, where usual is few."""


def checked_lag(lag: Any) -> Lag:
    """`lag` if it is one; else a ValueError."""
    if lag is None or (isinstance(lag, str) and lag == "auto"):
        return lag  # type: ignore[return-value]
    if isinstance(lag, int) and not isinstance(lag, bool) and lag >= 1:
        return lag
    raise InputError(
        "lag_preconditioner is None (set up for all new values), 'auto', or an integer n of at "
        f"least 1 (for every n-th new values), not {lag!r}"
    )


def check_lag(lag: Lag, ksp: str, differentiation: str) -> None:
    """Raise a ValueError where an old preconditioner would be part of the solution."""
    if lag in (None, 1):
        return
    if ksp in ONE_APPLICATION_KSPS:
        raise InputError(
            f"lag_preconditioner={lag!r} with ksp={ksp!r}: one application of a preconditioner of "
            "earlier values is not the solution; use ksp='gmres', 'cg' or 'richardson' with the "
            "same pc"
        )
    if ksp in BATCHED_KSPS:
        raise InputError(
            f"lag_preconditioner={lag!r} with ksp={ksp!r}: the set-up of its preconditioners is a "
            "small part of a solve, so there is no lag for it: leave lag_preconditioner out"
        )
    if differentiation == "unrolled":
        raise InputError(
            f"lag_preconditioner={lag!r} with differentiation='unrolled': the derivative goes "
            "through the set-up for the values of the solve; use differentiation='implicit'"
        )


@dataclass(frozen=True)
class _Reference:
    """What solves of one direction cost with a new preconditioner, and cost last.

    Attributes
    ----------
    level : of these solves; at another they cost something else, whatever the preconditioner.
    cost : with a new one.
    latest : of the last solve.
    """

    level: tuple[int | None, float | None]
    cost: float
    latest: float

    @property
    def growth(self) -> float:
        """By how much the cost has grown since the set-up."""
        return max(1.0, self.latest / self.cost)


class LagRule:
    """Decides, from numbers that are equal on all ranks, whether new values need a set-up.

    With a number n: every n-th time. Without: once solves cost `GROWTH` times as much as with a new
    preconditioner. With a tolerance the cost is the iterations for each factor of ten by which the
    residual falls, which warm starts do not change; with a fixed number of iterations, what is left
    of the residual.

    Right-hand sides differ too: the dearest of those that were solved with a new preconditioner
    counts, and one that costs as much again right after a set-up raises it, so that such right-hand
    sides cause one set-up and not many. A new level takes over the growth that the old one had
    reached.

    Attributes
    ----------
    every : n, or None.
    changes : new values since the last set-up; 0: the preconditioner is that of the values.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.changes = 0
        self._has_grown = False
        self._references: dict[str, _Reference] = {}
        self._before: dict[str, _Reference] = {}

    @property
    def is_measured(self) -> bool:
        """Whether it looks at what solves cost."""
        return self.every is None

    @property
    def is_stale(self) -> bool:
        """Whether the preconditioner is one of earlier values."""
        return self.changes > 0

    @property
    def is_due(self) -> bool:
        """Whether to set up before the next solve."""
        too_many = self.every is not None and self.changes >= self.every
        return self.is_stale and (too_many or self._has_grown)

    def changed(self) -> None:
        """Note new values."""
        self.changes += 1

    def was_set_up(self) -> None:
        """Note a new preconditioner."""
        self.changes, self._has_grown = 0, False
        self._before, self._references = self._references, {}

    def measured(self, direction: str, level: Refinement, cost: float, slack: float = 0.0) -> None:
        """Note what solves of a direction cost, a number above 0; `slack`: by how much more is
        never too much.
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
        """The reference after a set-up. Where that brought little, the right-hand side was slow and
        not the old preconditioner bad.
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
