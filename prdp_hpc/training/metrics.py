"""Lines of a run during training: `metrics.jsonl` and `steps.jsonl`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Self

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors, to_json, write_text
from prdp_hpc.metric_names import STEPS
from prdp_hpc.report.runs import read_metrics

Row = Mapping[str, Any]


class MetricsError(InputError):
    """New metrics would overwrite, or be mixed with, those of another run."""


class LineWriter:
    """Appends JSON objects to a file, one per line.

    Without `active` (on ranks other than 0) it has no effect. A context manager; `close` may also
    be called.
    """

    def __init__(self, path: Path, active: bool) -> None:
        self._path, self._file = path, None
        if active:
            with self._explained():
                self._file = self._open()

    _file: IO[str] | None

    def _kept(self) -> Sequence[Row]:
        """The lines of an existing file that stay in it."""
        return ()

    def _open(self) -> IO[str]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            write_text(self._path, "".join(to_json(line) + "\n" for line in self._kept()))
        return self._path.open("a", encoding="utf-8", newline="\n")

    def write(self, row: Row) -> None:
        """Append a row; numbers that are not finite become null."""
        if self._file is None:
            return
        line = to_json(row) + "\n"
        with self._explained():
            self._file.write(line)
            self._file.flush()

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
        """Close the file; later calls of `write` have no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class MetricsWriter(LineWriter):
    """Appends one JSON object per validation to `folder/metrics.jsonl`.

    `resume_epoch` is the last epoch to keep: lines of later epochs, and an incomplete last line,
    are removed (-1 removes all). With None the run is new, and a `metrics.jsonl` that is not empty
    raises `MetricsError`; an invalid file raises `ReportError`.

    Attributes
    ----------
    last : epoch of the last line that was kept; -1 if there is none.
    """

    def __init__(self, folder: str | Path, active: bool, resume_epoch: float | None = None) -> None:
        self._resume_epoch, self.last = resume_epoch, -1.0
        super().__init__(Path(folder) / "metrics.jsonl", active)

    def _kept(self) -> Sequence[Row]:
        if self._resume_epoch is None and self._path.read_bytes().strip():
            raise MetricsError(
                f"{self._path}: contains the metrics of another run; resume it, or give the new "
                "run another name"
            )
        until = -1 if self._resume_epoch is None else self._resume_epoch
        kept = [line for _, line in read_metrics(self._path) if line["epoch"] <= until]
        if kept:
            self.last = kept[-1]["epoch"]
        return kept


class StepsWriter(LineWriter):
    """Appends one JSON object every `training.log_every` steps to `folder/steps.jsonl`.

    Lines of steps after `resume_step`, and everything after a line that cannot be read, are
    removed; None removes all.
    """

    def __init__(self, folder: str | Path, active: bool, resume_step: int | None = None) -> None:
        self._resume_step = -1 if resume_step is None else resume_step
        super().__init__(Path(folder) / STEPS, active)

    def _kept(self) -> Sequence[Row]:
        kept: list[Row] = []
        for text in self._path.read_bytes().splitlines():
            try:
                line = json.loads(text)
                if line["step"] > self._resume_step:
                    break
            except (ValueError, TypeError, KeyError):
                break
            kept.append(line)
        return kept
