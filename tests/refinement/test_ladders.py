"""Correctness: ladders refine from rung to rung, and have the given first and last levels."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.refinement import (
    ExplicitLadder,
    IterationLadder,
    LooserLadder,
    ToleranceLadder,
    check_level,
    looser,
)


def rungs(ladder):
    return [ladder.level(rung) for rung in range(ladder.top + 1)]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 300))
def test_iterations_climb_by_the_step_and_end_at_the_stop(start, step, span):
    ladder = IterationLadder(start, step, start + span)
    levels = rungs(ladder)
    assert (levels[0], levels[-1]) == (start, start + span)
    assert all(b - a == step for a, b in pairwise(levels[:-1]))
    assert all(0 < b - a <= step for a, b in pairwise(levels))
    assert ladder.level(ladder.top + 7) == start + span


@given(st.floats(1e-6, 0.9), st.floats(0.01, 0.95), st.floats(1e-6, 1.0))
def test_tolerances_fall_by_the_factor_and_end_at_the_stop(start, factor, ratio):
    stop = start * ratio
    ladder = ToleranceLadder(start, factor, stop)
    levels = rungs(ladder)
    assert levels[0] == (start if ladder.top else stop)
    assert levels[0] == pytest.approx(start, rel=1e-8)
    assert levels[-1] == ladder.level(ladder.top + 3) == stop
    assert all(b < a for a, b in pairwise(levels))
    assert levels[:-1] == pytest.approx([start * factor**rung for rung in range(ladder.top)])
    assert all(type(level) is float for level in levels)


def test_decades_have_no_additional_rung():
    assert rungs(ToleranceLadder(1e-1, 1e-1, 1e-8)) == pytest.approx(
        [10.0**-k for k in range(1, 9)]
    )


@given(st.lists(st.integers(1, 1000), min_size=1, unique=True).map(sorted))
def test_explicit_levels_are_the_given_ones(levels):
    ladder = ExplicitLadder(levels)
    assert rungs(ladder) == levels
    assert ladder.level(10_000) == levels[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IterationLadder(0, 1, 5), "start must be an integer of at least 1, not 0"),
        (lambda: IterationLadder(1, 0, 5), "step must be an integer"),
        (lambda: IterationLadder(1, 1.5, 5), "step must be an integer"),
        (lambda: IterationLadder(True, 1, 5), "start must be an integer"),
        (lambda: IterationLadder(6, 1, 5), r"stop \(5\) must not be below its start \(6\)"),
        (
            lambda: ToleranceLadder(1.0, 0.1, 0.1),
            "start must be a finite number",
        ),
        (
            lambda: ToleranceLadder(0.1, 1.0, 0.01),
            "factor must be a finite number",
        ),
        (
            lambda: ToleranceLadder(0.1, 0.1, float("nan")),
            "stop must be a finite number",
        ),
        (
            lambda: ToleranceLadder(0.1, 0.1, 0.2),
            r"stop \(0.2\) must not be above its start \(0.1\)",
        ),
        (lambda: ExplicitLadder([]), "at least one level"),
        (lambda: ExplicitLadder([3, 3]), "iterations must increase"),
        (lambda: ExplicitLadder([0.1, 0.2]), "tolerances must decrease"),
        (lambda: ExplicitLadder([1, 0.1]), "not a mixture"),
        (lambda: ExplicitLadder([1, 2.0]), "between 0 and 1, not 2.0"),
        (lambda: IterationLadder().level(-1), "rungs count from 0"),
        (lambda: check_level(True), "must be an integer \\(iterations\\) or a number"),
        (lambda: check_level("3"), "must be an integer \\(iterations\\) or a number"),
        (lambda: check_level(0), "at least 1"),
    ],
)
def test_ladders_that_do_not_refine(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.integers(1, 10_000), st.floats(1e-3, 1))
def test_looser_iterations_are_the_share_of_them(iterations, factor):
    level = looser(iterations, factor)
    assert type(level) is int
    assert 1 <= level <= iterations
    assert level == 1 or abs(level - iterations * factor) <= 0.5
    assert looser(iterations, 1) == iterations


@given(st.floats(1e-12, 0.99), st.floats(1e-3, 1))
def test_a_looser_tolerance_is_larger_by_the_factor(tolerance, factor):
    level = looser(tolerance, factor)
    assert type(level) is float
    assert tolerance <= level < 1
    assert level == pytest.approx(tolerance / factor) or level == max(0.5, tolerance)


@given(st.floats(1e-3, 1), st.integers(0, 20))
def test_a_looser_ladder_is_as_long_and_never_coarsens(factor, rung):
    for ladder in (IterationLadder(2, 3, 40), ToleranceLadder(0.3, 0.2, 1e-7)):
        other = LooserLadder(ladder, factor)
        assert other.top == ladder.top
        assert other.level(rung) == looser(ladder.level(rung), factor)
        signs = {(b > a) - (b < a) for a, b in pairwise(rungs(other))}
        assert len(signs - {0}) <= 1


@pytest.mark.parametrize("factor", [0, -1, 1.5, float("nan")])
def test_factors_that_do_not_loosen(factor):
    with pytest.raises(ValueError, match="must be a finite number above 0 and at most 1"):
        LooserLadder(IterationLadder(), factor)
    with pytest.raises(ValueError, match="must be a finite number above 0 and at most 1"):
        looser(5, factor)
