"""Property: the example finds the same improved slab on any number of ranks."""

import pytest
import tiny

EXAMPLE = tiny.REPOSITORY / "examples" / "finite_elements" / "slab.py"


def compliances(ranks):
    """The output of the example, by step."""
    done = tiny.python(ranks, EXAMPLE)
    return [float(line.split()[-1]) for line in done.stdout.splitlines()]


def test_the_slab_gets_better_and_does_not_depend_on_the_ranks():
    whole, divided = compliances(1), compliances(2)
    assert whole == sorted(whole, reverse=True)
    assert whole[-1] < whole[0] / 5
    assert divided == pytest.approx(whole, rel=1e-5)


def test_the_example_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 80
