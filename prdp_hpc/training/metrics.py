"""Output of a run during training: `metrics.jsonl`, TensorBoard events, and progress on stderr."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from prdp_hpc.console import Bar, note
from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors, to_json, write_text
from prdp_hpc.report.runs import read_metrics

Row = Mapping[str, Any]
MOST_LINES = 20
"""Approximate number of progress lines of a long run, in addition to one per change of level."""


class MetricsError(InputError):
    """New metrics would overwrite, or be mixed with, those of another run."""


class MetricsWriter:
    """Appends one JSON object per epoch to `folder/metrics.jsonl`, and writes its numbers to
    `folder/tensorboard`.

    Without `active` (on ranks other than 0) it has no effect. `resume_epoch` is the last epoch to
    keep: lines of later epochs, and an incomplete last line, are removed (-1 removes all). With
    None the run is new, and a `metrics.jsonl` that is not empty raises `MetricsError`; an invalid
    file raises `ReportError`. A context manager; `close` may also be called.
    """

    def __init__(self, folder: str | Path, active: bool, resume_epoch: int | None = None) -> None:
        self._file: IO[str] | None = None
        self._board: Any = None
        if not active:
            return
        path = self._path = Path(folder) / "metrics.jsonl"
        with self._explained():
            self._start(path, resume_epoch)

    def _start(self, path: Path, resume_epoch: int | None) -> None:
        if resume_epoch is None and path.exists() and path.read_bytes().strip():
            raise MetricsError(
                f"{path}: contains the metrics of another run; resume it, or give the new run "
                "another name"
            )
        if path.exists():
            _keep_until(path, -1 if resume_epoch is None else resume_epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._board = _board(
            path.parent / "tensorboard",
            first_epoch=None if resume_epoch is None else resume_epoch + 1,
        )

    def write(self, row: Row) -> None:
        """Append `row`, which has an integer `epoch`; numbers that are not finite become null."""
        if self._file is None:
            return
        line, summary = to_json(row) + "\n", _summary(row)
        with self._explained():
            self._file.write(line)
            self._file.flush()
            self._board.file_writer.add_summary(summary, row["epoch"])
            self._board.flush()

    def sync(self) -> None:
        """Write the lines so far to the disk (fsync); may be called from another thread."""
        if self._file is not None:
            with self._explained():
                os.fsync(self._file.fileno())

    def _explained(self) -> AbstractContextManager[None]:
        return file_errors(
            self._path, "cannot be written", "free disk space, then continue with --resume"
        )

    def close(self) -> None:
        """Close the files; later calls of `write` have no effect."""
        if self._file is not None:
            self._file.close()
            self._board.close()
            self._file = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class Progress:
    """Shows the progress of training: a bar if standard error is a terminal, otherwise lines like

        heat_2d  epoch 12/70  error 3.21e-02  level 4  inner iterations 19,200  31.4 s

    There is one line per epoch for up to 50 epochs; longer runs have about 20 lines in total and
    one per change of level. Without `active` (on ranks other than 0) it has no effect. A context
    manager; `close` may also be called.
    """

    def __init__(self, total_epochs: int, active: bool, label: str) -> None:
        self._total = total_epochs
        self._label = label
        self._active = active
        self._every = 1 if total_epochs <= 50 else math.ceil(total_epochs / MOST_LINES)
        self._epoch: int | None = None
        self._level: float | None = None
        self._bar: Bar | None = None
        if active and Bar.is_shown():
            self._bar = Bar(total_epochs, label, "epoch")

    def update(self, row: Row) -> None:
        """Show the epoch of `row`, a line of `metrics.jsonl`, unless it has been shown already."""
        epoch, level = row["epoch"], row["level"]
        if not self._active or epoch == self._epoch:
            return
        first, changed = self._epoch is None, level != self._level
        self._epoch, self._level = epoch, level
        if self._bar is not None:
            self._bar.update(epoch, f"error {_error(row['error'])}, level {level:g}")
        elif first or changed or epoch % self._every == 0 or epoch == self._total:
            note(self._line(row))

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._active = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _line(self, row: Row) -> str:
        work = row["forward_iterations"] + row["adjoint_iterations"]
        parts = [
            self._label,
            f"epoch {row['epoch']}/{self._total}",
            f"error {_error(row['error'])}",
            f"level {row['level']:g}",
        ]
        return "  ".join([*parts, f"inner iterations {work:,}", f"{row['total_seconds']:.1f} s"])


def _board(folder: Path, first_epoch: int | None) -> Any:
    # Imported here, since TensorBoard is slow to load and only one rank writes.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_epoch)  # type: ignore[no-untyped-call]


def _summary(row: Row) -> Any:
    """All numbers of a row as one event; `add_scalar` would write about twenty events per epoch."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(
        value=[Summary.Value(tag=tag, simple_value=number) for tag, number in _scalars(row).items()]
    )


def _scalars(row: Row) -> dict[str, float]:
    cells: dict[str, Any] = {}
    for key, value in row.items():
        cells |= (
            {f"{key}/{index}": item for index, item in enumerate(value)}
            if isinstance(value, list | tuple)
            else {key: value}
        )
    del cells["epoch"]
    return {
        key: float(cell)
        for key, cell in cells.items()
        if isinstance(cell, numbers.Real) and math.isfinite(cell)
    }


def _error(error: float | None) -> str:
    return "none" if error is None else f"{error:.2e}"


def _keep_until(path: Path, epoch: int) -> None:
    kept = [line for _, line in read_metrics(path) if line["epoch"] <= epoch]
    write_text(path, "".join(to_json(line) + "\n" for line in kept))
