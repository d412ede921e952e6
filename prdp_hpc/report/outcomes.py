"""Savings of one schedule against full refinement and other baselines, and ratios of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.metric_names import SAVED
from prdp_hpc.report.runs import RunRecord
from prdp_hpc.report.statistics import Statistics, equal_errors, ratio, saved, statistics

RESAMPLES = 2000
COVERAGE = 0.95

Samples = NDArray[np.float64]


def outcome(
    schedule: str,
    table: Mapping[str, Mapping[str, Statistics]],
    variants: Mapping[str, Sequence[RunRecord]],
    baselines: Sequence[str],
    cost_at_final_level: Sequence[float | None],
    targets: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The part of `comparison.json` about one schedule; see `compare_runs`."""
    key = deciding_error(table)
    ours, theirs = table[schedule][key], table["full"][key]
    pairs = list(zip(ours["values"], theirs["values"], strict=True))
    equal = equal_errors(ours["mean"], theirs["mean"])
    savings = {
        other: {name: saved(table[schedule][name], table[other][name]) for name in SAVED}
        for other in baselines
    }
    constant = statistics(cost_at_final_level)
    return {
        "error_ratio": ratio(ours["mean"], theirs["mean"]),
        "error_ratio_by_seed": [ratio(a, b) for a, b in pairs],
        "error_intervals": {
            other: _interval(variants[schedule], variants[other]) for other in baselines
        },
        "equal_accuracy": equal,
        "equal_accuracy_by_seed": [equal_errors(a, b) for a, b in pairs],
        "savings": savings,
        "progressive_refinement": saved(table[schedule]["inner_iterations"], constant),
        "incomplete_convergence": saved(constant, table["full"]["inner_iterations"]),
        "targets": [
            _target(savings, other, name, share, equal)
            for other, shares in targets.items()
            for name, share in shares.items()
        ],
    }


def deciding_error(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of the error for ratios and verdicts: `test_error`, that of the test group, if all
    variants have it, otherwise `error`, that of the last validation.
    """
    return "test_error" if all("test_error" in found for found in table.values()) else "error"


def tested_error(run: RunRecord) -> float | None:
    """The mean error over the samples of the test group; None without one."""
    tested = (run.summary or {}).get("test")
    if not tested or tested["group"] != "test":
        return None
    return float(np.mean(_numbers(tested)))


def ratio_interval(
    ours: Samples, theirs: Samples, resamples: int = RESAMPLES, coverage: float = COVERAGE
) -> tuple[float, float] | None:
    """The bootstrap interval of `mean(ours) / mean(theirs)`, both of shape (seeds, samples).

    Seeds and samples are resampled with replacement and independently. The same seeds and samples
    are drawn for both, since they trained from the same numbers and were evaluated on the same
    states. The interval contains the central share `coverage` of the ratios. With one seed only the
    samples are resampled. None if an error is not finite or all of `theirs` are 0.

    References: Efron, Tibshirani 1993 (An Introduction to the Bootstrap), percentile intervals;
    Owen 2007 (The pigeonhole bootstrap) for two crossed factors.
    """
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all() and (theirs > 0).any()):
        return None
    generator = np.random.default_rng(0)
    seeds, samples = (
        generator.multinomial(count, np.full(count, 1 / count), resamples) for count in ours.shape
    )
    upper, lower = (np.einsum("rs,sn,rn->r", seeds, errors, samples) for errors in (ours, theirs))
    ratios = upper[lower > 0] / lower[lower > 0]
    edge = (1 - coverage) / 2
    low, high = np.quantile(ratios, [edge, 1 - edge])
    return float(low), float(high)


def _interval(ours: Sequence[RunRecord], theirs: Sequence[RunRecord]) -> tuple[float, float] | None:
    """The bootstrap interval of the ratio of errors, on the samples of the final evaluation."""
    tested = [(run.summary or {}).get("test") for run in (*ours, *theirs)]
    if not all(tested):
        return None
    groups = {found["group"] for found in tested if found}
    errors = [_numbers(found) for found in tested if found]
    if len(groups) > 1 or len({len(found) for found in errors}) > 1 or len(errors[0]) < 2:
        return None
    return ratio_interval(np.array(errors[: len(ours)]), np.array(errors[len(ours) :]))


def _numbers(tested: Mapping[str, Any]) -> list[float]:
    return [np.nan if error is None else float(error) for error in tested["samples"]["error"]]


def _target(
    savings: Mapping[str, Any], other: str, key: str, share: float, equal: bool
) -> dict[str, Any]:
    reached = savings[other][key]["mean"]
    return {
        "against": other,
        "measure": key,
        "target": share,
        "saved": reached,
        "met": bool(equal and reached and reached >= share),
    }
