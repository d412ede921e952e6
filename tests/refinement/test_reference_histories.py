"""Accuracy: for the authors' validation errors the coordinator chooses the authors' levels, epoch
by epoch.
"""

import json

import pytest
from reference_data import reference

from prdp_hpc.refinement import Coordinator, IterationLadder


@pytest.mark.parametrize("seed", [1, 2, 25])
def test_levels_are_the_authors(seed):
    (run,) = [
        r
        for r in json.loads(reference("heat_1d_results.json").read_text())["runs"]
        if r["mode"] == "prdp" and r["seed"] == seed
    ]
    coordinator = Coordinator(IterationLadder(1, 1, 25), ema_window=8, error_window=3)
    chosen = [None]
    for _, error_2 in run["error"]:
        coordinator.observe(error_2)
        chosen.append(coordinator.level)
    assert chosen[: len(run["K"])] == run["K"]
    assert run["K"][-1] >= 9
