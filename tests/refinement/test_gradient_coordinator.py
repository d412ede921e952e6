"""Correctness: for gradients with known errors, the coordinator finds the coarsest levels that pass
its test; it coarsens if the accuracy is higher than needed, and continues from its state.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prdp_hpc.refinement import (
    GradientCoordinator,
    IterationLadder,
    LooserLadder,
    MeasuredGradient,
    RefinementError,
    ToleranceLadder,
)

TOP = 40
LADDER = IterationLadder(1, 1, TOP)


class Problem:
    """Gradients `g + c ρ^K u + a α^Ka v` with orthonormal directions, and the measured levels."""

    def __init__(self, c, rho, variance=0.0, norm=1.0, a=0.0, alpha=0.5, make=np.array):
        self.c, self.rho, self.variance, self.norm = c, rho, variance, norm
        self.a, self.alpha, self.make, self.levels = a, alpha, make, []

    def measure(self, level, adjoint_level):
        self.levels.append((level, adjoint_level))
        return MeasuredGradient(self.make(self.vector(level, adjoint_level)), self.variance)

    def vector(self, level, adjoint_level):
        return [self.norm, self.c * self.rho**level, self.a * self.alpha**adjoint_level]

    def passes(self, level, theta, theta_noise):
        """Whether the test holds at a level of forward solves."""
        here, finer = (np.array(self.vector(k, TOP)) for k in (level, min(2 * level, TOP)))
        limit = max(theta**2 * (here**2).sum(), theta_noise**2 * self.variance)
        return ((here - finer) ** 2).sum() <= limit

    def coarsest(self, theta, theta_noise):
        """The coarsest level that passes the test."""
        levels = range(1, TOP + 1)
        return next((k for k in levels if self.passes(k, theta, theta_noise)), TOP)

    def fine_enough(self, theta, theta_noise, part):
        """The coarsest level whose error against the exact gradient is below a fraction of the
        limit from the exact gradient.
        """
        limit = part * max(theta * self.norm, theta_noise * math.sqrt(self.variance))
        levels = range(1, TOP + 1)
        return next((k for k in levels if self.c * self.rho**k <= limit), TOP)


problems = st.builds(
    Problem,
    c=st.floats(0.01, 50),
    rho=st.floats(0.2, 0.95),
    variance=st.floats(0, 3),
)
thetas = st.floats(0.05, 0.9)


def settled(coordinator, problem, probes=60):
    """The levels after some probes."""
    for _ in range(probes):
        coordinator.probe(problem.measure)
    return coordinator.level


@settings(max_examples=150, deadline=None)
@given(problems, thetas, st.floats(0.1, 2))
def test_from_below_the_coarsest_level_that_passes_is_found(problem, theta, theta_noise):
    coordinator = GradientCoordinator(LADDER, theta=theta, theta_noise=theta_noise)
    level = settled(coordinator, problem)
    assert problem.coarsest(theta, theta_noise) <= level
    # Coarsening stops within one rung of the level that holds with half the limit.
    assert level <= problem.fine_enough(theta, theta_noise, 0.5) + 1


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 50), st.floats(0.2, 0.95), st.floats(0.05, 0.9), st.floats(0.1, 3))
def test_with_known_noise_the_level_is_that_of_the_test_within_one_rung(c, rho, theta, noise):
    """If the noise determines the limit, no gradient changes it."""
    problem = Problem(c, rho, variance=noise**2, norm=1e-3)
    coordinator = GradientCoordinator(LADDER, theta=1e-3, theta_noise=theta)
    exact = problem.coarsest(1e-3, theta)
    before = coordinator.level
    for _ in range(30):
        refined = coordinator.probe(problem.measure)
        assert refined == (coordinator.level != before)
        before = coordinator.level
        if not refined:
            break
    # The extrapolation does not account for the end of the ladder, since it compares with the exact
    # gradient.
    assert exact <= coordinator.level <= problem.fine_enough(1e-3, theta, 1.0) + 1


@settings(max_examples=60, deadline=None)
@given(problems, thetas)
def test_equal_thetas_are_the_norm_test(problem, theta):
    coordinator = GradientCoordinator(LADDER, theta=theta, theta_noise=theta)
    changed = coordinator.probe(problem.measure)
    here, finer = (np.array(problem.vector(k, 1)) for k in (1, 2))
    limit = theta**2 * max((here**2).sum(), problem.variance)
    assert changed == (((here - finer) ** 2).sum() > limit)


@settings(max_examples=60, deadline=None)
@given(problems, thetas)
def test_slack_is_loosened_one_rung_in_two_probes(problem, theta):
    fine = GradientCoordinator(LADDER, theta=theta)
    start = {"rung": TOP - 1, "slack": 0, "matters": True}
    fine.load_state_dict({**fine.state_dict(), "forward": start, "adjoint": start})
    for _ in range(2 * TOP + 10):
        before, unchanged = fine.level, not fine.probe(problem.measure)
        assert before - fine.level <= 1
        if before > fine.level:
            assert unchanged is False
            before_last = fine.level
            fine.probe(problem.measure)
            assert fine.level >= before_last  # not two consecutive probes
    assert fine.level <= problem.fine_enough(theta, 1.0, 0.5) + 1
    assert fine.level >= problem.coarsest(theta, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 20), st.floats(0.2, 0.8), st.floats(0.1, 0.9))
def test_adjoint_solves_are_refined_alone(a, alpha, theta):
    problem = Problem(c=0.0, rho=0.5, a=a, alpha=alpha)
    coordinator = GradientCoordinator(LADDER, theta=theta)
    settled(coordinator, problem)
    assert coordinator.level == 1
    mirrored = Problem(c=a, rho=alpha)
    level = coordinator.adjoint_level
    assert mirrored.coarsest(theta, 1.0) <= level <= mirrored.fine_enough(theta, 1.0, 0.5) + 1
    assert all(forward <= 2 for forward, _ in problem.levels)


def test_adjoint_solves_without_effect_are_tested_once():
    problem = Problem(c=5.0, rho=0.7)
    coordinator = GradientCoordinator(LADDER)
    settled(coordinator, problem)
    assert sum(adjoint > 1 for _, adjoint in problem.levels) == 1
    assert coordinator.adjoint_level == 1


def test_levels_that_a_looser_ladder_repeats_are_passed_over():
    """With half as many iterations, two neighbouring rungs have the same level."""
    problem = Problem(c=0.0, rho=0.5, a=10.0, alpha=0.6)
    coordinator = GradientCoordinator(LADDER, LooserLadder(LADDER, 0.5), theta=0.1)
    settled(coordinator, problem)
    exact = Problem(c=10.0, rho=0.6).coarsest(0.1, 1.0)
    assert exact <= coordinator.adjoint_level <= exact + 2


def test_tolerances_are_compared_with_the_next_one():
    problem = Problem(c=1.0, rho=0.5)
    problem.vector = lambda level, adjoint_level: [1.0, 3.0 * level, 0.0]
    coordinator = GradientCoordinator(ToleranceLadder(1e-1, 1e-1, 1e-8), theta=0.01)
    settled(coordinator, problem, 20)
    # ‖g_K − g_L‖ = 2.7 K against 0.01
    assert coordinator.level == pytest.approx(1e-3)


@given(problems, st.integers(0, 12))
def test_state_continues_in_the_middle(problem, cut):
    whole, first, second = (GradientCoordinator(LADDER, theta=0.2) for _ in range(3))

    def go(coordinator, numbers):
        found = []
        for number in numbers:
            problem.c = 5.0 * 0.7**number
            coordinator.observe(1.0)
            if coordinator.probe_due(100 * number, 7 * number):
                coordinator.probe(problem.measure)
            found.append((coordinator.level, coordinator.adjoint_level))
        return found

    levels = go(whole, range(24))
    go(first, range(cut))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert go(second, range(cut, 24)) == levels[cut:]


@given(st.floats(0.02, 0.5), st.integers(1, 500))
def test_probes_take_their_share(share, cost):
    """At a constant level, all probes but the first use at most the share of training."""
    coordinator = GradientCoordinator(IterationLadder(4, 1, 4), probe_share=share)
    problem = Problem(c=1.0, rho=0.5)
    trained = probed = count = 0
    for _ in range(300):
        if coordinator.probe_due(trained, probed):
            coordinator.probe(problem.measure)
            probed += cost
            count += 1
        trained += 100
    assert (count - 1) * cost <= share * trained + 1e-9
    assert count >= math.floor(share * trained / (cost + 100 * share))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"theta": 0.0}, "theta"),
        ({"theta": 1.0}, "theta"),
        ({"theta_noise": 0.0}, "theta_noise"),
        ({"theta_noise": math.inf}, "theta_noise"),
        ({"probe_share": 1.5}, "probe_share"),
    ],
)
def test_parameters_out_of_range(keys, name):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        GradientCoordinator(LADDER, **keys)


def test_numbers_that_are_not_finite():
    coordinator = GradientCoordinator(LADDER)
    with pytest.raises(RefinementError, match="squared norm of the gradient number 0 is nan"):
        coordinator.probe(Problem(c=math.nan, rho=0.5).measure)
    with pytest.raises(RefinementError, match="validation error number 0 is inf"):
        coordinator.observe(math.inf)


def test_vectors_of_torch_and_numpy_are_summed_in_double_precision():
    entries = [1.0, 1e-5, 1e-5]
    for vector in (torch.tensor(entries), np.array(entries, dtype=np.float32)):
        found = MeasuredGradient(vector)
        assert found.squared_norm() - 1.0 == pytest.approx(2e-10, rel=1e-4)
        assert found.squared_distance(MeasuredGradient(0 * vector)) == found.squared_norm()


def test_all_ranks_decide_by_the_numbers_that_they_agree_on():
    """Rounding that differs between ranks must not lead to different levels."""
    agreed = []

    def agree(number):
        agreed.append(number)
        return 1e3  # far above any limit from the vectors

    found = MeasuredGradient(np.array([1.0]), 0.0, agree)
    assert (found.squared_norm(), found.squared_distance(found)) == (1e3, 1e3)
    assert agreed == [1.0, 0.0]
