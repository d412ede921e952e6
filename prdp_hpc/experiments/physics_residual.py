"""The result of a comparison of data with one step of a PDE, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prdp_hpc.experiments.best_factors import BestFactor
from prdp_hpc.experiments.inspected_places import Place

FACTORS = {"π": math.pi, "1/π": 1 / math.pi}
FACTORS |= {f"{n}": float(n) for n in (2, 4, 5, 10, 20)}
FACTORS |= {f"1/{n}": 1 / n for n in (2, 4, 5, 10, 20)}
"""Factors by which time steps and coefficients are often wrong."""
UNDETERMINED = 1.5
"""Ratio of residuals up to which a number in `FACTORS` is not recognised as wrong."""
MUCH_SMALLER = 1 / 3
"""A change is named if it reduces the residual to this share."""
EXPLAINS = 0.5
"""A change with a larger residual does not explain the data."""
CLEARLY_SMALLER = 0.8
"""An order of axes or velocities, or a length, is mentioned if it reduces the residual of each
state to this share: where they are right, any other one is worse.
"""
FITS = 0.01
"""A residual below this is that of data that were computed by the scheme of the PDE."""


@dataclass(frozen=True)
class Change:
    """A change of how the data are read, or of the PDE.

    Attributes
    ----------
    axes : order in which the axes of the grid are read.
    channels : order in which the channels are read.
    lengths : length of the domain along each axis.
    key, factor : number of the section `physics` that is multiplied, and the factor.
    word : the factor in messages.
    """

    axes: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    lengths: tuple[float, ...] = ()
    key: str = ""
    factor: float = 1.0
    word: str = ""

    def with_number(self, other: Change) -> Change:
        """This order of axes and channels with the number of another change."""
        return replace(self, key=other.key, factor=other.factor, word=other.word)


@dataclass(frozen=True)
class PhysicsResidual:
    """Result of `physics_residual`.

    Attributes
    ----------
    channels : names of the channels.
    states : for each state its place, and the residual per channel; NaN where nothing changes.
    residual : root mean square of the residuals of the first group.
    changes : the changes that were tried with their residuals, the smallest first.
    compared : the residual without a change on the states on which the changes were tried.
    others : the residual of each other group, of which one trajectory is compared.
    best_factors : for each number the factors with which the states are reproduced best.
    clearer : orders and lengths with which each state is clearly reproduced better, and their
        residuals, the smallest first.
    """

    channels: tuple[str, ...]
    states: tuple[tuple[Place, tuple[float, ...]], ...]
    residual: float
    changes: tuple[tuple[Change, float], ...] = ()
    compared: float = math.nan
    others: Mapping[str, float] = field(default_factory=dict)
    best_factors: tuple[BestFactor, ...] = ()
    clearer: tuple[tuple[Change, float], ...] = ()

    @property
    def unlike(self) -> dict[str, float]:
        """The other groups with a much larger residual than the first one, and their residuals."""
        limit = max(FITS, self.residual / MUCH_SMALLER)
        return {group: one for group, one in self.others.items() if one > limit}

    @property
    def better(self) -> tuple[Change, float] | None:
        """The change with a much smaller residual, if there is one."""
        if self.changes and self.changes[0][1] < min(EXPLAINS, MUCH_SMALLER * self.compared):
            return self.changes[0]
        return None

    @property
    def equally_good(self) -> tuple[Change, ...]:
        """The changes that explain the data as well as `better`, with it; e.g. the time step or the
        diffusivity of the heat equation.
        """
        if self.better is None:
            return ()
        limit = 2 * self.better[1] + 1e-6
        return tuple(change for change, residual in self.changes if residual <= limit)

    @property
    def likelier(self) -> tuple[tuple[Change, float], ...]:
        """If no change is much better: the best of `clearer` and those about as good."""
        if self.better or not self.clearer:
            return ()
        limit = UNDETERMINED * self.clearer[0][1]
        return tuple(one for one in self.clearer if one[1] <= limit)

    @property
    def undetermined(self) -> tuple[tuple[Change, float], ...]:
        """For each number that can be much wrong without a much larger residual: the change with
        the smallest residual.
        """
        low, high = self.compared / UNDETERMINED, self.compared * UNDETERMINED
        found: dict[str, tuple[Change, float]] = {}
        for change, residual in self.changes:
            alone = change.key and not change.axes and not change.channels
            if alone and change.word in FACTORS and low <= residual <= high:
                found.setdefault(change.key, (change, residual))
        sure = {one.key for one in self.best_factors if one.agrees}
        uncertain = tuple(one for key, one in found.items() if key not in sure)
        known = self.better or self.likelier or math.isnan(self.compared)
        return () if known else uncertain

    @property
    def wrong(self) -> tuple[BestFactor, ...]:
        """If no change is much better: the numbers that are wrong by all states, first the one
        that reduces the residual most. With a wrong order of the axes no number is right, so that
        one which helps less than another order is left out.
        """
        limit = (self.likelier[0][1] / self.compared) ** 2 if self.likelier else math.inf
        found = [one for one in self.best_factors if one.is_wrong and one.left < limit]
        return () if self.better else tuple(sorted(found, key=lambda one: one.left))

    @property
    def invisible(self) -> tuple[Change, ...]:
        """Orders of the axes that have the same residual, so that a wrong one is not found."""
        return tuple(
            change
            for change, residual in self.changes
            if change.axes and not change.key and not change.channels and not change.lengths
            and abs(residual - self.compared) <= 1e-3 * self.compared + 1e-6
        )  # fmt: skip

    @property
    def confirmed(self) -> bool:
        """If no change is much better: whether all states are reproduced best with nearly the
        numbers of the config.
        """
        right = all(one.agrees and not one.is_wrong for one in self.best_factors)
        return bool(self.best_factors) and right and not self.better and not self.clearer
