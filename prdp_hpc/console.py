"""Output for people: tables, text and progress bars, all from here.

On a terminal, tables fit its width and are drawn by rich, with colours unless `NO_COLOR` is set.
Elsewhere (files, pipes, job logs) all output is plain text without control characters. The caller
writes on one rank only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class Table(str):
    """A table as plain text that also has its cells, so that a terminal can show it in its width.

    Parameters
    ----------
    rows : rows of cells; the first row is the head.
    sides : for each column "<" (left) or ">" (right).
    """

    rows: tuple[tuple[str, ...], ...]
    sides: str

    def __new__(cls, rows: Sequence[Sequence[str]], sides: str) -> Table:
        """Lay out the rows as text."""
        table = super().__new__(cls, _aligned(rows, sides))
        table.rows, table.sides = tuple(tuple(row) for row in rows), sides
        return table


class Report(str):
    """Paragraphs and tables as plain text, joined by empty lines, that also has its parts."""

    parts: tuple[str, ...]

    def __new__(cls, parts: Sequence[str], between: str = "\n\n") -> Report:
        """Join the parts."""
        report = super().__new__(cls, between.join(parts))
        report.parts = tuple(parts)
        return report


def show(*parts: str) -> None:
    """Write text, tables and reports to standard output, with an empty line between two of them."""
    stream = sys.stdout
    if not _is_terminal(stream):
        _print("\n\n".join(parts), stream)
        return
    console = _console(stream)
    for number, part in enumerate(_flattened(parts)):
        if number:
            stream.write("\n")
        if isinstance(part, Table):
            console.print(_drawn(part))
        else:
            console.print(_marked(part), soft_wrap=True)
    stream.flush()


def note(text: str) -> None:
    """Write a line on standard error, above a progress bar where there is one."""
    _print(text, sys.stderr)


def duration(seconds: float) -> str:
    """A time in two of the units d, h, min and s, e.g. "2 h 5 min"; below a minute "12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((place for place, (number, _) in enumerate(units) if number), len(units) - 1)
    shown = units[first : first + 2]
    return " ".join(f"{number} {unit}" for number, unit in shown if number or len(shown) == 1)


class Bar:
    """A progress bar on standard error; it is shown only on a terminal.

    It is drawn at each update and has no separate thread, since a process with MPI may end at any
    moment; for the same reason the cursor is never hidden.
    """

    def __init__(self, total: int, label: str, unit: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(f"{unit} {{task.completed:g}}/{{task.total:g}}", markup=False),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            Remaining(),
        ]
        self._progress = Progress(*columns, console=_console(sys.stderr), auto_refresh=False)
        self._task = self._progress.add_task(label, total=total, state="")
        self._progress.start()

    @staticmethod
    def is_shown() -> bool:
        """Whether standard error is a terminal."""
        return _is_terminal(sys.stderr)

    def update(self, completed: int, state: str) -> None:
        """Show how far it is, and what is known of it, e.g. an error."""
        self._progress.update(self._task, completed=completed, state=state, refresh=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


def _aligned(rows: Sequence[Sequence[str]], sides: str) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    columns = list(zip(sides, widths, strict=True))
    cells = (
        [f"{cell:{side}{width}}" for cell, (side, width) in zip(row, columns, strict=True)]
        for row in rows
    )
    lines = ["  ".join(line).rstrip() for line in cells]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def _print(text: str, stream: TextIO) -> None:
    """Print a line; once the reader of a pipe, e.g. `head`, has ended, discard all output to it."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # A training goes on. Python too would fail when it flushes the stream at its exit.
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class _Console(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return _Console(file=stream, highlight=False, markup=False, emoji=False)


def _flattened(parts: Sequence[str]) -> list[str]:
    flat: list[str] = []
    for part in parts:
        flat += _flattened(part.parts) if isinstance(part, Report) else [part]
    return flat


def _drawn(table: Table) -> Any:
    from rich import box
    from rich.table import Table as Drawn

    drawn = Drawn(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, side in zip(table.rows[0], table.sides, strict=True):
        drawn.add_column(head, justify="left" if side == "<" else "right")
    for row in table.rows[1:]:
        drawn.add_row(*map(_marked, row))
    return drawn


def _marked(text: str) -> Any:
    """Text in which what missed a target stands out."""
    from rich.text import Text

    marked = Text(text)
    marked.highlight_words(["MISS", "missing:"], style="bold red")
    return marked
