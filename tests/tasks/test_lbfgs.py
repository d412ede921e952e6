"""Accuracy: L-BFGS and its line search."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prdp_hpc.errors import InputError
from prdp_hpc.tasks.inversion.lbfgs import LBFGS
from prdp_hpc.tasks.inversion.line_search import CURVATURE, DECREASE, Trial, strong_wolfe


def search(function, start, steps, **keys):
    parameter = nn.Parameter(torch.as_tensor(start, dtype=torch.float64))
    optimizer = LBFGS([parameter], **keys)

    def closure():
        loss = function(parameter)
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(steps)]
    return parameter.detach(), losses


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_minimum_of_a_quadratic():
    """With as many pairs as unknowns the result is that of conjugate gradients."""
    matrix = torch.from_numpy(np.diag(np.logspace(0, 2, 6)))
    right = torch.arange(1.0, 7.0).double()
    found, losses = search(lambda x: 0.5 * x @ matrix @ x - right @ x, torch.zeros(6), 25)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), atol=1e-6, rtol=1e-6)
    assert losses == sorted(losses, reverse=True)


def test_rosenbrocks_valley():
    found, losses = search(rosenbrock, [-1.2, 1.0, 0.5, -0.3], 80)
    torch.testing.assert_close(found, torch.ones(4).double(), atol=1e-5, rtol=0)
    assert all(b <= a for a, b in pairwise(losses))


def test_a_minimum_stays():
    found, losses = search(rosenbrock, [1.0, 1.0], 3)
    assert found.tolist() == [1.0, 1.0]
    assert losses == [0.0] * 3


def test_the_state_continues_with_the_same_numbers():
    x = nn.Parameter(torch.tensor([-1.2, 1.0]).double())
    first = LBFGS([x], history=3)

    def closure():
        loss = rosenbrock(x)
        loss.backward()
        return loss.item()

    for _ in range(7):
        first.step(closure)
    state, here = first.state_dict(), x.detach().clone()
    after = [(first.step(closure), x.tolist()) for _ in range(5)]
    with torch.no_grad():
        x.copy_(here)
    second = LBFGS([x], history=3)
    second.load_state_dict(state)
    assert [(second.step(closure), x.tolist()) for _ in range(5)] == after


def test_numbers_out_of_range_are_rejected():
    for keys in ({"lr": 0.0}, {"history": 0}, {"evaluations": 0}):
        with pytest.raises(InputError, match=f"{next(iter(keys))} must be"):
            LBFGS([nn.Parameter(torch.zeros(1))], **keys)


@given(st.floats(0.05, 20.0), st.floats(0.01, 100.0), st.floats(-3.0, 3.0), st.floats(0.0, 2.0))
def test_a_step_fulfils_the_strong_wolfe_conditions(minimum, first, phase, ripple):
    """Along a parabola with ripples that decrease at 0."""

    def at(t):
        value = (t - minimum) ** 2 + ripple * np.sin(t + phase)
        return Trial(t, value, 2 * (t - minimum) + ripple * np.cos(t + phase))

    start = at(0.0)
    if start.slope >= -1e-3:
        return
    found = strong_wolfe(at, start, first, 60)
    assert found is not None
    assert found.value <= start.value + DECREASE * found.step * start.slope
    assert abs(found.slope) <= -CURVATURE * start.slope


def test_a_function_that_only_grows_has_no_step():
    assert strong_wolfe(lambda t: Trial(t, t, 1.0), Trial(0.0, 0.0, -1.0), 1.0, 10) is None
