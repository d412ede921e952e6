"""Usability: the example finds the conductivities, with the same numbers on 1 and 2 ranks."""

import re
import subprocess
import sys

import pytest
import tiny

FOLDER = tiny.REPOSITORY / "examples" / "petsc_matrix"


@pytest.mark.xdist_group("ranks")
def test_the_conductivities_are_found():
    command = [sys.executable, str(FOLDER / "fit_conductivity.py")]
    results = []
    for start in ([], [str(tiny.BIN / "mpiexec"), "-n", "2"]):
        ended = subprocess.run(
            [*start, *command],
            capture_output=True,
            text=True,
            timeout=90,
            env=tiny.environment(),
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found = re.findall(r"kx = ([\d.]+), ky = ([\d.]+)", ended.stdout)
        assert len(found) == 5
        results.append([float(number) for pair in found for number in pair])
    assert results[0] == pytest.approx(results[1], abs=2e-4)
    assert results[0][-2:] == pytest.approx([2.0, 0.5], rel=5e-3)


def test_the_example_is_short():
    assert len((FOLDER / "fit_conductivity.py").read_text().splitlines()) <= 80
