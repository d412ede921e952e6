"""The table of all experiments of the paper, as text and as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prdp_hpc.console import Report, Table
from prdp_hpc.metric_names import SAVED
from prdp_hpc.report.statistics import equal_errors, ratio
from prdp_hpc.report.tables import (
    error_key,
    error_text,
    interval_text,
    label,
    outcomes,
)

Result = Mapping[str, Any]
"""The content of `<experiment>.json`: that of `comparison.json` and `experiment`; or `experiment`
and `failed`, a message.
"""

HEAD = (
    "experiment",
    "error",
    "error full",
    "ratio",
    "equal",
    "PR",
    "IC",
    "inner it.",
    "solver",
    "total",
    "targets",
)
_SHORT = dict(zip(SAVED, ("it.", "solver", "total"), strict=True))


def paper_table(results: Sequence[Result], quick: bool) -> Report:
    """One row an experiment, and one for each further baseline and schedule; failures below.
    Savings are those of the means.
    """
    table = Table([HEAD, *_rows(results)], "<" + ">" * 9 + "<")
    head = "\n".join([size_text(quick), *_NOTE, ""])
    return Report([head, table, *_failures(results)], between="\n")


def paper_markdown(results: Sequence[Result], quick: bool, command: str, machine: str) -> str:
    """The same as a markdown page, with the command that made it."""
    lines = [
        f"# The paper's experiments: {size_text(quick)}",
        "",
        f"Made by `{command}` on {machine}.",
        *_NOTE,
        "",
    ]
    table = [HEAD, ("---", *["---:"] * 9, "---"), *_rows(results)]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    lines += ["", *(f"- {failure}" for failure in _failures(results))]
    return "\n".join(lines).rstrip() + "\n"


def size_text(quick: bool) -> str:
    """How large the experiments were."""
    return "QUICK size: smaller than the paper's, to show the effect" if quick else "full size"


_NOTE = (
    "Error: mean ± spread over the seeds, of PRDP or the schedule that is named, on the test",
    "group, which nothing else saw; where marked, on validation samples. Ratio: with its 95 %",
    "bootstrap interval over samples and seeds. Equal: within 10 % of full refinement's. PR, IC,",
    "inner it., solver, total: shares saved, with what a schedule's probes take counted.",
)


def _rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    return [row for result in results if "failed" not in result for row in _experiment_rows(result)]


def _experiment_rows(result: Result) -> list[tuple[str, ...]]:
    return [
        row
        for schedule, found in outcomes(result).items()
        for row in _schedule_rows(result, schedule, found)
    ]


def _schedule_rows(
    result: Result, schedule: str, found: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    parts = [
        _percent(found[key]["mean"]) for key in ("progressive_refinement", "incomplete_convergence")
    ]
    key, rows = error_key(result), []
    tested = result["task"] == "inverse" or result.get("error_group") == "test"
    for other in found["savings"]:
        ours, theirs = (result["variants"][variant][key] for variant in (schedule, other))
        first = other == "full"
        verdict = "yes" if equal_errors(ours["mean"], theirs["mean"]) else "MISS"
        interval = interval_text(found, other)
        name = result["experiment"] + ("" if tested else " (validation)")
        name = name if schedule == "prdp" else f"  {label(schedule)}"
        rows.append(
            (
                name if first else f"  against {label(other)}",
                error_text(ours) if first else "",
                error_text(theirs),
                _ratio(ratio(ours["mean"], theirs["mean"]))
                + (f" ({interval})" if interval else ""),
                verdict,
                *(parts if first else ("", "")),
                *(_percent(found["savings"][other][measure]["mean"]) for measure in _SHORT),
                _targets(found, other),
            )
        )
    return rows


def _targets(result: Result, other: str) -> str:
    """The shares to be saved, each met or missed; what was reached stands in the columns before."""
    targets = [target for target in result["targets"] if target["against"] == other]
    verdicts = (
        f"{_SHORT[one['measure']]} {one['target'] * 100:g} %: {'met' if one['met'] else 'MISS'}"
        for one in targets
    )
    return ", ".join(verdicts)


def _failures(results: Sequence[Result]) -> list[str]:
    return [
        f"{result['experiment']}: FAILED: {result['failed']}"
        for result in results
        if "failed" in result
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f} %"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"
