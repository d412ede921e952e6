"""Usability: the example finds the conductivities, with the same numbers on 1 and 2 ranks."""

import re
import runpy
import sys

import pytest
import tiny

FOLDER = tiny.REPOSITORY / "examples" / "petsc_matrix"


def test_the_conductivities_are_found(capsys, monkeypatch, two_ranks):
    script, results = str(FOLDER / "fit_conductivity.py"), []
    monkeypatch.setattr(sys, "argv", [script])
    runpy.run_path(script, run_name="__main__")
    (done,) = two_ranks([[script]])
    assert done.codes == [0, 0], done.stderr
    for output in (capsys.readouterr().out, done.stdout):
        found = re.findall(r"kx = ([\d.]+), ky = ([\d.]+)", output)
        assert len(found) == 5
        results.append([float(number) for pair in found for number in pair])
    assert results[0] == pytest.approx(results[1], abs=2e-4)
    assert results[0][-2:] == pytest.approx([2.0, 0.5], rel=5e-3)


def test_the_example_is_short():
    assert len((FOLDER / "fit_conductivity.py").read_text().splitlines()) <= 80
