"""Usability: the example recovers an initial state, with fewer iterations under PRDP, on any number
of ranks.
"""

import re
import runpy
import sys

import pytest
import tiny

EXAMPLE = tiny.REPOSITORY / "examples" / "initial_state" / "recover.py"
SMALL = ("--size", "6", "--steps", "3", "--checkpoints", "2", "--epochs", "6")


def numbers(output):
    """Errors and iterations of both runs, the savings, and the initial error."""
    return [float(n) for line in output.splitlines() for n in re.findall(r"[\d.]+\d", line)]


def test_the_initial_state_is_recovered(capsys, monkeypatch, two_ranks):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *SMALL])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    whole = numbers(capsys.readouterr().out)
    error, iterations, prdp_error, prdp_iterations, saved, start = whole
    assert error < 0.8 * start
    assert prdp_error < 1.3 * error
    assert saved == pytest.approx(100 * (1 - prdp_iterations / iterations), abs=0.1)
    assert prdp_iterations < iterations / 2
    (done,) = two_ranks([[EXAMPLE, *SMALL]])
    assert done.codes == [0, 0], done.stderr
    divided = numbers(done.stdout)
    assert divided == pytest.approx(whole, rel=1e-2)
