"""Correctness: the coordinator follows the rule of the paper for any errors, and continues
correctly after a restart.
"""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prdp_hpc.refinement import (
    Coordinator,
    ExplicitLadder,
    IterationLadder,
    RefinementError,
    ToleranceLadder,
)

errors = st.one_of(
    st.lists(st.floats(1e-12, 1e6), max_size=40),
    # Slow decay with noise: a range in which plateaus, gains and the end of refinement all occur.
    st.lists(st.floats(0.7, 1.1), max_size=60).map(
        lambda factors: [math.prod(factors[:i]) for i in range(len(factors))]
    ),
    st.lists(st.sampled_from([0.0, 1.0, 0.5, 1e-300, 1e300]), max_size=20),
)
ladders = st.one_of(
    st.builds(IterationLadder, st.integers(1, 5), st.integers(1, 4), st.integers(5, 20)),
    st.builds(ToleranceLadder, st.floats(0.1, 0.5), st.floats(0.05, 0.9), st.floats(1e-6, 1e-2)),
    st.lists(st.integers(1, 50), min_size=1, max_size=6, unique=True).map(
        lambda levels: ExplicitLadder(sorted(levels))
    ),
)
parameters = st.fixed_dictionaries(
    {
        "step_threshold": st.floats(0.5, 1.1),
        "stop_threshold": st.floats(0.3, 1.1),
        "ema_window": st.integers(1, 10),
        "error_window": st.integers(1, 6),
    }
)


def rule(history, checkpoint, step_threshold, stop_threshold, ema_window, error_window):
    """The rule of the paper, written independently from its text: (refine, new checkpoint)."""
    if len(history) <= error_window:
        return False, checkpoint
    alpha = 2.0 / (ema_window + 1)
    ema = [history[0]]
    for error in history[1:]:
        ema.append(alpha * error + (1.0 - alpha) * ema[-1])
    # a / b with the limits of IEEE arithmetic, and equal for two zeros
    r, c = (
        ema[-1] / b if b else (math.inf if ema[-1] else 1.0)
        for b in (ema[-error_window], checkpoint)
    )
    if r > step_threshold and (c < stop_threshold or c > 1):
        return True, ema[-1]
    return False, checkpoint


@settings(max_examples=300)
@given(errors, ladders, parameters)
def test_decisions_are_those_of_the_rule_on_the_whole_history(history, ladder, parameters):
    coordinator = Coordinator(ladder, **parameters)
    rung, checkpoint = 0, 100.0
    for count in range(1, len(history) + 1):
        up, checkpoint = rule(history[:count], checkpoint, **parameters)
        before, rung = rung, min(rung + up, ladder.top)
        assert coordinator.observe(history[count - 1]) == (rung > before)
        assert coordinator.level == coordinator.adjoint_level == ladder.level(rung)
        assert coordinator.checkpoint == checkpoint


def test_the_rule_refines_stops_and_starts_again():
    coordinator = Coordinator(IterationLadder(1, 1, 9), ema_window=1, error_window=2)
    plateau, payoff, worse = [1.0] * 4, [0.5, 0.5, 0.5], [0.7, 0.7]
    levels = []
    for error in [*plateau, *payoff, *worse]:
        coordinator.observe(error)
        levels.append(coordinator.level)
    # refined on the plateau, not again without a gain, again after the gain, and again when the
    # error grows
    assert levels == [1, 1, 2, 2, 2, 3, 3, 4, 4]


@given(errors, parameters, st.integers(0, 40), st.booleans())
def test_state_continues_in_the_middle(history, parameters, cut, through_json):
    ladder, adjoint = IterationLadder(1, 2, 12), IterationLadder(2, 1, 4)
    whole = Coordinator(ladder, **parameters, adjoint_ladder=adjoint)
    first = Coordinator(ladder, **parameters, adjoint_ladder=adjoint)
    for error in history[:cut]:
        assert whole.observe(error) == first.observe(error)
    state = first.state_dict()
    second = Coordinator(ladder, **parameters, adjoint_ladder=adjoint)
    second.load_state_dict(json.loads(json.dumps(state)) if through_json else state)
    for error in history[cut:]:
        assert whole.observe(error) == second.observe(error)
        assert (whole.level, whole.adjoint_level) == (second.level, second.adjoint_level)
    assert second.state_dict() == whole.state_dict()
    assert state == first.state_dict()  # the loaded state is not shared


def test_a_shorter_adjoint_ladder_stays_at_its_finest_level():
    coordinator = Coordinator(
        IterationLadder(1, 1, 4),
        ema_window=1,
        error_window=1,
        adjoint_ladder=ExplicitLadder([0.1, 0.01]),
    )
    levels = []
    for error in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        coordinator.observe(error)
        levels.append((coordinator.level, coordinator.adjoint_level))
    assert levels == [(1, 0.1), (2, 0.01), (3, 0.01), (4, 0.01), (4, 0.01), (4, 0.01)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_error_that_is_not_finite_is_raised_and_changes_nothing(bad):
    coordinator = Coordinator(IterationLadder(3, 1, 9))
    for error in (3.0, 2.0):
        coordinator.observe(error)
    before = coordinator.state_dict()
    with pytest.raises(
        RefinementError, match=rf"error number 2 is {bad}, at level 3.*diverged.*learning rate"
    ):
        coordinator.observe(bad)
    assert coordinator.state_dict() == before


@pytest.mark.parametrize("name", ["step_threshold", "stop_threshold"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_thresholds_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0"):
        Coordinator(IterationLadder(), **{name: value})


@pytest.mark.parametrize("name", ["ema_window", "error_window"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True])
def test_windows_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        Coordinator(IterationLadder(), **{name: value})
