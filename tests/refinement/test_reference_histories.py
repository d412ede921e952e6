"""Accuracy: for the authors' validation errors the coordinator chooses the authors' levels, epoch
by epoch.
"""

import json
from pathlib import Path

import pytest

from prdp_hpc.refinement import Coordinator, IterationLadder

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "heat_1d_results.json"


@pytest.mark.skipif(
    not REFERENCE.exists(), reason=f"the authors' results are not there: {REFERENCE}"
)
@pytest.mark.parametrize("seed", [1, 2, 25])
def test_levels_are_the_authors(seed):
    (run,) = [
        r
        for r in json.loads(REFERENCE.read_text())["runs"]
        if r["mode"] == "prdp" and r["seed"] == seed
    ]
    coordinator = Coordinator(IterationLadder(1, 1, 25), ema_window=8, error_window=3)
    chosen = [None]
    for _, error_2 in run["error"]:
        coordinator.observe(error_2)
        chosen.append(coordinator.level)
    assert chosen[: len(run["K"])] == run["K"]
    assert run["K"][-1] >= 9
