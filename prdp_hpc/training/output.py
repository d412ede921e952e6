"""What a run shows and writes during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from prdp_hpc.metric_names import STEPS
from prdp_hpc.training.clock import Clock
from prdp_hpc.training.metrics import MetricsWriter, StepsWriter
from prdp_hpc.training.progress import Progress
from prdp_hpc.training.trackers.tracker import TrackedRun, Tracker, Trackers


class RunOutput:
    """The files of metrics, the trackers and the progress of a run; a context manager.

    Parameters
    ----------
    run : name, folder and settings of the run.
    active : whether this rank writes.
    resume_epoch : epoch of the last line to keep in `metrics.jsonl`; None for a new run.
    clock : the length of the run, and whether `steps.jsonl` is written.
    trackers : the trackers, which are started.
    pending : rows of validations that are not written yet, of a resumed run.

    Raises
    ------
    MetricsError
        If the folder has the metrics of another run.
    InputError
        If the package of a tracker is not installed.
    """

    def __init__(
        self,
        run: TrackedRun,
        active: bool,
        resume_epoch: float | None,
        clock: Clock,
        trackers: Sequence[Tracker],
        pending: Sequence[dict[str, Any]],
    ) -> None:
        self.metrics = MetricsWriter(run.folder, active, resume_epoch)
        has_steps = active and (clock.log_every is not None or (run.folder / STEPS).exists())
        self._steps = StepsWriter(run.folder, has_steps, run.resumed_at)
        self.trackers = Trackers(trackers if active else ())
        self._progress = Progress(clock.length, active, run.name, clock.unit)
        self._active = active
        self.pending = [row for row in pending if row["epoch"] > self.metrics.last]
        self.trackers.start(run)

    def add(self, row: dict[str, Any]) -> None:
        """Add the row of a validation, which `show` shows."""
        self.pending += [row] if self._active else []

    def show(self, ready: Callable[[Mapping[str, Any]], bool]) -> None:
        """Write and show the pending rows in their order, as far as they are ready."""
        while self.pending and ready(self.pending[0]):
            row = self.pending.pop(0)
            self.metrics.write(row)
            self.trackers.log(row)
            self._progress.update(row)

    def show_step(self, row: Mapping[str, Any]) -> None:
        """Write and show the row of a step; progress shows rows in their order only."""
        self._steps.write(row)
        self.trackers.log(row, "steps/")
        if not self.pending:
            self._progress.step(row)

    def sync(self) -> None:
        """Write all lines so far to the disk."""
        self.metrics.sync()
        self._steps.sync()

    def __enter__(self) -> RunOutput:
        return self

    def __exit__(self, *raised: object) -> None:
        with ExitStack() as stack:
            stack.callback(self.trackers.finish, None)
            for writer in (self._progress, self._steps, self.metrics):
                stack.callback(writer.close)
