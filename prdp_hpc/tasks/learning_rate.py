"""The learning rate of each step: a warm-up, followed by a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from prdp_hpc.errors import InputError, returned
from prdp_hpc.tasks.recipe import Recipe


class LearningRate:
    """Sets the learning rate of an optimiser before each step.

    Step s (from 0) of the `w` steps of warm-up has the rate `(s + 1) / (w + 1)` times the first
    rate of the schedule, which begins after them.

    Parameters
    ----------
    optimiser : the optimiser, whose rates are changed.
    recipe : its rate or scheduler, and its number of warm-up steps.
    """

    def __init__(self, optimiser: Optimizer, recipe: Recipe) -> None:
        self._optimiser, self._warmup, self._done = optimiser, recipe.warmup_steps, 0
        self._schedule = _schedule(optimiser, recipe)
        self._follows_error = isinstance(self._schedule, ReduceLROnPlateau)
        self._first = [group["lr"] for group in optimiser.param_groups]
        self._check()
        if self._warmup:
            self._warm_up()

    @property
    def value(self) -> float:
        """The learning rate of the next step, of the first group of parameters."""
        return float(self._optimiser.param_groups[0]["lr"])

    def step(self) -> None:
        """Set the rate of the next step, after a step of the optimiser."""
        self._done += 1
        if self._done <= self._warmup:
            self._warm_up()
        elif not self._follows_error:
            self._advance()

    def after_validation(self, error: float) -> None:
        """Pass a validation error to a schedule that depends on it."""
        if self._follows_error and self._done >= self._warmup:
            self._advance(error)

    def state_dict(self) -> dict[str, Any]:
        """Return what `step` and `after_validation` change, besides the rates themselves, which
        are in the state of the optimiser.
        """
        state: dict[str, Any] = {"last_epoch": self._schedule.last_epoch}
        if self._warmup:
            state["done"] = self._done
        if not isinstance(self._schedule, LambdaLR):
            state["schedule"] = self._schedule.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._done = state.get("done", state["last_epoch"])
        if "schedule" in state:
            self._schedule.load_state_dict(state["schedule"])
        self._schedule.last_epoch = state["last_epoch"]

    def _warm_up(self) -> None:
        factor = (self._done + 1) / (self._warmup + 1)
        for group, rate in zip(self._optimiser.param_groups, self._first, strict=True):
            group["lr"] = rate * factor

    def _advance(self, *error: float) -> None:
        step: Any = self._schedule.step
        try:
            step(*error)
        except (ArithmeticError, TypeError, ValueError) as problem:
            raise InputError(f"training.schedule: {problem}") from None
        self._check()

    def _check(self) -> None:
        """Raise `InputError` for a rate that is no finite number, or below zero by more than
        rounding errors.
        """
        for group, first in zip(self._optimiser.param_groups, self._first, strict=True):
            rate = float(group["lr"])
            if not (math.isfinite(rate) and rate >= -1e-12 * abs(first)):
                raise InputError(
                    f"training.schedule: the learning rate after {self._done} step(s) is "
                    f"{rate:g}, but must be a finite number of at least 0"
                )


def _schedule(optimiser: Optimizer, recipe: Recipe) -> LRScheduler:
    if recipe.scheduler is None:
        return LambdaLR(optimiser, _checked_rate(recipe.rate))
    try:
        return recipe.scheduler(optimiser)
    except (ArithmeticError, TypeError, ValueError) as problem:
        raise InputError(f"training.schedule: {problem}") from None


def _checked_rate(rate: Callable[[int], float]) -> Callable[[int], float]:
    """The rate as a function that returns a number."""
    if not callable(rate):
        raise InputError(
            f"training.schedule: must be made as a function of the number of steps, not as {rate!r}"
        )

    def checked(step: int) -> float:
        found = rate(step)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise returned("training.schedule: the rate", "a number", found) from None

    return checked
