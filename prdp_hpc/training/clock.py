"""Time of a training run, in steps of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prdp_hpc.config.intervals import Interval, interval
from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count
from prdp_hpc.tasks.task import AfterStep, Task


class Clock:
    """Counts the steps of a task; when to validate, to save and to end.

    Time is the number of completed steps of the optimiser. An epoch has `steps_per_epoch` of them.
    Of a task without the method `train_steps`, an epoch counts as one step.

    Parameters
    ----------
    task : the task.
    epochs : number of epochs.
    steps : number of steps, instead of epochs; None: `epochs` applies.
    validate_every, checkpoint_every : intervals, see `prdp_hpc.config.intervals`.
    log_every : steps between two lines of `steps.jsonl`; None: there are none.

    Attributes
    ----------
    total : number of steps.
    steps_per_epoch : steps of an epoch.
    unit, length : "step" or "epoch", and the number of them that was given.
    saves : steps between two checkpoints; 0 if the interval is a time.
    minutes : minutes between two checkpoints; infinite if the interval is not a time.

    Raises
    ------
    InputError
        For an invalid interval or a task without training samples, and for steps if the task has no
        method `train_steps`.
    """

    def __init__(
        self,
        task: Task,
        epochs: int,
        steps: int | None = None,
        validate_every: int | str = 1,
        checkpoint_every: int | str = 1,
        log_every: int | None = None,
    ) -> None:
        for name, count in (("epochs", epochs), ("steps", steps), ("log_every", log_every)):
            if count is not None or name == "epochs":
                check_count(name, count)
        own: Any = task
        self._task = own
        self._divides = callable(getattr(task, "train_steps", None))
        self.steps_per_epoch = int(own.steps_per_epoch) if self._divides else 1
        validations = _named("training.validate_every", validate_every, ("epochs", "steps"))
        checkpoints = _named("training.checkpoint_every", checkpoint_every)
        if not self._divides:
            self._check_undivided(steps, validations, checkpoints, log_every)
        if self.steps_per_epoch < 1:
            raise InputError("the task has no training samples: give data with the group train")
        self.unit, self.length = ("epoch", epochs) if steps is None else ("step", steps)
        self.total = epochs * self.steps_per_epoch if steps is None else steps
        self._validations = self._steps_of(validations)
        self.saves = self._steps_of(checkpoints)
        self.minutes = checkpoints.number if checkpoints.unit == "minutes" else math.inf
        self._may_save_every = self.saves if checkpoints.unit == "steps" else self.steps_per_epoch
        self.log_every = log_every

    def _check_undivided(
        self, steps: int | None, validations: Interval, checkpoints: Interval, log: int | None
    ) -> None:
        wanted = {
            "training.steps": steps is not None,
            "training.validate_every": validations != Interval(1, "epochs"),
            "training.checkpoint_every": checkpoints.unit == "steps",
            "training.log_every": log is not None,
        }
        for key, given in wanted.items():
            if given:
                raise InputError(
                    f"{key}: {type(self._task).__name__} trains and validates whole epochs, since "
                    "it has no method train_steps: leave the key out, or give epochs"
                )

    def _steps_of(self, every: Interval) -> int:
        """The steps of an interval; 0 for minutes."""
        if every.unit == "minutes":
            return 0
        return int(every.number) * (self.steps_per_epoch if every.unit == "epochs" else 1)

    def next_validation(self, step: int) -> int:
        """The time of the next validation; -1 is the time before the first one, which is at 0."""
        every = self._validations
        return min(self.total, (step // every + 1) * every)

    def samples_of(self, steps: int) -> float | None:
        """Mean number of samples in a number of steps; None: unknown."""
        samples = getattr(self._task, "samples_per_epoch", None)
        return None if samples is None else samples / self.steps_per_epoch * steps

    def validations(self, step: int) -> int:
        """Number of the validation at a time, from 0."""
        return -(-step // self._validations)

    def epoch(self, step: int) -> int | float:
        """Number of completed epochs, with a fraction within an epoch."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return step / self.steps_per_epoch if rest else whole

    def place(self, first: int, done: int) -> tuple[int, int]:
        """Epoch and step of a checkpoint, `done` steps after the validation at time `first`.

        The steps of a task without `train_steps` are not part of its time.
        """
        return divmod(first + done, self.steps_per_epoch) if self._divides else (first, done)

    def time(self, epoch: int, step: int) -> int:
        """The time of a checkpoint, see `place`."""
        return epoch * self.steps_per_epoch + step if self._divides else epoch

    def validated(self, epoch: int, step: int, done: int) -> int:
        """The time of the last validation before a checkpoint; `done` steps were done since."""
        return self.time(epoch, step) - (done if self._divides else 0)

    def step_of(self, row: Mapping[str, Any]) -> int:
        """The time of a line of metrics; lines of older versions have only the epoch."""
        return int(row.get("step", row["epoch"] * self.steps_per_epoch))

    def excess(self, epoch: int, step: int) -> str | None:
        """What to do if a checkpoint is of a later time than the last one of this run; or None."""
        time = self.time(epoch, step)
        if time <= self.total:
            return None
        done = time if self.unit == "step" else epoch + (step > 0)
        return f"the run already has {done} {self.unit}s; give training.{self.unit}s={done} or more"

    @property
    def why_ended(self) -> str:
        """What was trained once `total` is reached."""
        return f"all {self.length} {self.unit}s were trained"

    def save_due(self, step: int, saved: int) -> bool:
        """Whether a multiple of the interval of checkpoints lies after `saved`, up to `step`."""
        return self.saves > 0 and step // self.saves > saved // self.saves

    def may_save(self, step: int, saved: int) -> bool:
        """Whether a checkpoint may be due after a step between two validations."""
        return self._divides and self.save_due(step, saved) and step % self._may_save_every == 0

    def ends_epoch(self, step: int) -> bool:
        """Whether a step between two validations is the last one of an epoch."""
        return self._divides and step % self.steps_per_epoch == 0

    def train(
        self, first: int, last: int, earlier: Sequence[float], after_step: AfterStep
    ) -> float:
        """Train from one validation to the next; returns the mean loss. Collective."""
        if self._divides:
            loss: float = self._task.train_steps(first, last, earlier, after_step)
            return loss
        return float(self._task.train_epoch(last, earlier, after_step))

    def time_within(self, first: int, done: int) -> int:
        """The time `done` steps after the validation at time `first`."""
        return first + done if self._divides else first


def _named(key: str, value: int | str, units: tuple[str, ...] | None = None) -> Interval:
    try:
        return interval(value) if units is None else interval(value, units)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
