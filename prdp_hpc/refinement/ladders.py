"""Ladders: sequences of levels, the coarsest first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Protocol

from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count, check_number

Level = int | float
LOOSEST = 0.5
"""The loosest tolerance that `looser` returns."""


class Ladder(Protocol):
    """Levels by rung; rung 0 is the coarsest, `top` the finest."""

    @property
    def top(self) -> int:
        """The index of the finest level."""
        ...

    def level(self, rung: int) -> Level:
        """The level of a rung; above the top, the finest level."""
        ...


@dataclass(frozen=True)
class IterationLadder:
    """A ladder of iteration counts: `start, start + step, …, stop`.

    At a level K a solve performs exactly K KSP iterations.

    Parameters
    ----------
    start : int, default 1
        Iterations of the coarsest level, at least 1.
    step : int, default 1
        Additional iterations of each finer level, at least 1.
    stop : int, default 60
        Iterations of the finest level, at least `start`.

    Raises
    ------
    InputError
        If a number is not an integer of at least 1, or if `stop` is below `start`.

    Examples
    --------
    >>> from prdp_hpc import IterationLadder
    >>> ladder = IterationLadder(start=1, step=5, stop=14)
    >>> [ladder.level(rung) for rung in range(ladder.top + 1)]
    [1, 6, 11, 14]
    """

    start: int = 1
    step: int = 1
    stop: int = 60

    def __post_init__(self) -> None:
        for name in ("start", "step", "stop"):
            check_count(f"an iteration ladder's {name}", getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.stop < self.start:
            raise InputError(
                f"an iteration ladder's stop ({self.stop}) must not be below its start "
                f"({self.start})"
            )

    @property
    def top(self) -> int:
        """The index of the finest level."""
        return -(-(self.stop - self.start) // self.step)

    def level(self, rung: int) -> int:
        """Return the iterations of a rung, `min(start + rung · step, stop)`.

        Parameters
        ----------
        rung : int
            Index of the level, from 0; above `top` the finest level is returned.

        Returns
        -------
        int
            Number of iterations.
        """
        return min(self.start + _checked(rung) * self.step, self.stop)


@dataclass(frozen=True)
class ToleranceLadder:
    """A ladder of relative tolerances: `start, start · factor, …, stop`.

    At a level ε a solve stops when the residual norm is at most `ε ‖b‖`.

    Parameters
    ----------
    start : float, default 1e-1
        Tolerance of the coarsest level, between 0 and 1.
    factor : float, default 1e-1
        Ratio of the tolerances of two neighbouring levels, between 0 and 1.
    stop : float, default 1e-8
        Tolerance of the finest level, between 0 and `start`.

    Raises
    ------
    InputError
        Unless `0 < stop ≤ start < 1` and `0 < factor < 1`.

    Examples
    --------
    >>> from prdp_hpc import ToleranceLadder
    >>> ladder = ToleranceLadder(start=1e-1, factor=1e-2, stop=1e-4)
    >>> [float(f"{ladder.level(rung):.0e}") for rung in range(ladder.top + 1)]
    [0.1, 0.001, 0.0001]
    """

    start: float = 1e-1
    factor: float = 1e-1
    stop: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("start", "factor", "stop"):
            check_number(f"a tolerance ladder's {name}", getattr(self, name), above=0, below=1)
        if self.stop > self.start:
            raise InputError(
                f"a tolerance ladder's stop ({self.stop:g}) must not be above its start "
                f"({self.start:g})"
            )

    @property
    def top(self) -> int:
        """The index of the finest level."""
        # Rounding may make a quotient of logarithms slightly larger than the exact integer: from
        # 1e-1 to 1e-8 there are 7 steps, not 8.
        return math.ceil(math.log(self.stop / self.start) / math.log(self.factor) - 1e-9)

    def level(self, rung: int) -> float:
        """Return the tolerance of a rung, `max(start · factor^rung, stop)`.

        Parameters
        ----------
        rung : int
            Index of the level, from 0; above `top` the finest level is returned.

        Returns
        -------
        float
            Relative tolerance.
        """
        if _checked(rung) >= self.top:
            return self.stop
        return max(self.start * self.factor**rung, self.stop)


@dataclass(frozen=True)
class ExplicitLadder:
    """A ladder from a list of levels: increasing iterations or decreasing tolerances.

    Integers are numbers of iterations, other numbers are relative tolerances.

    Parameters
    ----------
    levels : sequence of int or float
        The levels, coarsest first.

    Raises
    ------
    InputError
        For an empty list, a mixture of iterations and tolerances, a level out of range, or an
        order that does not refine.

    Examples
    --------
    >>> from prdp_hpc import ExplicitLadder
    >>> ladder = ExplicitLadder([1, 3, 10])
    >>> ladder.top, ladder.level(1), ladder.level(5)
    (2, 3, 10)
    """

    levels: Sequence[Level] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(map(plain_level, self.levels)))
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
            raise InputError(f"iterations must increase from level to level: {list(self.levels)}")
        if kinds == {False} and any(b >= a for a, b in pairs):
            raise InputError(f"tolerances must decrease from level to level: {list(self.levels)}")

    @property
    def top(self) -> int:
        """The index of the finest level."""
        return len(self.levels) - 1

    def level(self, rung: int) -> Level:
        """Return the level of a rung.

        Parameters
        ----------
        rung : int
            Index of the level, from 0; above `top` the finest level is returned.

        Returns
        -------
        int or float
            Number of iterations or relative tolerance.
        """
        return self.levels[min(_checked(rung), self.top)]


@dataclass(frozen=True)
class LooserLadder:
    """Another ladder with every level made coarser by `factor` (see `looser`); for adjoint solves.

    Raises `InputError` unless `0 < factor ≤ 1`.
    """

    ladder: Ladder
    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    @property
    def top(self) -> int:
        """The index of the finest level, that of the other ladder."""
        return self.ladder.top

    def level(self, rung: int) -> Level:
        """The level of the other ladder, made coarser by the factor."""
        return looser(self.ladder.level(rung), self.factor)


def looser(level: Level, factor: float) -> Level:
    """Make a level coarser: iterations are multiplied by `factor` and rounded, to at least 1; a
    tolerance is divided by `factor`.

    A tolerance is at most 0.5, above which a solve would have hardly any effect; a looser one is
    not changed. Raises `InputError` unless `0 < factor ≤ 1`.
    """
    _check_factor(factor)
    if isinstance(level, int):
        return max(1, round(level * factor))
    return max(level, min(level / factor, LOOSEST))


def plain_level(level: Any) -> Any:
    """A level that may be a number of NumPy as one of Python; other objects are not changed."""
    if isinstance(level, bool) or not isinstance(level, Real):
        return level
    return int(level) if isinstance(level, Integral) else float(level)


def check_level(level: Level) -> None:
    """Raise `InputError` unless `level` is an integer ≥ 1 (iterations) or a number between 0
    and 1 (tolerance).
    """
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise InputError(
            f"a level must be an integer (iterations) or a number between 0 and 1 (tolerance), not "
            f"{level!r}"
        )
    if isinstance(level, int) and level < 1:
        raise InputError(f"a level of iterations must be at least 1, not {level}")
    if isinstance(level, float) and not 0 < level < 1:
        raise InputError(f"a tolerance must lie between 0 and 1, not {level!r}")


def _check_factor(factor: float) -> None:
    check_number("a factor that makes levels coarser", factor, above=0, most=1)


def _checked(rung: int) -> int:
    if rung < 0:
        raise InputError(f"rungs count from 0, not {rung}")
    return rung
