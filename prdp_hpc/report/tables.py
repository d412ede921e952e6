"""Plain-text tables of runs and comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prdp_hpc.console import Report, Table
from prdp_hpc.metric_names import ITERATIONS, SAVED, SHOWN_SECONDS
from prdp_hpc.report.runs import RunRecord
from prdp_hpc.report.statistics import EQUAL_WITHIN, equal_errors, ratio

LABELS = {"prdp": "PRDP", "full": "full refinement", "gradient": "gradient test"}
MEASURES = dict(zip(SAVED, ("inner iterations", "solver time", "total time"), strict=True))


def comparison_table(comparison: Mapping[str, Any]) -> Report:
    """The content of `comparison.json` as text.

    The table has one row per variant, with mean and standard deviation over the seeds. The savings
    of PRDP and each further schedule against each full refinement follow, with the two parts of the
    paper and the verdicts on accuracy and targets. Missed targets and errors are marked MISS.
    """
    parts = [_title(comparison), _variants_table(comparison)]
    for schedule, found in outcomes(comparison).items():
        parts += [
            Report(_savings_table(schedule, found), between="\n"),
            _verdicts(comparison, schedule, found),
        ]
        parts += _probes(comparison["variants"][schedule])
    return Report(parts)


def outcomes(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The outcomes of each schedule, PRDP first."""
    return {"prdp": comparison, **comparison.get("schedules", {})}


def _probes(found: Mapping[str, Any]) -> list[str]:
    """The cost of a schedule's gradient measurements, if it has any."""
    if "probe_seconds" not in found:
        return []
    iterations = sum(found[f"probe_{key}"]["mean"] for key in ITERATIONS)
    share = iterations / sum(found[key]["mean"] for key in ITERATIONS)
    return [
        f"its probes, included in these numbers: {_count(iterations)} inner iterations ("
        f"{share * 100:.0f} %), {_seconds(found['probe_seconds']['mean'])} s"
    ]


def label(variant: str) -> str:
    """The displayed name of a variant."""
    return LABELS.get(variant, variant.replace("_", " "))


def percent(statistics: Mapping[str, Any]) -> str:
    """A share in per cent, with its standard deviation."""
    mean, spread = statistics["mean"], statistics["spread"]
    if mean is None:
        return "-"
    return f"{mean * 100:.1f} %" if spread is None else f"{mean * 100:.1f} ± {spread * 100:.1f} %"


def error_text(statistics: Mapping[str, Any]) -> str:
    """An error, with its standard deviation."""
    return _with_spread(statistics, _error, lambda spread: f"{spread:.1e}")


def target_text(target: Mapping[str, Any], equal: bool) -> str:
    """The reached share of a target, and whether it is met."""
    reached = "-" if target["saved"] is None else f"{target['saved'] * 100:.1f} %"
    if target["met"]:
        return f"reached {reached}: met"
    high_enough = target["saved"] is not None and target["saved"] >= target["target"]
    return f"reached {reached}: MISS" + (
        ", because accuracy is not equal" if high_enough and not equal else ""
    )


def _title(comparison: Mapping[str, Any]) -> str:
    seeds = comparison["seeds"]
    over = (
        f"seed {seeds[0]}"
        if len(seeds) == 1
        else f"mean ± spread over seeds {', '.join(map(str, seeds))}"
    )
    return f"{comparison['name']}: {comparison['epochs']:g} epochs, {over}"


def _variants_table(comparison: Mapping[str, Any]) -> Table:
    variants = comparison["variants"]
    errors = error_columns(comparison)
    head = [
        "",
        *errors.values(),
        "level",
        "forward it.",
        "adjoint it.",
        "solver (s)",
        "network (s)",
        "total (s)",
    ]
    rows = [head]
    for variant, found in variants.items():
        cells = [error_text(found[key]) for key in errors]
        cells.append(
            _with_spread(
                found["level"], lambda level: f"{level:.4g}", lambda spread: f"{spread:.2g}"
            )
        )
        cells += [_with_spread(found[key], _count, _count) for key in ITERATIONS]
        cells += [_with_spread(found[key], _seconds, _seconds) for key in SHOWN_SECONDS]
        rows.append([label(variant), *cells])
    return Table(rows, "<" + ">" * (len(head) - 1))


def error_columns(comparison: Mapping[str, Any]) -> dict[str, str]:
    """The errors that have a column, with their headings: that of the schedule, and that of the
    last step if it differs.
    """
    own = own_error(comparison)
    if own is not None:
        return {"error": own}
    found = comparison["variants"]["prdp"]
    test = {"test_error": "test error"} if comparison.get("error_group") == "test" else {}
    last = _steps(found)[-1:]
    columns = {
        f"error_{step}": f"error after {step} step{'s' if step > 1 else ''}" for step in last
    }
    same = bool(last) and found["error"]["values"] == found[f"error_{last[0]}"]["values"]
    return (columns if same else {"error": "error"} | columns) | test


def _steps(found: Mapping[str, Any]) -> list[int]:
    return sorted(
        int(key.removeprefix("error_")) for key in found if key.removeprefix("error_").isdigit()
    )


def _savings_table(schedule: str, found: Mapping[str, Any]) -> list[str]:
    rows = [[f"saved by {label(schedule)} against", *MEASURES.values()]]
    for other, saved in found["savings"].items():
        rows.append([label(other), *(percent(saved[key]) for key in SAVED)])
    progressive, incomplete = (
        percent(found[key]) for key in ("progressive_refinement", "incomplete_convergence")
    )
    parts = (
        f"of the inner iterations: progressive refinement (PR) {progressive}, incomplete "
        f"convergence (IC) {incomplete}"
    )
    return [Table(rows, "<>>>"), parts]


def error_key(comparison: Mapping[str, Any]) -> str:
    """The key of the errors that are compared."""
    return "test_error" if comparison.get("error_group") == "test" else "error"


def interval_text(found: Mapping[str, Any], other: str) -> str:
    """The interval of the ratio of errors, e.g. 0.95–1.1; empty if there is none."""
    interval = found.get("error_intervals", {}).get(other)
    return "" if interval is None else f"{interval[0]:.3g}–{interval[1]:.3g}"


def _verdicts(comparison: Mapping[str, Any], schedule: str, found: Mapping[str, Any]) -> str:
    ours, full = (comparison["variants"][variant] for variant in (schedule, "full"))
    key, interval = error_key(comparison), interval_text(found, "full")
    lines = [
        f"{_compared(comparison)} against full refinement's: "
        f"{_accuracy(ours[key]['mean'], full[key]['mean'])}"
        + (f"; 95 % interval {interval}" if interval else "")
    ]
    if len(comparison["seeds"]) > 1:
        pairs = zip(found["error_ratio_by_seed"], found["equal_accuracy_by_seed"], strict=True)
        seeds = (f"{_number(one)}{'' if same else ' MISS'}" for one, same in pairs)
        lines.append(f"  by seed: {', '.join(seeds)}")
    steps = [
        f"{_ratio_text(ours[key]['mean'], full[key]['mean'])} ({_words(key)})"
        for key in ours
        if key.startswith("error_")
    ]
    if len(steps) > 1:
        lines.append(f"  after steps: {', '.join(steps)}")
    for target in found["targets"]:
        what = (
            f"{MEASURES[target['measure']]} saved against {label(target['against'])}, at least "
            f"{target['target'] * 100:g} %"
        )
        lines.append(f"target: {what}: {target_text(target, found['equal_accuracy'])}")
    return "\n".join(lines)


def _compared(comparison: Mapping[str, Any]) -> str:
    own = own_error(comparison)
    if own is not None or "error_group" not in comparison:
        return own or "error"
    return f"{comparison['error_group']} error"


def own_error(comparison: Mapping[str, Any]) -> str | None:
    """The name of an error that is not one of samples; None for errors of samples."""
    name = comparison.get("measure", "error")
    return None if name == "error" else str(name)


def _words(key: str) -> str:
    return key.removeprefix("error_").replace("_", " ")


def _accuracy(ours: float | None, theirs: float | None) -> str:
    if ours is None or theirs is None:
        return "MISS: no finite error to compare"
    shown = f"ratio {_number(ratio(ours, theirs))}"
    if not equal_errors(ours, theirs):
        return f"{shown}, MISS: more than {EQUAL_WITHIN * 100:.0f} % above"
    if ours < theirs * (1 - EQUAL_WITHIN):
        return f"{shown}, better than full refinement"
    return f"{shown}, equal within {EQUAL_WITHIN * 100:.0f} %"


def _ratio_text(ours: float | None, theirs: float | None) -> str:
    return _number(ratio(ours, theirs)) + ("" if equal_errors(ours, theirs) else " MISS")


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _with_spread(
    statistics: Mapping[str, Any], text: Callable[[float], str], spread_text: Callable[[float], str]
) -> str:
    mean, spread = statistics["mean"], statistics["spread"]
    if mean is None:
        return "-"
    return text(mean) if spread is None else f"{text(mean)} ± {spread_text(spread)}"


def run_table(records: Sequence[RunRecord]) -> Table:
    """A table as text with one row per run: epochs, final level, error, inner iterations, times,
    and the fraction of inner iterations saved against every epoch at the full level. A run without
    a summary is marked `running`.
    """
    head = [
        "run",
        "epochs",
        "level",
        "error",
        "forward it.",
        "adjoint it.",
        "solver (s)",
        "network (s)",
        "total (s)",
        "saved",
    ]
    return Table([head, *(_run_row(record) for record in records)], "<>>>>>>>>>")


def _run_row(record: RunRecord) -> list[str]:
    state: Mapping[str, Any]
    if record.summary is None:
        state = {key: column[-1] for key, column in record.metrics.items()}
        epochs, saved = f"{state['epoch']:g} (running)", None
    else:
        state = record.summary
        epochs = f"{state['epochs']:g}"
        saved = (state.get("savings") or {}).get("inner_iterations")
    return [
        record.name,
        epochs,
        _level(state["level"]),
        _error(state["error"]),
        *(_count(state[key]) for key in ITERATIONS),
        *(_seconds(state[key]) for key in SHOWN_SECONDS),
        _percent(saved),
    ]


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
