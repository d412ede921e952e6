"""Reading a run from its folder, whether it has finished or not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.errors import InputError
from prdp_hpc.files import file_errors
from prdp_hpc.metric_names import (
    CUMULATIVE,
    ITERATIONS,
    LINE_NUMBERS,
    PROBES,
    RATES,
    STEP_NUMBERS,
    SUMMARY_NUMBERS,
)

Column = NDArray[Any]
_OWN_NAMES = frozenset(
    ("step", "loss", "parameters", *LINE_NUMBERS, *CUMULATIVE, *PROBES, *RATES, *STEP_NUMBERS)
)
"""Entries of the package, which must be numbers; those of a user's task may be anything."""


class ReportError(InputError):
    """A file of a run is missing or invalid; the message has the file, the line and what to do."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The files of one run.

    `path` is the run folder, `name` the name of the run (that of the folder until there is a
    summary), `summary` the content of `summary.json` or None until the run has finished. `metrics`
    has one array per entry of `metrics.jsonl`, of shape (lines,), or (lines, modes) for
    `parameters`, with NaN for null. Epochs are in increasing order; they are integers unless a
    validation was within an epoch.
    """

    path: Path
    name: str
    summary: dict[str, Any] | None
    metrics: Mapping[str, Column]

    @property
    def inverse(self) -> bool:
        """Whether the run estimates physical parameters, to which its error then refers."""
        return "parameters" in self.metrics

    @property
    def inner_iterations(self) -> Column:
        """Cumulative inner iterations, forward and adjoint; shape (lines,)."""
        forward, adjoint = (self.metrics[key] for key in ITERATIONS)
        total: Column = forward + adjoint
        return total


def load_run(folder: str | Path) -> RunRecord:
    """Read the run in `folder`; raise `ReportError` if it is missing, has no finished epoch, or is
    invalid.
    """
    path = Path(folder)
    with file_errors(path, "cannot be read", "give the folder of a run, as in runs/heat_2d"):
        return _load_run(path)


def _load_run(path: Path) -> RunRecord:
    if not path.is_dir():
        raise ReportError(f"{path}: no such folder; give the folder of a run, e.g. runs/heat_2d")
    lines = read_metrics(path / "metrics.jsonl")
    if not lines:
        raise ReportError(
            f"{path / 'metrics.jsonl'}: contains no finished epoch yet; wait for the first one or "
            "start the run again"
        )
    summary = _load_summary(path / "summary.json")
    name = str(summary["name"]) if summary else path.resolve().name
    return RunRecord(
        path=path, name=name, summary=summary, metrics=_columns(lines, path / "metrics.jsonl")
    )


def read_metrics(file: str | Path) -> list[tuple[int, dict[str, Any]]]:
    """The valid (line number, object) pairs of a `metrics.jsonl`, in increasing order of epochs.

    An incomplete last line, e.g. of a killed run, is skipped. A resumed run writes from the epoch
    after its checkpoint: a line replaces every earlier line of the same and of later epochs. Raises
    `ReportError` for a missing file, an invalid line, or a missing or non-numeric entry.
    """
    path = Path(file)
    try:
        texts = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read ({error.strerror}); is this the folder of a run?"
        ) from error
    numbered = [(number, text) for number, text in enumerate(texts, start=1) if text.strip()]
    kept: list[tuple[int, dict[str, Any]]] = []
    for number, text in numbered:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == numbered[-1][0]:
                break
            raise ReportError(
                f"{path}, line {number}: is not JSON ({error}); remove the line or run again"
            ) from error
        _check_line(line, f"{path}, line {number}")
        while kept and kept[-1][1]["epoch"] >= line["epoch"]:
            kept.pop()
        kept.append((number, line))
    return kept


def _check_line(line: object, where: str) -> None:
    if not isinstance(line, dict):
        raise ReportError(
            f"{where}: must be a JSON object, one per validation, not {type(line).__name__}"
        )
    need(line, (*LINE_NUMBERS, "error"), where)
    for key in LINE_NUMBERS:
        _number(line[key], f"{where}, {key}")
    if not 0 <= line["epoch"] < math.inf:
        raise ReportError(f"{where}, epoch: must be a number from 0 on, not {line['epoch']!r}")


def _columns(lines: list[tuple[int, dict[str, Any]]], path: Path) -> dict[str, Column]:
    keys = dict.fromkeys(key for _, line in lines for key in line)
    columns: dict[str, Column] = {}
    for key in keys:
        cells = [(f"{path}, line {number}, {key}", line.get(key)) for number, line in lines]
        if key not in _OWN_NAMES and not key.startswith("error") and not _are_numbers(cells):
            continue  # a text, list or dict of a user's task
        if key == "parameters":
            columns[key] = _vectors(cells)
        else:
            columns[key] = np.array([_number(cell, where, nullable=True) for where, cell in cells])
    if np.all(columns["epoch"] % 1 == 0):
        columns["epoch"] = columns["epoch"].astype(int)
    return columns


def _are_numbers(cells: list[tuple[str, Any]]) -> bool:
    return all(cell is None or isinstance(cell, int | float) for _, cell in cells)


def _vectors(cells: list[tuple[str, Any]]) -> Column:
    sizes = {len(cell) for _, cell in cells if isinstance(cell, list)}
    for where, cell in cells:
        if not isinstance(cell, list) or len(sizes) > 1:
            raise ReportError(f"{where}: must be a list of numbers of the same length as before")
    return np.array(
        [[_number(item, where, nullable=True) for item in cell] for where, cell in cells]
    )


def _number(value: object, where: str, nullable: bool = False) -> float:
    if value is None and nullable:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f"{where}: must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ReportError(f"{where}: is too large for a number") from error


def need(found: Mapping[str, object], keys: Iterable[str], where: str) -> None:
    """Raise `ReportError` with the missing keys, if there are any."""
    missing = [key for key in keys if key not in found]
    if missing:
        raise ReportError(
            f"{where}: {', '.join(missing)} missing; was it written by another version of prdp-hpc?"
        )


def load_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; raises `ReportError` for anything else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(
            f"{file}: is not readable JSON ({error}); run again to rewrite it"
        ) from error
    if not isinstance(content, dict):
        raise ReportError(f"{file}: must contain a JSON object, not {type(content).__name__}")
    return content


def _load_summary(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    summary = load_object(file)
    _check_summary(summary, str(file))
    return summary


def _check_summary(summary: object, where: str) -> None:
    if not isinstance(summary, dict):
        raise ReportError(f"{where}: must be a JSON object, not {type(summary).__name__}")
    need(summary, ("name", "task", "error", "epochs", *SUMMARY_NUMBERS), where)
    for key in SUMMARY_NUMBERS:
        _number(summary[key], f"{where}, {key}")
    for key in ("error", *(key for key in summary if key.startswith("error_"))):
        _number(summary[key], f"{where}, {key}", nullable=True)
