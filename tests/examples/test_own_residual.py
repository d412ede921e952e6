"""Usability: the example finds k and e, with the same numbers on 1 and 2 ranks."""

import re
import runpy
import sys

import pytest
import tiny

SCRIPT = tiny.REPOSITORY / "examples" / "own_residual" / "fit_radiation.py"


def test_conductivity_and_emissivity_are_found(capsys, monkeypatch, two_ranks):
    results = []
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    (done,) = two_ranks([[SCRIPT]])
    assert done.codes == [0, 0], done.stderr
    for output in (capsys.readouterr().out, done.stdout):
        found = re.findall(r"k = ([\d.]+), e = ([\d.]+)", output)
        results.append([float(number) for pair in found for number in pair])
    assert results[0][:4] == pytest.approx(results[1][:4], abs=2e-4)
    for result in results:
        assert result[-2:] == pytest.approx([0.2, 0.5], abs=2e-4)
