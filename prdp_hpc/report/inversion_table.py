"""The table of a comparison of field inversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from prdp_hpc.console import Report, Table
from prdp_hpc.metric_names import ITERATIONS
from prdp_hpc.report.runs import RunRecord
from prdp_hpc.report.statistics import ratio
from prdp_hpc.report.tables import label

CLOSE = 0.05
"""Two fields count as equally accurate if the error of one exceeds the other's by at most this
fraction.
"""


def inversion_table(content: Mapping[str, Any], runs: Mapping[str, Sequence[RunRecord]]) -> Report:
    """The table as text, with one row per variant: errors, level, iterations, set-ups, evaluations,
    seconds, and the share of its total time that PRDP saved. Verdicts on the accuracy follow.

    `content` is that of `comparison.json`; `runs` are the finished runs, one per seed, whose means
    are shown. `misfit` is the validation error in standard deviations of the noise.
    """
    means = {name: _means(some) for name, some in runs.items()}
    known = all("error_field" in row for row in means.values())
    head = ["", *(["field error"] if known else []), "misfit", "level", "forward it."]
    head += ["adjoint it.", "set-ups", "solver (s)", "total (s)", "saved of total"]
    rows = [head, *(_row(name, means, known) for name in means)]
    seeds = content["seeds"]
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    title = f"{content['name']}: {content['epochs']:g} epochs, {over}"
    table = Table(rows, "<" + ">" * (len(head) - 1))
    return Report([title, table, _verdicts(means, known)])


def has_inversion_metrics(runs: Mapping[str, Sequence[RunRecord]]) -> bool:
    """Whether the runs have the metrics of an inversion, which its table shows."""
    summaries = [run.summary or {} for some in runs.values() for run in some]
    return all({"misfit", "set_ups"} <= summary.keys() for summary in summaries)


def _means(runs: Sequence[RunRecord]) -> dict[str, float]:
    summaries = [run.summary or {} for run in runs]
    keys = [key for key, value in summaries[0].items() if _is_number(value)]
    return {key: fmean(summary[key] for summary in summaries) for key in keys}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(name: str, means: Mapping[str, Mapping[str, float]], known: bool) -> list[str]:
    row = means[name]
    saved = 1.0 - means["prdp"]["total_seconds"] / row["total_seconds"]
    return [
        label(name),
        *([f"{row['error_field']:.4f}"] if known else []),
        f"{row['error']:.3f}",
        f"{row['level']:g}",
        *(f"{row[key]:,.0f}" for key in ITERATIONS),
        f"{row['set_ups']:,.0f}",
        f"{row['solver_seconds']:.1f}",
        f"{row['total_seconds']:.1f}",
        "" if name == "prdp" else f"{saved:.1%}",
    ]


def _verdicts(means: Mapping[str, Mapping[str, float]], known: bool) -> str:
    """The verdicts on PRDP against each variant with full refinement."""
    key, what = ("error_field", "field error") if known else ("error", "misfit")
    lines = []
    for name, row in means.items():
        if name == "prdp" or name.startswith("constant_"):
            continue
        found = ratio(means["prdp"][key], row[key])
        close = found is not None and found <= 1 + CLOSE
        shown = "-" if found is None else f"{found:.3f}"
        verdict = f"equal within {CLOSE:.0%}" if close else f"MISS: more than {CLOSE:.0%} above"
        if found is not None and found < 1 - CLOSE:
            verdict = "better"
        saved = {
            words: 1.0 - means["prdp"][column] / row[column]
            for column, words in (
                ("inner_iterations", "of the iterations"),
                ("solver_seconds", "of the solver's time"),
                ("total_seconds", "of the total time"),
            )
        }
        shares = ", ".join(f"{share:.1%} {words}" for words, share in saved.items())
        lines.append(f"PRDP against {label(name)}: {what} {shown} times as high, {verdict};")
        lines.append(f"  saved {shares}")
    return "\n".join(lines)
