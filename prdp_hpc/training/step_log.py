"""Metrics of single steps, between two validations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prdp_hpc.training.clock import Clock
from prdp_hpc.training.measures import Measures, rates


class StepLog:
    """Makes a row of metrics every `clock.log_every` steps.

    The loss of a row is the mean over the steps since the previous row or the last validation,
    whichever was later. A row takes two reductions, one of the losses and one of the memory; other
    steps take none.

    Parameters
    ----------
    clock, measures : those of the run.
    write : called with each row on all ranks.
    """

    def __init__(
        self,
        clock: Clock,
        measures: Measures,
        write: Callable[[dict[str, Any]], None],
    ) -> None:
        self._clock, self._measures, self._write = clock, measures, write
        self._seconds: Mapping[str, float] = {}
        self._step = 0
        self._losses: Sequence[float] = ()

    def start(self, step: int) -> None:
        """Begin at a step."""
        self._step, self._seconds = step, self._measures.own_seconds()

    def due(self, step: int) -> bool:
        """Whether a row is due after this step."""
        every = self._clock.log_every
        return every is not None and step > 0 and step % every == 0

    def after_step(
        self, first: int, step: int, losses: Sequence[float], levels: Mapping[str, Any]
    ) -> None:
        """Write the row of a step; `losses` are those since the validation at time `first`.
        Collective.
        """
        self._losses = losses
        self._row(step, float(np.mean(losses[self._done(first, step) :])), levels)

    def at_validation(
        self,
        first: int,
        step: int,
        mean: float,
        earlier: Sequence[float],
        levels: Mapping[str, Any],
    ) -> None:
        """Write the row of the step before a validation, if it is due. Collective.

        `mean` is the mean loss since the validation at time `first`, and `earlier` are the losses
        of these steps before a restart.
        """
        if self.due(step):
            count, done = step - first, self._done(first, step)
            known = [*(self._losses if len(self._losses) >= done else earlier)][:done]
            loss = (mean * count - sum(known)) / (count - done) if done else mean
            self._row(step, loss, levels)
        self._losses = ()

    def _done(self, first: int, step: int) -> int:
        """Number of steps from the validation at time `first` to the row before that of `step`."""
        every = self._clock.log_every or 1
        return max(0, (step - 1) // every * every - first)

    def _row(self, step: int, loss: float, levels: Mapping[str, Any]) -> None:
        seconds = self._measures.own_seconds()
        trained = self._clock.samples_of(step - self._step)
        self._write(
            {
                "epoch": self._clock.epoch(step),
                "step": step,
                "loss": loss,
                **self._measures.step_numbers(),
                **levels,
                **rates(seconds, self._seconds, trained),
                **self._measures.memory(),
                "total_seconds": self._measures.before.get("total_seconds", 0.0)
                + seconds["total_seconds"],
            }
        )
        self._step, self._seconds = step, seconds
