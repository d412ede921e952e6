"""Tables show the numbers of the files in aligned columns, and mark every miss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prdp_hpc.metric_names import PROBES
from prdp_hpc.report import comparison_table, load_run, paper_markdown, paper_table, run_table


def statistics(*values: float | None, spread: float | None = None) -> dict[str, Any]:
    return {
        "values": list(values),
        "mean": values[0] if len(values) == 1 else None,
        "spread": spread,
    }


def variant(error: float | None, iterations: float, **more: float) -> dict[str, Any]:
    numbers = {
        "error": error,
        "error_1": error,
        "error_2": error,
        "level": 24,
        "forward_iterations": iterations,
    }
    numbers |= {
        "adjoint_iterations": iterations,
        "solver_seconds": 10.0,
        "network_seconds": 5.0,
        "total_seconds": 15.0,
    } | more
    return {key: statistics(number) for key, number in numbers.items()}


def comparison(ours: float | None = 0.03, **more: Any) -> dict[str, Any]:
    equal = ours is not None and ours <= 0.033
    saved = {
        key: statistics(0.75) for key in ("inner_iterations", "solver_seconds", "total_seconds")
    }
    return {
        "name": "heat",
        "task": "emulator",
        "epochs": 70,
        "seeds": [1],
        "variants": {"prdp": variant(ours, 250), "full": variant(0.03, 123_456_789)},
        "equal_accuracy": equal,
        "savings": {"full": saved},
        "progressive_refinement": statistics(0.5),
        "incomplete_convergence": statistics(0.5),
        "targets": [],
        **more,
    }


def row(table: str, label: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(label))


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (0.031, "ratio 1.03, equal within 10 %"),
        (0.06, "ratio 2, MISS: more than 10 % above"),
        (0.015, "ratio 0.5, better than full refinement"),
        (None, "MISS: no finite error to compare"),
    ],
)
def test_a_comparison_shows_its_verdict(ours: float | None, verdict: str) -> None:
    table = comparison_table(comparison(ours))
    assert row(table, "error against").endswith(verdict)
    assert row(table, "full refinement").split()[2:6] == [
        "3.000e-02",
        "24",
        "123,456,789",
        "123,456,789",
    ]
    assert "error after 2 steps" in table
    assert "PR) 50.0 %" in table


def test_a_spread_and_each_seed_are_shown() -> None:
    content = comparison(
        seeds=[1, 2], error_ratio_by_seed=[1.0, 1.2], equal_accuracy_by_seed=[True, False]
    )
    content["variants"]["prdp"]["error"] = {"values": [0.03, 0.04], "mean": 0.035, "spread": 0.007}
    table = comparison_table(content)
    assert "3.500e-02 ± 7.0e-03" in table
    assert row(table, "  by seed").endswith("1, 1.2 MISS")
    assert "seeds 1, 2" in table


def test_the_coordinators_error_has_a_column_if_it_differs_from_the_last_steps() -> None:
    content = comparison()
    for found in content["variants"].values():
        found["error_5"], found["error_5_velocity_x"] = statistics(0.4), statistics(0.3)
    head = comparison_table(content).splitlines()[2]
    assert head.split("  ")[0] == ""
    assert "error  error after 5 steps" in head
    assert "(5 velocity x)" in comparison_table(content)


@pytest.mark.parametrize(
    ("saved", "equal", "verdict"),
    [
        (0.82, True, "reached 82.0 %: met"),
        (0.72, True, "reached 72.0 %: MISS"),
        (0.82, False, "reached 82.0 %: MISS, because accuracy is not equal"),
        (None, True, "reached -: MISS"),
    ],
)
def test_targets_are_shown_with_both_figures(
    saved: float | None, equal: bool, verdict: str
) -> None:
    met = saved is not None and saved >= 0.8 and equal
    target = {
        "against": "full",
        "measure": "solver_seconds",
        "target": 0.8,
        "saved": saved,
        "met": met,
    }
    found = comparison(0.03 if equal else 0.06, targets=[target])
    line = row(comparison_table(found), "target: solver time")
    assert "at least 80 %" in line
    assert line.endswith(verdict)


def test_columns_line_up() -> None:
    lines = comparison_table(comparison()).splitlines()[2:6]
    end = lines[0].index("adjoint it.") + len("adjoint it.")
    assert all(
        line[end - 1] != " " and line[end : end + 2].strip() == ""
        for line in lines
        if not line.startswith("-")
    )
    assert max(map(len, lines)) <= 150


def test_an_inverse_problem_shows_its_parameters_error() -> None:
    table = comparison_table(comparison(measure="parameter error"))
    assert "parameter error" in table
    assert "after 2 steps  level" not in table


def test_the_papers_table_shows_misses_failures_and_its_size() -> None:
    target = {
        "against": "full",
        "measure": "inner_iterations",
        "target": 0.8,
        "saved": 0.75,
        "met": False,
    }
    good = comparison(targets=[target]) | {"experiment": "heat_1d"}
    bad = comparison(0.06) | {"experiment": "heat_2d"}
    bad["variants"]["plain"] = variant(0.06, 10)
    bad["savings"]["plain"] = bad["savings"]["full"]
    results = [good, bad, {"experiment": "heat_3d", "failed": "no such file"}]
    table = paper_table(results, quick=True)
    assert table.startswith("QUICK")
    assert row(table, "heat_1d").endswith("  it. 80 %: MISS")
    assert row(table, "heat_2d (validation)").split()[4:6] == ["2", "MISS"]
    assert row(table, "  against plain").split()[3:5] == ["1", "yes"]
    assert row(table, "heat_3d") == "heat_3d: FAILED: no such file"
    assert max(map(len, table.splitlines())) <= 150
    page = paper_markdown(results, True, "prdp-hpc paper --quick", "2 cores")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 5
    assert all(
        part in page for part in ("QUICK", "`prdp-hpc paper --quick`", "MISS", "- heat_3d: FAILED")
    )
    assert "QUICK" not in paper_table(results, quick=False)


def test_runs_are_shown_finished_or_not(write_run: Callable[..., Path]) -> None:
    table = run_table(
        [
            load_run(write_run("done", epochs=7)),
            load_run(write_run("now", finished=False, epochs=3)),
        ]
    ).splitlines()
    assert table[2].split()[:3] == ["done", "7", "4"]
    assert table[2].endswith("50.0 %")
    assert table[3].split()[:4] == ["now", "3", "(running)", "2"]
    assert table[3].endswith("-")


def with_test_group(**more: Any) -> dict[str, Any]:
    """A comparison of two schedules on a test group."""
    content = comparison(error_group="test", error_intervals={"full": [0.9, 1.25]}, **more)
    content["variants"]["gradient"] = variant(0.02, 100, **dict.fromkeys(PROBES, 20))
    for name, error in (("prdp", 0.033), ("full", 0.03), ("gradient", 0.06)):
        content["variants"][name]["test_error"] = statistics(error)
    keys = ("savings", "progressive_refinement", "incomplete_convergence", "targets")
    outcome = {key: content[key] for key in keys}
    content["schedules"] = {"gradient": {**outcome, "equal_accuracy": False}}
    return content


def test_the_ratio_is_of_the_test_group_with_its_interval() -> None:
    table = comparison_table(with_test_group())
    verdict, second = (line for line in table.splitlines() if line.startswith("test error against"))
    assert verdict.endswith("ratio 1.1, equal within 10 %; 95 % interval 0.9–1.25")
    assert second.endswith("ratio 2, MISS: more than 10 % above")
    assert "saved by gradient test against" in table
    assert "its probes, included in these numbers: 40 inner iterations (20 %)" in table
    assert "test error" in table.splitlines()[2]


def test_the_papers_table_has_a_row_for_each_schedule() -> None:
    table = paper_table([with_test_group() | {"experiment": "heat_1d"}], quick=True)
    assert "heat_1d (validation)" not in table
    first = row(table, "heat_1d").split()
    assert first[:6] == ["heat_1d", "3.300e-02", "3.000e-02", "1.1", "(0.9–1.25)", "yes"]
    assert row(table, "  gradient test").split()[2:6] == ["6.000e-02", "3.000e-02", "2", "MISS"]
