"""The PRDP coordinator: when to refine, and when to stop refining."""

from __future__ import annotations

import math
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.refinement.ladders import Ladder, Level

FIRST_CHECKPOINT = 100.0


class RefinementError(InputError):
    """The validation error is not a number: training has failed, and more accuracy would not mend
    it.
    """


class Coordinator:
    """Climbs a ladder of levels when the validation error plateaus.

    With the smoothed error `ema_0 = err_0`, `ema_t = α err_t + (1 − α) ema_{t−1}`, `α = 2 /
    (ema_window + 1)`, once there are more than `error_window` errors:

    1. no plateau, if `ema[-1] / ema[-error_window] ≤ step_threshold`: keep the level;
    2. else, with `c = ema[-1] / checkpoint` (the checkpoint is 100 at first): if `c <
      stop_threshold` (the last refinement
       paid off) or `c > 1` (the error grows), set `checkpoint = ema[-1]` and go one level up;
    3. else the last refinement bought nothing: keep the level.

    At the top of the ladder the level stays. With `ema_window = 1` the raw error is used.

    Parameters
    ----------
    ladder : levels of forward solves.
    step_threshold : τ_step, default 0.98.  stop_threshold : τ_stop, default 0.9.
    ema_window : w, default 6.  error_window : e, default 3.
    adjoint_ladder : levels of adjoint solves, by the same rung (its top where it is shorter);
        default: `ladder`.

    Raises
    ------
    ValueError
        For thresholds that are not positive or windows below 1.

    Source: paper, section on the PRDP algorithm.
    """

    def __init__(
        self,
        ladder: Ladder,
        step_threshold: float = 0.98,
        stop_threshold: float = 0.9,
        ema_window: int = 6,
        error_window: int = 3,
        adjoint_ladder: Ladder | None = None,
    ) -> None:
        for name, threshold in (
            ("step_threshold", step_threshold),
            ("stop_threshold", stop_threshold),
        ):
            if not (math.isfinite(threshold) and threshold > 0):
                raise InputError(f"{name} must be a positive number, not {threshold!r}")
        for name, window in (("ema_window", ema_window), ("error_window", error_window)):
            if isinstance(window, bool) or int(window) != window or window < 1:
                raise InputError(f"{name} must be an integer of at least 1, not {window!r}")
        self.ladder, self.adjoint_ladder = ladder, adjoint_ladder
        self.step_threshold, self.stop_threshold = step_threshold, stop_threshold
        self.ema_window, self.error_window = ema_window, error_window
        self.rung = 0
        self.checkpoint = FIRST_CHECKPOINT
        self.history: list[float] = []
        self._ema: list[float] = []

    @property
    def level(self) -> Level:
        """The level of forward solves: iterations (int) or a tolerance (float)."""
        return self.ladder.level(self.rung)

    @property
    def adjoint_level(self) -> Level:
        """The level of adjoint solves."""
        return (self.adjoint_ladder or self.ladder).level(self.rung)

    def observe(self, error: float) -> bool:
        """Take the next validation error (the first one before training); True when the level has
        just changed.

        Raises `RefinementError` for an error that is NaN or infinite; nothing is recorded then.
        """
        error = checked_error(error, len(self.history), self.level)
        alpha = 2.0 / (self.ema_window + 1)
        self._ema.append(alpha * error + (1.0 - alpha) * self._ema[-1] if self._ema else error)
        self.history.append(error)
        if not self._should_refine():
            return False
        self.checkpoint = self._ema[-1]
        if self.rung == self.ladder.top:
            return False
        self.rung += 1
        return True

    def _should_refine(self) -> bool:
        if len(self.history) <= self.error_window:
            return False
        now = self._ema[-1]
        if _ratio(now, self._ema[-self.error_window]) <= self.step_threshold:
            return False
        against_checkpoint = _ratio(now, self.checkpoint)
        return against_checkpoint < self.stop_threshold or against_checkpoint > 1.0

    def state_dict(self) -> dict[str, Any]:
        """Rung, checkpoint and history, as plain numbers."""
        return {
            "rung": self.rung,
            "checkpoint": self.checkpoint,
            "history": list(self.history),
            "ema": list(self._ema),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rung, self.checkpoint = int(state["rung"]), float(state["checkpoint"])
        self.history, self._ema = list(state["history"]), list(state["ema"])


def checked_error(
    error: float, observed: int, level: Level, what: str = "validation error"
) -> float:
    """`error` as a float, or a `RefinementError` if it is not finite."""
    if not math.isfinite(error):
        raise RefinementError(
            f"{what} number {observed} is {error}, at level {level}: training has "
            "diverged; "
            "lower the learning rate, start from a finer level, or look at the data"
        )
    return float(error)


def _ratio(now: float, before: float) -> float:
    """`now / before`; two zeros are a plateau, not a failure."""
    return now / before if before else (1.0 if now == 0.0 else math.inf)
