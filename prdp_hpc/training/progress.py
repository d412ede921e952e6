"""The progress of training on standard error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from prdp_hpc.console import Bar, duration, note

Row = Mapping[str, Any]
COLUMNS, INDENT = 100, " " * 4
"""Longest line, and what a continued line begins with."""
MOST_LINES = 20
"""Approximate number of progress lines of a long run, in addition to one per change of level."""


class Progress:
    """Shows the progress of training: a bar if standard error is a terminal, otherwise lines like

        heat_2d  epoch 12/70  error 3.21e-02  level 4  inner iterations 19,200  31.4 s  2 min left
            lr 1.0e-03  gradient 2.3e-01  1,240 samples/s  solver 61%  0.8 GiB

    A line has at most 100 columns; the rest continues on the next one. There is one entry per epoch
    for up to 50 epochs; longer runs have about 20 entries in total and one per change of level.
    Without `active` (on ranks other than 0) it has no effect. A context manager; `close` may also
    be called.

    Parameters
    ----------
    total : number of epochs, or of steps.
    active : whether to show anything.
    label : first word of the lines.
    unit : what is counted: "epoch" or "step", a key of the rows.
    clock : the time in seconds.
    """

    def __init__(
        self,
        total: int,
        active: bool,
        label: str,
        unit: str = "epoch",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._total, self._label, self._active, self._unit = total, label, active, unit
        self._clock = clock
        self._every = 1 if total <= 50 else math.ceil(total / MOST_LINES)
        self._row: Row | None = None
        self._shown = -1.0
        self._start: tuple[float, float] | None = None
        self._bar: Bar | None = None
        if active and Bar.is_shown():
            self._bar = Bar(total, label, unit)

    def update(self, row: Row) -> None:
        """Show `row`, a line of `metrics.jsonl`, unless it has been shown already."""
        now, last = row[self._unit], self._row
        if not self._active or (last is not None and now == last[self._unit]):
            return
        self._row = row
        left = self._left(now)
        if self._bar is not None:
            self._bar.update(now, ", ".join([f"error {_error(row['error'])}", *_state(row)]))
            return
        changed = last is None or row["level"] != last["level"]
        if changed or self._due(now) or now == self._total:
            self._write(now, [*self._work(row), *left, *_numbers(row)])

    def step(self, row: Row) -> None:
        """Show `row`, a line of `steps.jsonl`, if a line is due."""
        now = row[self._unit]
        if not self._active:
            return
        left = self._left(now)
        if self._bar is not None:
            error = [] if self._row is None else [f"error {_error(self._row['error'])}"]
            self._bar.update(now, ", ".join([*error, *_state(row)]))
        elif self._due(now) and now < self._total:
            loss = f"loss {_error(row['loss'])}"
            self._write(now, [loss, f"level {row['level']:g}", *left, *_numbers(row)])

    def _due(self, now: float) -> bool:
        return now // self._every > self._shown // self._every

    def _write(self, now: float, parts: list[str]) -> None:
        self._shown = now
        note(_wrapped([self._label, f"{self._unit} {_place(now)}/{self._total}", *parts]))

    def _work(self, row: Row) -> list[str]:
        work = row["forward_iterations"] + row["adjoint_iterations"]
        return [
            f"error {_error(row['error'])}",
            f"level {row['level']:g}",
            f"inner iterations {work:,}",
            f"{row['total_seconds']:.1f} s",
        ]

    def _left(self, now: float) -> list[str]:
        """The time left, from that of the steps which this process has completed."""
        seconds = self._clock()
        if self._start is None:
            self._start = seconds, now
        passed, done = seconds - self._start[0], now - self._start[1]
        if done <= 0 or now >= self._total:
            return []
        return [f"{duration(passed / done * (self._total - now))} left"]

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


def _wrapped(parts: list[str]) -> str:
    """The parts with two spaces between them, on lines of at most `COLUMNS` if each part fits."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}  {part}"
        if len(longer) <= COLUMNS:
            lines[-1] = longer
        else:
            lines.append(INDENT + part)
    return "\n".join(lines)


def _state(row: Row) -> list[str]:
    return [f"level {row['level']:g}", *_numbers(row)]


def _numbers(row: Row) -> list[str]:
    """What a row has of learning rate, gradient, speed, share of the solver and memory."""
    texts = {
        "learning_rate": "lr {:.1e}",
        "gradient_norm": "gradient {:.1e}",
        "samples_per_second": "{:,.0f} samples/s",
        "solver_share": "solver {:.0%}",
        "memory_gib": "{:.1f} GiB",
    }
    return [text.format(row[key]) for key, text in texts.items() if row.get(key) is not None]


def _place(now: float) -> str:
    return f"{now:.6g}" if isinstance(now, float) else str(now)


def _error(error: float | None) -> str:
    return "none" if error is None else f"{error:.2e}"
