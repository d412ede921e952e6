"""Savings follow from the runs only: the total, its two parts, and whether accuracy is equal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prdp_hpc.files import to_json, write_json
from prdp_hpc.report import (
    ReportError,
    RunRecord,
    compare_runs,
    comparison_table,
    cost_at_final_level,
    is_comparison,
    load_comparison,
    load_run,
)

WriteRun = Callable[..., Path]
POSITIVE = st.floats(1e-9, 1e9)
# Per epoch: inner iterations of a forward and of an adjoint solve.
LEVELS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12)


def run(
    levels: list[tuple[int, int]],
    error: float | None = 0.03,
    seconds: float = 1.0,
    solves: int = 10,
) -> RunRecord:
    """A finished run with `solves` forward and as many adjoint solves per epoch, at the levels of
    each epoch.
    """
    forward, adjoint = (
        np.cumsum([0, *(solves * level[side] for level in levels)]).astype(float) for side in (0, 1)
    )
    columns = {
        "epoch": np.arange(len(levels) + 1),
        "error": np.full(len(levels) + 1, math.nan if error is None else error),
        "level": np.array([levels[0][0], *(level for level, _ in levels)], dtype=float),
        "adjoint_level": np.array([levels[0][1], *(level for _, level in levels)], dtype=float),
        "forward_iterations": forward,
        "adjoint_iterations": adjoint,
        "solves": np.arange(len(levels) + 1) * 2.0 * solves,
    }
    summary: dict[str, Any] = {
        "name": "heat",
        "task": "emulator",
        "epochs": len(levels),
        "error": error,
        "error_1": error,
        "level": levels[-1][0],
        "forward_iterations": forward[-1],
        "adjoint_iterations": adjoint[-1],
        "inner_iterations": forward[-1] + adjoint[-1],
        "solver_seconds": seconds,
        "network_seconds": 5.0,
        "total_seconds": seconds + 5.0,
    }
    return RunRecord(Path("run"), "heat", summary, columns)


def compared(prdp: list[RunRecord], full: list[RunRecord], **targets: float) -> dict[str, Any]:
    return compare_runs(
        "heat",
        range(1, len(prdp) + 1),
        {"prdp": prdp, "full": full},
        {"full": targets} if targets else {},
    )


def test_the_two_savings_of_a_synthetic_history() -> None:
    """4 epochs at 1, 2, 4, 4 in both directions against 10: at its final level PRDP would need 16,
    full refinement 40.
    """
    found = compared([run([(1, 1), (2, 2), (4, 4), (4, 4)])], [run([(10, 10)] * 4)])
    assert found["progressive_refinement"]["mean"] == pytest.approx(1 - 11 / 16)
    assert found["incomplete_convergence"]["mean"] == pytest.approx(1 - 16 / 40)
    assert found["savings"]["full"]["inner_iterations"]["mean"] == pytest.approx(1 - 11 / 40)


@given(st.lists(st.tuples(LEVELS, st.integers(1, 60)), min_size=1, max_size=3))
def test_the_two_savings_make_the_whole(histories: list[tuple[list[tuple[int, int]], int]]) -> None:
    prdp = [run(levels) for levels, _ in histories]
    full = [run([(top, top)] * len(levels)) for levels, top in histories]
    found = compared(prdp, full)
    parts = (
        found["progressive_refinement"],
        found["incomplete_convergence"],
        found["savings"]["full"]["inner_iterations"],
    )
    by_seed = zip(*(part["values"] for part in parts), strict=True)
    for progressive, incomplete, whole in ([part["mean"] for part in parts], *by_seed):
        assert (1 - progressive) * (1 - incomplete) == pytest.approx(1 - whole, rel=1e-9)


@given(LEVELS, st.integers(1, 50))
def test_the_cost_at_the_final_level_is_that_of_the_constant_run(
    levels: list[tuple[int, int]], solves: int
) -> None:
    constant = run([levels[-1]] * len(levels), solves=solves)
    assert cost_at_final_level(run(levels, solves=solves)) == pytest.approx(
        constant.inner_iterations[-1]
    )


def test_a_run_without_solves_has_no_cost() -> None:
    untrained = run([(3, 3)], solves=0)
    assert cost_at_final_level(untrained) is None
    found = compared([untrained], [untrained])
    assert found["progressive_refinement"]["mean"] is None
    assert found["savings"]["full"]["inner_iterations"]["mean"] is None
    comparison_table(found)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=4))
def test_savings_and_cost_add_up(seconds: list[tuple[float, float]]) -> None:
    ours, theirs = ([run([(1, 1)], seconds=pair[side]) for pair in seconds] for side in (0, 1))
    saved = compared(ours, theirs)["savings"]["full"]["solver_seconds"]
    for share, (a, b) in zip(saved["values"], seconds, strict=True):
        assert (1 - share) * b == pytest.approx(a, rel=1e-9, abs=1e-12 * b)
    total = sum(b for _, b in seconds)
    assert (1 - saved["mean"]) * total == pytest.approx(
        sum(a for a, _ in seconds), rel=1e-6, abs=1e-12 * total
    )
    assert (saved["spread"] is None) == (len(seconds) == 1)


@given(POSITIVE, st.lists(st.floats(0.01, 100), min_size=1, max_size=4))
def test_equal_accuracy_is_at_most_a_tenth_more_in_the_mean(
    full: float, ratios: list[float]
) -> None:
    found = compared(
        [run([(1, 1)], full * ratio) for ratio in ratios], [run([(1, 1)], full) for _ in ratios]
    )
    mean = sum(ratios) / len(ratios)
    assert found["error_ratio"] == pytest.approx(mean)
    assume(all(not math.isclose(ratio, 1.1, rel_tol=1e-6) for ratio in (mean, *ratios)))
    assert found["equal_accuracy"] == (mean < 1.1)
    assert found["equal_accuracy_by_seed"] == [ratio < 1.1 for ratio in ratios]


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
def test_errors_without_a_ratio(
    prdp: float | None, full: float | None, ratio: float | None, equal: bool
) -> None:
    found = compared([run([(1, 1)], prdp)], [run([(1, 1)], full)])
    assert (found["error_ratio"], found["equal_accuracy"]) == (ratio, equal)
    assert "NaN" not in to_json(found)
    assert ("MISS" in comparison_table(found)) == (not equal)


def test_one_seed_that_diverged_is_a_miss() -> None:
    found = compared([run([(1, 1)], 0.1), run([(1, 1)], math.inf)], [run([(1, 1)], 0.1)] * 2)
    assert found["variants"]["prdp"]["error"]["mean"] is None
    assert not found["equal_accuracy"]


@pytest.mark.parametrize(("error", "met"), [(0.03, True), (0.06, False)])
def test_a_target_is_met_only_at_equal_accuracy(error: float, met: bool) -> None:
    found = compared(
        [run([(1, 1)], error)], [run([(4, 4)], 0.03)], inner_iterations=0.75, solver_seconds=0.1
    )
    assert [target["met"] for target in found["targets"]] == [met, False]
    assert found["targets"][0]["saved"] == pytest.approx(0.75)


def test_an_unfinished_run_is_not_compared(write_run: WriteRun) -> None:
    runs = [load_run(write_run("prdp", finished=False))]
    with pytest.raises(ReportError, match="has not finished"):
        compare_runs("heat", [1], {"prdp": runs, "full": runs})


def test_a_comparison_of_one_seed_and_of_several_is_read(write_run: WriteRun) -> None:
    for folder, seeds in (
        ("one-compare", [""]),
        ("three-compare", ["seed_1/", "seed_2/", "seed_10/"]),
    ):
        for seed in seeds:
            for variant in ("prdp", "full", "plain", "constant_10", "constant_3"):
                path = write_run(f"{folder}/{seed}{variant}", epochs=5)
        root = path.parents[1 if seeds != [""] else 0]
        assert is_comparison(root)
        record = load_comparison(root)
        assert (record.name, record.content) == (folder.removesuffix("-compare"), None)
        assert list(record.variants) == ["prdp", "full", "constant_3", "constant_10", "plain"]
        assert [len(runs) for runs in record.variants.values()] == [len(seeds)] * 5
        content = compare_runs("heat", [1, 2, 10][: len(seeds)], record.variants)
        write_json(root / "comparison.json", content)
        assert load_comparison(root).content == json.loads(to_json(content))
        del content["savings"]
        write_json(root / "comparison.json", content)
        with pytest.raises(ReportError, match=r"comparison\.json: savings missing"):
            load_comparison(root)


def test_folders_without_a_comparison(write_run: WriteRun, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        load_comparison(tmp_path / "nowhere")
    write_run("half/prdp")
    with pytest.raises(ReportError, match="contains no run named full"):
        load_comparison(tmp_path / "half")
    assert not is_comparison(tmp_path)
