"""Plain-text tables of runs, and what PRDP saved against full refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from prdp_hpc.report.runs import RunRecord

EQUAL_WITHIN = 0.1
"""Two errors count as equal where PRDP's is at most this fraction above full refinement's."""

SAVED_KEYS = ("inner_iterations", "solver_seconds", "total_seconds")

Summary = Mapping[str, Any]


def savings(prdp_summary: Summary, full_summary: Summary) -> dict[str, float | None]:
    """The fraction `1 - prdp / full` saved of `inner_iterations`, `solver_seconds` and `total_seconds`.

    Negative where PRDP cost more; None where full refinement cost nothing.
    """
    return {key: _saved(prdp_summary[key], full_summary[key]) for key in SAVED_KEYS}


def compare_summaries(name: str, prdp: Summary, full: Summary) -> dict[str, Any]:
    """The content of `comparison.json` from the content of the two runs' `summary.json`.

    `error_ratio` is PRDP's final error over full refinement's (None where it has no value), `equal_accuracy` whether
    PRDP's is at most 10 % higher. A run without a finite error is never of equal accuracy.
    """
    ours, theirs = _value(prdp["error"]), _value(full["error"])
    return {
        "name": name,
        "prdp": dict(prdp),
        "full": dict(full),
        "error_ratio": _ratio(ours, theirs),
        "equal_accuracy": _equal(ours, theirs),
        "savings": savings(prdp, full),
    }


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """The content of `comparison.json` as an aligned table: one row a measure; PRDP, full refinement, saved.

    The errors' last column gives their ratio and whether they are equal within 10 %.
    """
    prdp, full = comparison["prdp"], comparison["full"]
    rows = [["", "PRDP", "full refinement", "saved"]]
    for key, label in _error_rows(prdp):
        cells = [_error(prdp.get(key)), _error(full.get(key))]
        rows.append([label, *cells, _verdict(prdp.get(key), full.get(key))])
    rows.append(["final level", _level(prdp["level"]), _level(full["level"]), ""])
    for key, label, text in (
        ("forward_iterations", "inner iterations, forward", _count),
        ("adjoint_iterations", "inner iterations, adjoint", _count),
        ("solver_seconds", "solver time (s)", _seconds),
        ("network_seconds", "network time (s)", _seconds),
        ("total_seconds", "total time (s)", _seconds),
    ):
        rows.append([label, text(prdp[key]), text(full[key]), _percent(_saved(prdp[key], full[key]))])
    return f"{comparison['name']}\n\n{_align(rows, '<>><')}"


def run_table(records: Sequence[RunRecord]) -> str:
    """One row a run: epochs, final level, error, inner iterations, times, and the fraction of inner iterations saved
    against running every epoch at the full level. A run without a summary is shown as it stands, marked `running`."""
    head = ["run", "epochs", "level", "error", "forward it.", "adjoint it.", "solver (s)", "network (s)", "total (s)", "saved"]
    return _align([head, *(_run_row(record) for record in records)], "<>>>>>>>>>")


def _run_row(record: RunRecord) -> list[str]:
    state: Mapping[str, Any]
    if record.summary is None:
        state = {key: column[-1] for key, column in record.metrics.items()}
        epochs, saved = f"{int(state['epoch'])} (running)", None
    else:
        state = record.summary
        epochs, saved = str(state["epochs"]), (state.get("savings") or {}).get("inner_iterations")
    return [
        record.name,
        epochs,
        _level(state["level"]),
        _error(state["error"]),
        _count(state["forward_iterations"]),
        _count(state["adjoint_iterations"]),
        _seconds(state["solver_seconds"]),
        _seconds(state["network_seconds"]),
        _seconds(state["total_seconds"]),
        _percent(saved),
    ]


def _error_rows(summary: Summary) -> list[tuple[str, str]]:
    if summary["task"] == "inverse":
        return [("error", "relative parameter error")]
    return [("error", "validation error after 2 steps"), ("error_1", "validation error after 1 step")]


def _value(error: float | None) -> float:
    return math.nan if error is None else float(error)


def _ratio(ours: float, theirs: float) -> float | None:
    ratio = ours / theirs if theirs else math.nan
    return ratio if math.isfinite(ratio) else None


def _equal(ours: float, theirs: float) -> bool:
    return math.isfinite(theirs) and ours <= theirs * (1 + EQUAL_WITHIN)


def _verdict(prdp_error: float | None, full_error: float | None) -> str:
    ours, theirs = _value(prdp_error), _value(full_error)
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return "MISS: no finite error to compare"
    ratio = _ratio(ours, theirs)
    shown = "" if ratio is None else f"ratio {ratio:.3g}, "
    if not _equal(ours, theirs):
        return f"{shown}MISS: more than {EQUAL_WITHIN * 100:.0f} % above full refinement"
    if ours < theirs * (1 - EQUAL_WITHIN):
        return f"{shown}better than full refinement"
    return f"{shown}equal within {EQUAL_WITHIN * 100:.0f} %"


def _saved(ours: float, theirs: float) -> float | None:
    return 1 - ours / theirs if theirs > 0 else None


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:.1f} %"


def _error(error: float | None) -> str:
    return f"{error:.3e}" if error is not None and math.isfinite(error) else "-"


def _level(level: float) -> str:
    return f"{level:g}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.2f}" if seconds < 100 else f"{seconds:,.0f}"


def _align(rows: Sequence[Sequence[str]], sides: str) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    columns = list(zip(sides, widths, strict=True))
    cells = ([f"{cell:{side}{width}}" for cell, (side, width) in zip(row, columns, strict=True)] for row in rows)
    lines = ["  ".join(line).rstrip() for line in cells]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)
