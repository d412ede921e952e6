"""Correctness: manual schedules have each level for the given epochs."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prdp_hpc.refinement import ConstantSchedule, ManualSchedule, RefinementError

tables = st.dictionaries(st.integers(1, 15), st.integers(1, 9), max_size=4).map(
    lambda table: {0: 2, **table}
)


def trained(schedule, epochs):
    """The levels of epochs 1 to `epochs`, and whether each change was reported."""
    levels, before = [], schedule.level
    for _ in range(epochs):
        changed = schedule.observe(1.0)
        assert changed == (schedule.level != before)
        before = schedule.level
        levels.append(before)
    return levels


@given(tables)
def test_levels_by_epochs_trained_so_far(table):
    expected = [table[max(start for start in table if start <= done)] for done in range(20)]
    assert trained(ManualSchedule(table), 20) == expected


@given(tables, st.integers(0, 10))
def test_state_continues_in_the_middle(table, cut):
    whole, first, second = ManualSchedule(table), ManualSchedule(table), ManualSchedule(table)
    trained(first, cut)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert trained(whole, 20)[cut:] == trained(second, 20 - cut)


def test_adjoint_levels_change_independently():
    schedule = ManualSchedule({0: 4}, {0: 1, 1: 3})
    assert (schedule.level, schedule.adjoint_level) == (4, 1)
    assert [schedule.observe(1.0), schedule.observe(1.0)] == [False, True]
    assert (schedule.level, schedule.adjoint_level) == (4, 3)


def test_constant():
    schedule = ConstantSchedule(1e-3, adjoint_level=7)
    assert trained(schedule, 5) == [1e-3] * 5
    assert schedule.adjoint_level == 7
    assert ConstantSchedule(3).adjoint_level == 3


@pytest.mark.parametrize("schedule", [ConstantSchedule(3), ManualSchedule({0: 3})])
def test_an_error_that_is_not_a_number(schedule):
    with pytest.raises(RefinementError, match="error number 0 is nan, at level 3"):
        schedule.observe(math.nan)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({}, "level for epoch 0"),
        ({1: 2}, r"level for epoch 0, but its epochs are \[1\]"),
        ({0: 1, -1: 2}, "an epoch of a manual schedule must be an integer of at least 0, not -1"),
        ({0: 0}, "at least 1"),
        ({0: 1, 5: 1.5}, "between 0 and 1"),
    ],
)
def test_invalid_tables(levels, message):
    with pytest.raises(ValueError, match=message):
        ManualSchedule(levels)
