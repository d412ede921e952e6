"""The position of forward or adjoint solves on their ladder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prdp_hpc.refinement.ladders import Ladder, Level


@dataclass
class Rungs:
    """A ladder and an index of one of its levels.

    Attributes
    ----------
    ladder : the levels.
    rung : index of the current level.
    slack : number of consecutive probes in which a coarser level has passed.
    matters : whether the level has an effect on the gradient.
    """

    ladder: Ladder = field(repr=False)
    rung: int = 0
    slack: int = 0
    matters: bool = True

    @property
    def level(self) -> Level:
        """The level of the rung."""
        return self.ladder.level(self.rung)

    @property
    def reference(self) -> Level | None:
        """The level with which this one is compared: for iterations the first with at least twice
        as many, for tolerances the next one; otherwise the finest, and None at the finest.
        """
        above = self.neighbour(1)
        if above is None or isinstance(self.level, float):
            return None if above is None else self.ladder.level(above)
        levels = (self.ladder.level(rung) for rung in range(above, self.ladder.top))
        twice = (level for level in levels if level >= 2 * self.level)
        return next(twice, self.ladder.level(self.ladder.top))

    def neighbour(self, step: int) -> int | None:
        """The nearest finer (1) or coarser (-1) rung with a different level, or None."""
        rung = self.rung + step
        while 0 <= rung <= self.ladder.top:
            if self.ladder.level(rung) != self.level:
                return rung
            rung += step
        return None

    def climb(self) -> None:
        """Move to the next finer level, if there is one."""
        above = self.neighbour(1)
        self.rung, self.slack = self.rung if above is None else above, 0

    def jump(self, rungs: int) -> None:
        """Move up by several rungs, to at most twice the rung and at most the top."""
        self.rung = min(self.rung + rungs, 2 * self.rung, self.ladder.top)

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the ladder as plain numbers."""
        return {key: getattr(self, key) for key in ("rung", "slack", "matters")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rung, self.slack = int(state["rung"]), int(state["slack"])
        self.matters = bool(state["matters"])
