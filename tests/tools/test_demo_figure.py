"""The README's figure shows the runs of `make demo`."""

import runpy

import tiny

from prdp_hpc.config import load_config
from prdp_hpc.config.variants import variants


def test_its_runs_are_those_of_the_demo():
    config = load_config(tiny.REPOSITORY / "configs" / "field_inversion_3d.yaml")
    names = runpy.run_path(str(tiny.REPOSITORY / "tools" / "docs" / "demo_figure.py"))["RUNS"]
    assert set(names) == set(variants(config))
