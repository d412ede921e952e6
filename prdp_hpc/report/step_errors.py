"""The table of prediction errors by time step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ROWS = 20
"""Most rows of a printed table; of more steps, evenly spaced ones are shown."""


def by_step(errors: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """The errors `error_<step>` as `{"error": {step: value}}`, and `error_<step>_<channel>` by
    channel; other names are left out.
    """
    found: dict[str, dict[int, float]] = {}
    for name, value in errors.items():
        step, _, channel = name.removeprefix("error_").partition("_")
        if step.isdigit():
            found.setdefault(channel or "error", {})[int(step)] = value
    return found


def step_table(result: Mapping[str, Any]) -> str:
    """The errors of `prdp_hpc.predict` as text: one row per step, for several runs with their own
    errors and their spread.
    """
    errors: Mapping[str, float] = result["errors"]
    columns = by_step(errors)
    if not columns:
        lines = [f"  {name}  {value:.4e}" for name, value in errors.items()]
        return "\n".join(lines) or "  the data have no true states, so there are no errors"
    headings = {name: columns[name] for name in columns}
    if "member_errors" in result:
        headings = {f"{name} of the mean": values for name, values in columns.items()}
        own = [by_step(member)["error"] for member in result["member_errors"]]
        steps = own[0]
        headings["of one run"] = {step: _mean([one[step] for one in own]) for step in steps}
        headings["spread"] = by_step(result["spread"])["error"]
    return _table(headings)


def _table(columns: Mapping[str, Mapping[int, float]]) -> str:
    steps = list(next(iter(columns.values())))
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(ROWS, len(steps))).round().astype(int))
    widths = {name: max(len(name), 10) for name in columns}
    lines = ["step  " + "  ".join(f"{name:>{width}}" for name, width in widths.items())]
    lines.append("-" * len(lines[0]))
    for step in (steps[index] for index in chosen):
        cells = (f"{columns[name][step]:>{width}.4e}" for name, width in widths.items())
        lines.append(f"{step:>4}  " + "  ".join(cells))
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
