"""Metrics for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prdp_hpc.training.trackers.tracker import Numbers, TrackedRun


class TensorBoard:
    """Writes the numbers of a run to `tensorboard/` in the run folder.

    Numbers of steps after that from which a run is resumed are hidden.

    Examples
    --------
    >>> from pathlib import Path
    >>> from prdp_hpc import TensorBoard, TrackedRun
    >>> tracker = TensorBoard()
    >>> tracker.start(TrackedRun("mine", Path("runs/mine")))
    >>> tracker.log({"error": 0.5}, step=8)
    >>> tracker.finish(None)
    """

    def __init__(self) -> None:
        self._board: Any = None

    def start(self, run: TrackedRun) -> None:
        """Open a new file of events.

        Parameters
        ----------
        run : TrackedRun
            The run.
        """
        # Imported here, since TensorBoard is slow to load and only one rank writes.
        from torch.utils.tensorboard import SummaryWriter

        first = None if run.resumed_at is None else run.resumed_at + 1
        self._board = SummaryWriter(  # type: ignore[no-untyped-call]
            str(run.folder / "tensorboard"), purge_step=first
        )

    def log(self, numbers: Numbers, step: int) -> None:
        """Write one event with all numbers.

        Parameters
        ----------
        numbers : mapping from str to float
            Numbers by name.
        step : int
            Number of completed steps of the optimiser.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        # `add_scalar` would write one event per number.
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._board.file_writer.add_summary(Summary(value=values), step)
        self._board.flush()

    def finish(self, summary: Mapping[str, Any] | None) -> None:
        """Close the file.

        Parameters
        ----------
        summary : mapping or None
            Not used.
        """
        self._board.close()
