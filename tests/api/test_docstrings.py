"""Usability: each public name is documented in numpydoc's form, with an example that runs."""

import doctest

import docstrings
import pytest

import prdp_hpc
from prdp_hpc.distributed.signals import take_held

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAMES = prdp_hpc.__all__


@pytest.mark.parametrize("name", NAMES)
def test_numpydoc_finds_nothing(name):
    assert docstrings.problems_of(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_arrays_have_shapes(name):
    assert docstrings.arrays_without_shape(getattr(prdp_hpc, name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_listed(name):
    thing = getattr(prdp_hpc, name)
    if docstrings.raises_errors(thing):
        assert docstrings.sections_of(thing)["Raises"], f"{name} raises errors; list them"


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name, tmp_path, monkeypatch):
    thing = getattr(prdp_hpc, name)
    assert ">>>" in "".join(docstrings.sections_of(thing)["Examples"]), f"{name} has no example"
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(thing, name, globs={}):
        run(test)


def test_examples_of_modules_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in docstrings.modules_with_examples():
        run(doctest.DocTestParser().get_doctest(module.__doc__, {}, module.__name__, None, 0))


def run(test):
    """Run one docstring's examples; the report names the lines that differ."""
    report = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append)
    take_held()  # the example of PreemptionWatch leaves a signal for the next run
    assert report == [], "".join(report)
