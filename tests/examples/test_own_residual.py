"""Usability: the example finds k and e, with the same numbers on 1 and 2 ranks."""

import re
import subprocess
import sys

import pytest
import tiny

SCRIPT = tiny.REPOSITORY / "examples" / "own_residual" / "fit_radiation.py"


@pytest.mark.xdist_group("ranks")
def test_conductivity_and_emissivity_are_found():
    results = []
    for start in ([], [str(tiny.BIN / "mpiexec"), "-n", "2"]):
        ended = subprocess.run(
            [*start, sys.executable, str(SCRIPT)],
            capture_output=True,
            text=True,
            timeout=90,
            env=tiny.environment(),
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        found = re.findall(r"k = ([\d.]+), e = ([\d.]+)", ended.stdout)
        results.append([float(number) for pair in found for number in pair])
    assert results[0][:4] == pytest.approx(results[1][:4], abs=2e-4)
    for result in results:
        assert result[-2:] == pytest.approx([0.2, 0.5], abs=2e-4)
