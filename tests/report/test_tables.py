"""Savings and verdicts follow from the numbers, and tables line up."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.files import to_json
from prdp_hpc.report import compare_summaries, comparison_table, load_run, run_table, savings

POSITIVE = st.floats(1e-9, 1e9)


def summary(error: float | None = 0.03, iterations: int = 1000, seconds: float = 10.0, **more: Any) -> dict[str, Any]:
    return {
        "name": "heat",
        "task": "emulator",
        "epochs": 70,
        "error": error,
        "error_1": error,
        "level": 24,
        "forward_iterations": iterations,
        "adjoint_iterations": iterations,
        "inner_iterations": 2 * iterations,
        "solver_seconds": seconds,
        "network_seconds": 5.0,
        "total_seconds": seconds + 5.0,
        **more,
    }


@given(POSITIVE, POSITIVE)
def test_what_is_saved_and_what_is_spent_make_the_whole(ours: float, theirs: float) -> None:
    saved = savings(summary(seconds=ours), summary(seconds=theirs))["solver_seconds"]
    assert saved is not None
    assert (1 - saved) * theirs == pytest.approx(ours, rel=1e-12, abs=1e-12 * theirs)


def test_nothing_is_saved_where_full_refinement_cost_nothing() -> None:
    assert savings(summary(iterations=5), summary(iterations=0))["inner_iterations"] is None


@given(POSITIVE, st.floats(0.01, 100))
def test_equal_accuracy_is_at_most_a_tenth_more(full: float, ratio: float) -> None:
    found = compare_summaries("heat", summary(full * ratio), summary(full))
    assert found["error_ratio"] == pytest.approx(ratio)
    if not math.isclose(ratio, 1.1, rel_tol=1e-9):
        assert found["equal_accuracy"] == (ratio < 1.1)


@pytest.mark.parametrize(
    ("prdp", "full", "ratio", "equal"),
    [
        (None, 0.1, None, False),
        (0.1, None, None, False),
        (math.nan, 0.1, None, False),
        (0.0, 0.0, None, True),
        (0.1, 0.0, None, False),
        (0.0, 0.1, 0.0, True),
    ],
)
def test_errors_without_a_ratio(prdp: float | None, full: float | None, ratio: float | None, equal: bool) -> None:
    found = compare_summaries("heat", summary(prdp), summary(full))
    assert (found["error_ratio"], found["equal_accuracy"]) == (ratio, equal)
    assert "NaN" not in to_json(found)
    assert ("MISS" in comparison_table(found)) == (not equal)


def row(table: str, label: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(label))


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(0.031, "ratio 1.03, equal within 10 %"), (0.06, "ratio 2, MISS: more than 10 %"), (0.015, "ratio 0.5, better than full")],
)
def test_a_comparison_shows_errors_levels_and_costs(ours: float, verdict: str) -> None:
    table = comparison_table(compare_summaries("heat", summary(ours, 250), summary(0.03, 1000, 40.0, level=60)))
    assert verdict in row(table, "validation error after 2 steps")
    assert verdict in row(table, "validation error after 1 step ")
    assert row(table, "final level").split()[-2:] == ["24", "60"]
    for side in ("forward", "adjoint"):
        assert row(table, f"inner iterations, {side}").split()[-4:] == ["250", "1,000", "75.0", "%"]
    assert row(table, "solver time (s)").split()[-4:] == ["10.00", "40.00", "75.0", "%"]
    assert row(table, "network time (s)").split()[-2:] == ["0.0", "%"]
    assert row(table, "total time (s)").split()[-2:] == ["66.7", "%"]


def test_columns_line_up() -> None:
    lines = comparison_table(compare_summaries("heat", summary(), summary(iterations=123456789))).splitlines()[2:]
    end = lines[0].index("full refinement") + len("full refinement")
    assert all(line[end - 1] != " " and line[end : end + 2].strip() == "" for line in lines if not line.startswith("-"))


def test_an_inverse_problem_shows_its_parameters_error() -> None:
    table = comparison_table(compare_summaries("poisson", summary(task="inverse"), summary(task="inverse")))
    assert "relative parameter error" in table
    assert "validation error" not in table


def test_runs_are_shown_finished_or_not(write_run: Callable[..., Path]) -> None:
    table = run_table([load_run(write_run("done", epochs=7)), load_run(write_run("now", finished=False, epochs=3))]).splitlines()
    assert table[2].split()[:3] == ["done", "7", "4"]
    assert table[2].endswith("50.0 %")
    assert table[3].split()[:4] == ["now", "3", "(running)", "2"]
    assert table[3].endswith("-")
