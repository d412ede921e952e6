"""Intervals of error ratios: they contain the ratio, are narrow if all samples agree, and have the
nominal coverage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prdp_hpc.report import compare_runs, load_run
from prdp_hpc.report.outcomes import ratio_interval

WriteRun = Callable[..., Path]


@settings(max_examples=50, deadline=None)
@given(
    arrays(float, st.tuples(st.integers(1, 4), st.integers(2, 8)), elements=st.floats(0.1, 10)),
    st.floats(0.1, 10),
)
def test_a_constant_factor_has_no_uncertainty(errors: Any, factor: float) -> None:
    """The same seeds and samples are drawn for both."""
    interval = ratio_interval(factor * errors, errors)
    assert interval == pytest.approx((factor, factor))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_seeds_and_samples_does_not_matter_much(number: int) -> None:
    """The interval is an estimate from 2000 resamples and is deterministic."""
    generator = np.random.default_rng(number)
    ours, theirs = generator.uniform(1, 2, (2, 3, 20))
    interval = ratio_interval(ours, theirs)
    assert interval == ratio_interval(ours, theirs)
    assert interval is not None
    assert interval[0] <= ours.mean() / theirs.mean() <= interval[1]
    order = generator.permutation(20)
    assert ratio_interval(ours[:, order], theirs[:, order]) == pytest.approx(interval, abs=0.03)


def test_it_has_the_nominal_coverage() -> None:
    """For samples with log-normal errors and one seed: in about 95 % of 300 cases."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        theirs = generator.lognormal(0, 0.5, (1, 40))
        ours = 1.2 * theirs * generator.lognormal(0, 0.3, (1, 40))
        interval = ratio_interval(ours, theirs, resamples=400)
        assert interval is not None
        covered += interval[0] <= 1.2 * np.exp(0.3**2 / 2) <= interval[1]
    assert 0.88 * 300 <= covered <= 0.99 * 300


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_errors_that_are_not_finite_have_no_interval(wrong: float) -> None:
    errors = np.ones((2, 3))
    broken = errors.copy()
    broken[1, 1] = wrong
    assert ratio_interval(broken, errors) is None
    assert ratio_interval(errors, broken) is None
    assert ratio_interval(errors, 0 * errors) is None


def with_samples(folder: Path, group: str, error: float, errors: list[float]) -> Any:
    """A run whose summary has the errors of its samples and those of the last validation."""
    run = load_run(folder)
    assert run.summary is not None
    run.summary["error"] = error
    run.summary["test"] = {"group": group, "samples": {"error": errors}}
    return run


def test_the_test_group_decides_where_all_runs_have_one(write_run: WriteRun) -> None:
    """Otherwise the errors of the last validation are used."""
    better, worse = [0.1, 0.3], [0.2, 0.2]
    prdp = with_samples(write_run("prdp"), "test", 0.5, worse)
    full = with_samples(write_run("full"), "test", 0.1, better)
    found = compare_runs("heat", [1], {"prdp": [prdp], "full": [full]})
    assert found["error_group"] == "test"
    assert found["error_ratio"] == pytest.approx(1.0)
    assert found["equal_accuracy"]
    low, high = found["error_intervals"]["full"]
    assert (low, high) == pytest.approx((0.2 / 0.3, 2.0))
    full = with_samples(write_run("full_2"), "validation", 0.1, better)
    found = compare_runs("heat", [1], {"prdp": [prdp], "full": [full]})
    assert found["error_group"] == "validation"
    assert found["error_ratio"] == pytest.approx(5.0)
    assert found["error_intervals"]["full"] is None


def test_older_runs_without_test_groups(write_run: WriteRun) -> None:
    runs = {name: [load_run(write_run(name))] for name in ("prdp", "full")}
    found = compare_runs("heat", [1], runs)
    assert found["error_group"] == "validation"
    assert found["error_intervals"] == {"full": None}


def test_a_further_schedule_has_a_separate_outcome(write_run: WriteRun) -> None:
    names = ("prdp", "full", "gradient", "plain")
    runs = {name: [load_run(write_run(name))] for name in names}
    found = compare_runs("heat", [1], runs, {"full": {"inner_iterations": 0.5}}, ["gradient"])
    assert list(found["savings"]) == ["full", "plain"]
    gradient = found["schedules"]["gradient"]
    assert list(gradient["savings"]) == ["full", "plain"]
    assert gradient["targets"][0]["target"] == 0.5
    assert gradient["error_ratio"] == found["error_ratio"]
