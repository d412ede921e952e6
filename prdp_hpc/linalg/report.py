"""What a solver has done."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Counters:
    """Work of one direction.

    Attributes
    ----------
    solves : right-hand sides solved (a batch of B counts B).
    iterations : KSP iterations of all of them together.
    set_ups : preconditioner set-ups.
    seconds : wall-clock seconds of solves and set-ups.
    """

    solves: int = 0
    iterations: int = 0
    set_ups: int = 0
    seconds: float = 0.0


@dataclass
class SolveReport:
    """Work of a `Solver` since it was made or since `reset`, forward and adjoint apart."""

    forward: Counters = field(default_factory=Counters)
    adjoint: Counters = field(default_factory=Counters)

    def reset(self) -> None:
        """Set everything to zero."""
        self.forward, self.adjoint = Counters(), Counters()

    def state_dict(self) -> dict[str, Any]:
        """The counters as plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.forward, self.adjoint = Counters(**state["forward"]), Counters(**state["adjoint"])
