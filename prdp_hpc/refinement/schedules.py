"""The interface of schedules, and schedules with fixed levels, for comparison with PRDP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from prdp_hpc.errors import InputError, check_members
from prdp_hpc.number_checks import check_count
from prdp_hpc.refinement.coordinator import checked_error
from prdp_hpc.refinement.ladders import Level, check_level, plain_level


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
        """Record the next validation error; return whether the level has changed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `observe` changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


def check_schedule(schedule: object) -> None:
    """Raise `InputError` for an object that lacks what a trainer needs of a schedule."""
    needed = ("level", "adjoint_level", "observe", "state_dict", "load_state_dict")
    check_members("schedule", schedule, needed, "a schedule, e.g. a Coordinator")


def chosen_levels(schedule: Schedule) -> tuple[Level, Level]:
    """The levels of forward and adjoint solves, as plain numbers; `InputError` for other objects,
    or numbers out of range.
    """
    forward, adjoint = (plain_level(level) for level in (schedule.level, schedule.adjoint_level))
    for name, level in (("level", forward), ("adjoint_level", adjoint)):
        try:
            check_level(level)
        except InputError as error:
            raise InputError(f"{type(schedule).__name__}.{name}: {error}") from None
    return forward, adjoint


class ManualSchedule:
    """A schedule with given levels by epoch.

    With `levels = {0: 1, 20: 5}` the level is 1 for the first 20 epochs and 5 afterwards. `observe`
    is called once before training and once after each epoch.

    Parameters
    ----------
    levels : mapping from int to int or float
        Levels of forward solves by the number of trained epochs from which they apply.
    adjoint_levels : mapping from int to int or float, optional
        Levels of adjoint solves. Default: `levels`.

    Raises
    ------
    InputError
        If there is no level for epoch 0, an epoch is negative, or a level is out of range.

    Examples
    --------
    >>> from prdp_hpc import ManualSchedule
    >>> schedule = ManualSchedule({0: 1, 2: 5})
    >>> [schedule.observe(error) for error in (1.0, 0.9, 0.8)]
    [False, False, True]
    >>> schedule.level
    5
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
        """Record the next validation error, which does not affect the levels.

        Parameters
        ----------
        error : float
            Validation error.

        Returns
        -------
        bool
            Whether the level of the next epoch is a different one.

        Raises
        ------
        RefinementError
            If the error is NaN or infinite.
        InputError
            If the error is not a number.
        """
        checked_error(error, self._observed, self.level)
        before = self.level, self.adjoint_level
        self._observed += 1
        return before != (self.level, self.adjoint_level)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of recorded errors."""
        return {"observed": self._observed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._observed = int(state["observed"])


class ConstantSchedule(ManualSchedule):
    """A schedule with a constant level, e.g. full refinement.

    It is a `ManualSchedule` with one entry.

    Parameters
    ----------
    level : int or float
        Level of forward solves: iterations (int) or a relative tolerance (float).
    adjoint_level : int or float, optional
        Level of adjoint solves. Default: `level`.

    Raises
    ------
    InputError
        If a level is out of range.

    Examples
    --------
    >>> from prdp_hpc import ConstantSchedule
    >>> schedule = ConstantSchedule(60, adjoint_level=30)
    >>> schedule.level, schedule.adjoint_level
    (60, 30)
    """

    def __init__(self, level: Level, adjoint_level: Level | None = None) -> None:
        super().__init__({0: level}, None if adjoint_level is None else {0: adjoint_level})


def _checked_levels(levels: Mapping[int, Level]) -> dict[int, Level]:
    if 0 not in levels:
        raise InputError(
            f"a manual schedule needs a level for epoch 0, but its epochs are {sorted(levels)}"
        )
    for epoch in levels:
        check_count("an epoch of a manual schedule", epoch, least=0)
    plain = {int(epoch): plain_level(level) for epoch, level in sorted(levels.items())}
    for level in plain.values():
        check_level(level)
    return plain


def _at(levels: Mapping[int, Level], epoch: int) -> Level:
    return levels[max(start for start in levels if start <= epoch)]
