"""The decision to end training before the last epoch."""

from __future__ import annotations

import math
from typing import Any

from prdp_hpc.number_checks import check_count, check_number
from prdp_hpc.refinement import Level

Levels = tuple[Level, Level]


class EarlyStopping:
    """Ends training when the validation error no longer falls at one level of the solver.

    An error is lower if it is below `(1 − min_change)` times the lowest one so far. Training ends
    after `patience` successive validations without a lower error, all after steps at the same level
    as the next steps: both a lower error and a change of the level start the count again. A
    schedule can therefore refine as often as it has reason to, and each level has at least
    `patience` validations.

    Parameters
    ----------
    patience : int
        Number of validations.
    min_change : float, default 0.0
        Relative decrease that counts as lower, in [0, 1).

    Attributes
    ----------
    lowest : float
        The lowest error, by the measure above; infinite before the first one.
    waited : int
        Number of successive validations without a lower error at the current level.

    Raises
    ------
    InputError
        For a patience below 1 or a change outside [0, 1).

    Examples
    --------
    >>> from prdp_hpc import EarlyStopping
    >>> stopping = EarlyStopping(patience=2)
    >>> levels = [(1, 1), (1, 1), (2, 2), (2, 2), (2, 2)]  # of the next steps
    >>> [stopping.observe(error, level) for error, level in zip([5, 6, 7, 6, 6], levels)]
    [False, False, False, False, True]
    """

    def __init__(self, patience: int, min_change: float = 0.0) -> None:
        check_count("patience", patience)
        check_number("min_change", min_change, least=0, below=1)
        self.patience, self.min_change = int(patience), float(min_change)
        self.lowest, self.waited = math.inf, 0
        self._levels: Levels | None = None

    @property
    def ended(self) -> bool:
        """Whether training ends."""
        return self.waited >= self.patience

    def why_ended(self, level: Level) -> str:
        """Return the reason for the end of training.

        Parameters
        ----------
        level : int or float
            The level of the solver.

        Returns
        -------
        str
            A sentence without a full stop.
        """
        return (
            f"early stopping: the error was not lower in {self.waited} validations at level "
            f"{level:g}"
        )

    def observe(self, error: float, levels: Levels) -> bool:
        """Record a validation error.

        Parameters
        ----------
        error : float
            The validation error.
        levels : tuple
            Levels of forward and adjoint solves that the schedule has chosen for the next steps.

        Returns
        -------
        bool
            Whether training ends.
        """
        lower = error < (1.0 - self.min_change) * self.lowest
        if lower:
            self.lowest = float(error)
        self.waited = 0 if lower or levels != self._levels else self.waited + 1
        self._levels = levels
        return self.ended

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest error, the count and the levels."""
        levels = None if self._levels is None else list(self._levels)
        return {"lowest": self.lowest, "waited": self.waited, "levels": levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Parameters
        ----------
        state : dict
            The result of `state_dict()`.
        """
        self.lowest, self.waited = float(state["lowest"]), int(state["waited"])
        levels = state["levels"]
        self._levels = None if levels is None else (levels[0], levels[1])
