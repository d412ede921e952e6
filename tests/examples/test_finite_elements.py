"""Property: the example finds the same improved slab on any number of ranks."""

import runpy
import sys

import pytest
import tiny

EXAMPLE = tiny.REPOSITORY / "examples" / "finite_elements" / "slab.py"


def compliances(output):
    """The output of the example, by step."""
    return [float(line.split()[-1]) for line in output.splitlines()]


def test_the_slab_gets_better_and_does_not_depend_on_the_ranks(capsys, monkeypatch, two_ranks):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])  # not the arguments of pytest
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (done,) = two_ranks([[EXAMPLE]])
    assert done.codes == [0, 0], done.stderr
    whole, divided = compliances(capsys.readouterr().out), compliances(done.stdout)
    assert whole == sorted(whole, reverse=True)
    assert whole[-1] < whole[0] / 5
    assert divided == pytest.approx(whole, rel=1e-5)


def test_the_example_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 80
