"""Schedules to compare the coordinator with, behind its interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from prdp_hpc.errors import InputError
from prdp_hpc.refinement.coordinator import checked_error
from prdp_hpc.refinement.ladders import Level, check_level


class Schedule(Protocol):
    """Chooses the level of each epoch from the validation errors so far."""

    @property
    def level(self) -> Level:
        """The level of forward solves."""
        ...

    @property
    def adjoint_level(self) -> Level:
        """The level of adjoint solves."""
        ...

    def observe(self, error: float) -> bool:
        """Take the next validation error; True when the level has just changed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `observe` changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


class ManualSchedule:
    """Levels by epoch, made by hand.

    `levels = {0: 1, 20: 5}`: level 1 for the first 20 epochs, 5 from then on. `observe` is called
    once before training and once after each epoch; after `n` calls, epoch `n` is the next to train.

    Raises `ValueError` unless there is an entry for 0, all epochs are ≥ 0 and all levels are
    levels.
    """

    def __init__(
        self, levels: Mapping[int, Level], adjoint_levels: Mapping[int, Level] | None = None
    ) -> None:
        self._levels = _checked_levels(levels)
        self._adjoint_levels = (
            self._levels if adjoint_levels is None else _checked_levels(adjoint_levels)
        )
        self._observed = 0

    @property
    def level(self) -> Level:
        """The level of forward solves."""
        return _at(self._levels, self._trained)

    @property
    def adjoint_level(self) -> Level:
        """The level of adjoint solves."""
        return _at(self._adjoint_levels, self._trained)

    @property
    def _trained(self) -> int:
        return max(self._observed - 1, 0)

    def observe(self, error: float) -> bool:
        """Take the next validation error; True when the level has just changed."""
        checked_error(error, self._observed, self.level)
        before = self.level, self.adjoint_level
        self._observed += 1
        return before != (self.level, self.adjoint_level)

    def state_dict(self) -> dict[str, Any]:
        """How many errors were observed."""
        return {"observed": self._observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._observed = int(state["observed"])


class ConstantSchedule(ManualSchedule):
    """One level throughout; `adjoint_level` defaults to `level`."""

    def __init__(self, level: Level, adjoint_level: Level | None = None) -> None:
        super().__init__({0: level}, None if adjoint_level is None else {0: adjoint_level})


def _checked_levels(levels: Mapping[int, Level]) -> dict[int, Level]:
    if 0 not in levels:
        raise InputError(
            f"a schedule made by hand needs a level for epoch 0, it has {sorted(levels)}"
        )
    if min(levels) < 0:
        raise InputError(f"epochs count from 0, not {min(levels)}")
    for level in levels.values():
        check_level(level)
    return dict(sorted(levels.items()))


def _at(levels: Mapping[int, Level], epoch: int) -> Level:
    return levels[max(start for start in levels if start <= epoch)]
