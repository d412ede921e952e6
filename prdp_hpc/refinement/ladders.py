"""Ladders: the levels that refinement climbs, coarsest first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prdp_hpc.errors import InputError

Level = int | float
LOOSEST = 0.5
"""The loosest tolerance that `looser` gives."""


class Ladder(Protocol):
    """Levels by rung; rung 0 is the coarsest, `top` the finest."""

    @property
    def top(self) -> int:
        """The highest rung."""
        ...

    def level(self, rung: int) -> Level:
        """The level of a rung; above the top, the top's."""
        ...


@dataclass(frozen=True)
class IterationLadder:
    """KSP iterations `start, start + step, …`, the last one `stop`.

    Raises `ValueError` unless all are integers, `start ≥ 1`, `step ≥ 1` and `stop ≥ start`.
    """

    start: int = 1
    step: int = 1
    stop: int = 60

    def __post_init__(self) -> None:
        for name in ("start", "step", "stop"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise InputError(
                    f"an iteration ladder's {name} must be an integer of at least 1, not {number!r}"
                )
        if self.stop < self.start:
            raise InputError(
                f"an iteration ladder's stop ({self.stop}) must not be below its start "
                f"({self.start})"
            )

    @property
    def top(self) -> int:
        """The first rung at which `stop` is reached."""
        return -(-(self.stop - self.start) // self.step)

    def level(self, rung: int) -> int:
        """`start + rung · step`, never above `stop`."""
        return min(self.start + _checked(rung) * self.step, self.stop)


@dataclass(frozen=True)
class ToleranceLadder:
    """Relative tolerances `start, start · factor, …`, the last one `stop`.

    Raises `ValueError` unless `0 < stop ≤ start < 1` and `0 < factor < 1`.
    """

    start: float = 1e-1
    factor: float = 1e-1
    stop: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("start", "factor", "stop"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(
                    f"a tolerance ladder's {name} must lie between 0 and 1, not "
                    f"{getattr(self, name)!r}"
                )
        if self.stop > self.start:
            raise InputError(
                f"a tolerance ladder's stop ({self.stop:g}) must not be above its start "
                f"({self.start:g})"
            )

    @property
    def top(self) -> int:
        """The first rung at which `stop` is reached."""
        # A quotient of logarithms that is whole may come out a little above: 1e-1 to 1e-8 takes 7
        # steps, not 8.
        return math.ceil(math.log(self.stop / self.start) / math.log(self.factor) - 1e-9)

    def level(self, rung: int) -> float:
        """`start · factor^rung`, never below `stop`."""
        if _checked(rung) >= self.top:
            return self.stop
        return max(self.start * self.factor**rung, self.stop)


@dataclass(frozen=True)
class ExplicitLadder:
    """Levels given one by one: integers (iterations) that rise, or tolerances that fall.

    Raises `ValueError` for an empty list, a mixture of both, or an order that does not refine.
    """

    levels: Sequence[Level] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.levels:
            raise InputError("a ladder of explicit levels needs at least one level")
        for level in self.levels:
            check_level(level)
        kinds = {isinstance(level, int) for level in self.levels}
        if len(kinds) > 1:
            given = list(self.levels)
            raise InputError(
                "levels must be all iterations (integers) or all tolerances, not a mixture: "
                f"{given}"
            )
        pairs = list(zip(self.levels, self.levels[1:], strict=False))
        if kinds == {True} and any(b <= a for a, b in pairs):
            raise InputError(f"iterations must rise from level to level: {list(self.levels)}")
        if kinds == {False} and any(b >= a for a, b in pairs):
            raise InputError(f"tolerances must fall from level to level: {list(self.levels)}")

    @property
    def top(self) -> int:
        """The last level's rung."""
        return len(self.levels) - 1

    def level(self, rung: int) -> Level:
        """The level of a rung; above the top, the last."""
        return self.levels[min(_checked(rung), self.top)]


@dataclass(frozen=True)
class LooserLadder:
    """Another ladder with every level made coarser by `factor` (see `looser`); for adjoint solves.

    Raises `ValueError` unless `0 < factor ≤ 1`.
    """

    ladder: Ladder
    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    @property
    def top(self) -> int:
        """The highest rung, that of the other ladder."""
        return self.ladder.top

    def level(self, rung: int) -> Level:
        """The other ladder's level, looser by the factor."""
        return looser(self.ladder.level(rung), self.factor)


def looser(level: Level, factor: float) -> Level:
    """`level` made coarser: of iterations, the share `factor`, rounded, at least 1; a tolerance is
    divided by `factor`.

    A tolerance stops at 0.5, beyond which a solve would hardly do anything; one that is looser
    already stays. Raises `ValueError` unless `0 < factor ≤ 1`.
    """
    _check_factor(factor)
    if isinstance(level, int):
        return max(1, round(level * factor))
    return max(level, min(level / factor, LOOSEST))


def check_level(level: Level) -> None:
    """Raise `ValueError` unless `level` is an integer ≥ 1 (iterations) or a number between 0
    and 1 (tolerance).
    """
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise InputError(f"a level is an integer of iterations or a tolerance, not {level!r}")
    if isinstance(level, int) and level < 1:
        raise InputError(f"a level of iterations must be at least 1, not {level}")
    if isinstance(level, float) and not 0 < level < 1:
        raise InputError(f"a tolerance must lie between 0 and 1, not {level!r}")


def _check_factor(factor: float) -> None:
    if not 0 < factor <= 1:
        raise InputError(
            f"a factor that makes levels looser must lie above 0 and be at most 1, not {factor!r}"
        )


def _checked(rung: int) -> int:
    if rung < 0:
        raise InputError(f"rungs count from 0, not {rung}")
    return rung
